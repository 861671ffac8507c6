"""The token bucket that rates are kept by: pyrate-limiter's, as a pure function."""

from __future__ import annotations

from functools import cache

from pyrate_limiter import Rate, TokenBucket

from hive_ray.core.rates import MINUTE_MS, State, Verdict

_ALGORITHM = TokenBucket()


def take(limit: int, state: State | None, units: int, now_ms: int) -> tuple[Verdict, State]:
    """Take units out of a bucket that holds ``limit`` and fills in a minute; negative units go back."""
    rates = _rates(limit)
    after, decision = _ALGORITHM.step(rates, state or _ALGORITHM.initial(rates), now_ms, units)
    return decision, after


@cache
def _rates(limit: int) -> list[Rate]:
    return [Rate(limit, MINUTE_MS)]
