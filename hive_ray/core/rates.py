"""How much may begin in a minute: token buckets of pools, models and tools.

The buckets' state is not in the journal: it ages within a minute. After a restart they begin empty, so that
no more is let through than without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hive_ray.core.plan import InForce

MINUTE_MS = 60_000


class Verdict(Protocol):
    """Whether a bucket lets something through."""

    @property
    def allowed(self) -> bool: ...

    @property
    def retry_after_ms(self) -> int | None: ...


State = tuple[float, ...]
Bucket = Callable[[int, State | None, int, int], tuple[Verdict, State]]
"""One step: (units a minute, state, units wanted, now in ms) to a verdict and the new state."""


class Late(NamedTuple):
    """A bucket is empty."""

    resource: str
    due_us: int
    """Monotonic time from which it may be asked again."""


class Rates:
    """The buckets of an incarnation.

    Args:
        step: the algorithm; pure.
    """

    def __init__(self, step: Bucket) -> None:
        self._step = step
        self._states: dict[tuple[str, str], State] = {}
        self._empty_since_ms = -1

    def begin_empty(self, mono_us: int) -> None:
        """The buckets were in use up to now, nobody knows how much."""
        self._empty_since_ms = mono_us // 1000

    def take(self, force: InForce, names: Sequence[str], tokens: int, mono_us: int) -> Late | None:
        """Take one request and so many tokens from every bucket, or nothing from any.

        A request that is larger than its bucket takes the whole bucket.
        """
        now_ms = mono_us // 1000
        taken: list[tuple[tuple[str, str], State]] = []
        for name in names:
            plan = force.rate(name)
            if plan is None:
                continue
            for kind, limit, weight in (
                ("requests", plan.requests_per_minute, 1),
                ("tokens", plan.tokens_per_minute, tokens),
            ):
                if not limit or not weight:
                    continue
                key = (name, kind)
                verdict, state = self._step(limit, self._state(key, limit), min(weight, limit), now_ms)
                if not verdict.allowed:
                    wait_ms = max(1, verdict.retry_after_ms or 1)
                    return Late(f"rate/{name}", mono_us + 1000 * wait_ms)
                taken.append((key, state))
        self._states.update(taken)
        return None

    def give_back(self, force: InForce, names: Sequence[str], tokens: int, mono_us: int) -> None:
        """A call used fewer tokens than it took."""
        for name in names:
            plan = force.rate(name)
            limit = plan.tokens_per_minute if plan is not None else 0
            key = (name, "tokens")
            if limit and key in self._states:
                weight = -min(tokens, limit)
                _, self._states[key] = self._step(limit, self._states[key], weight, mono_us // 1000)

    def _state(self, key: tuple[str, str], limit: int) -> State | None:
        state = self._states.get(key)
        if state is None and self._empty_since_ms >= 0:
            _, state = self._step(limit, None, limit, self._empty_since_ms)
        return state
