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


TENTHS_A_MINUTE = 600
REQUESTS, TOKENS = "requests", "tokens"
Key = tuple[str, str]
"""Name of what is limited, and ``requests`` or ``tokens``."""
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
        self._states: dict[Key, State] = {}
        self._hand: dict[Key, int] = {}
        """Units that were drawn from a bucket and not used."""
        self._empty_since_ms = -1
        self._force: InForce | None = None
        """What ``_found`` rests on."""
        self._found: dict[tuple[str, ...], tuple[tuple[Key, int], ...]] = {}

    def begin_empty(self, mono_us: int) -> None:
        """The buckets were in use up to now, nobody knows how much."""
        self._empty_since_ms = mono_us // 1000

    def take(self, force: InForce, names: tuple[str, ...], tokens: int, mono_us: int) -> Late | None:
        """Take one request and so many tokens from every bucket, or nothing from any.

        A request that is larger than its bucket takes the whole bucket.
        """
        wanted: list[tuple[Key, int]] = []
        for key, limit in self._limits(force, names):
            units = 1 if key[1] is REQUESTS else min(tokens, limit)
            if not units:
                continue
            if self._hand.get(key, 0) < units:
                wait_ms = self._draw(key, limit, units, mono_us // 1000)
                if wait_ms:
                    return Late(f"rate/{key[0]}", mono_us + 1000 * wait_ms)
            wanted.append((key, units))
        for key, units in wanted:
            self._hand[key] -= units
        return None

    def _limits(self, force: InForce, names: tuple[str, ...]) -> tuple[tuple[Key, int], ...]:
        """The buckets that there are under some names, with their units a minute."""
        if force is not self._force:
            self._force, self._found = force, {}
        found = self._found.get(names)
        if found is None:
            found = self._found[names] = tuple(
                ((name, kind), limit)
                for name in names
                if (plan := force.rate(name)) is not None
                for kind, limit in ((REQUESTS, plan.requests_per_minute), (TOKENS, plan.tokens_per_minute))
                if limit
            )
        return found

    def _draw(self, key: Key, limit: int, units: int, now_ms: int) -> int:
        """Have so many units in hand: milliseconds until that is possible, 0 if it is done.

        Of a bucket from which many are taken in a second, a tenth of a second's worth is drawn at once.
        """
        missing = units - self._hand.get(key, 0)
        weight = max(missing, limit // TENTHS_A_MINUTE)
        verdict, state = self._step(limit, self._state(key, limit), weight, now_ms)
        if not verdict.allowed and weight > missing:
            weight = missing
            verdict, state = self._step(limit, self._state(key, limit), weight, now_ms)
        if not verdict.allowed:
            return max(1, verdict.retry_after_ms or 1)
        self._states[key] = state
        self._hand[key] = self._hand.get(key, 0) + weight
        return 0

    def give_back(self, force: InForce, names: Sequence[str], tokens: int, mono_us: int) -> None:
        """A call used fewer tokens than it took."""
        for name in names:
            plan = force.rate(name)
            limit = plan.tokens_per_minute if plan is not None else 0
            key = (name, TOKENS)
            if limit and key in self._states:
                weight = -min(tokens, limit)
                _, self._states[key] = self._step(limit, self._states[key], weight, mono_us // 1000)

    def _state(self, key: Key, limit: int) -> State | None:
        state = self._states.get(key)
        if state is None and self._empty_since_ms >= 0:
            _, state = self._step(limit, None, limit, self._empty_since_ms)
        return state
