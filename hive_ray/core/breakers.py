"""Breakers: whoever stands behind a tool or a model and fails is left alone for a while.

Closed, calls are counted over a sliding window. Too many failures or slow calls open the breaker: steps fail
fast. After a time one step may begin as a probe (half-open); its end closes the breaker or opens it again.
Only failures that speak of the other side count: a wrong argument says nothing about it.

What a breaker is stands in the journal; what is counted does not, and begins anew after a restart.
"""

from __future__ import annotations

import msgspec

BUCKETS = 10
"""Parts of a window: it slides by a tenth at a time."""


class Mode:
    """Of a breaker that is not simply closed."""

    OPEN = "open"
    HALF_OPEN = "half_open"
    CLOSED = "closed"
    """Only of one that was forced."""
    AUTO = "auto"
    """Forced no more."""


FORCES = (Mode.OPEN, Mode.CLOSED, Mode.AUTO)
COUNTED = ("TIMEOUT", "TOOL_UNAVAILABLE", "LLM_UNAVAILABLE", "OUTCOME_UNKNOWN")
"""Failure kinds that count where nothing else is configured."""


class BreakerPlan(msgspec.Struct, frozen=True, array_like=True):
    """When a breaker opens, and for how long."""

    window_us: int = 30_000_000
    min_calls: int = 10
    """Calls in the window before it may open."""
    failure_percent: int = 50
    slow_us: int = 0
    """A call that takes longer is slow; 0: none is."""
    slow_percent: int = 100
    open_us: int = 15_000_000
    """Until a probe may begin."""
    kinds: tuple[str, ...] = COUNTED


class Breaker(msgspec.Struct, array_like=True):
    """One that is open, half-open or forced; all others are closed."""

    mode: str
    since_us: int
    """Wall time."""
    reason: str = ""
    open_us: int = 0
    probe: str = ""
    """Half-open: the attempt, as ``attempt_name`` spells it; empty: the next one is it."""
    forced: bool = False
    principal: str = ""


def attempt_name(attempt: tuple[str, int, int, int]) -> str:
    run, serial, call, number = attempt
    return f"{run}:{serial}.{call}.{number}"


def attempt_of(name: str) -> tuple[str, int, int, int]:
    """Inverse of ``attempt_name``."""
    run, _, rest = name.rpartition(":")
    serial, call, number = rest.split(".")
    return run, int(serial), int(call), int(number)


class Counts(msgspec.Struct):
    """What a window, or a part of it, has seen."""

    calls: int = 0
    failures: int = 0
    slow: int = 0


class Window:
    """Calls of the last ``window_us``, in parts; times are monotonic."""

    def __init__(self, window_us: int) -> None:
        self._part_us = max(1, window_us // BUCKETS)
        self._parts = [Counts() for _ in range(BUCKETS)]
        self._newest = -1

    def add(self, failed: bool, slow: bool, mono_us: int) -> None:
        self._advance(mono_us)
        part = self._parts[self._newest % BUCKETS]
        part.calls += 1
        part.failures += failed
        part.slow += slow

    def counts(self, mono_us: int) -> Counts:
        self._advance(mono_us)
        parts = self._parts
        return Counts(
            sum(part.calls for part in parts),
            sum(part.failures for part in parts),
            sum(part.slow for part in parts),
        )

    def _advance(self, mono_us: int) -> None:
        present = mono_us // self._part_us
        for number in range(max(self._newest + 1, present - BUCKETS + 1), present + 1):
            self._parts[number % BUCKETS] = Counts()
        self._newest = max(self._newest, present)


def is_bad(plan: BreakerPlan, failure: str, duration_us: int) -> tuple[bool, bool]:
    """Whether a call failed in a way that counts, and whether it was slow."""
    return failure in plan.kinds, bool(plan.slow_us) and duration_us > plan.slow_us


def is_counted(plan: BreakerPlan, failure: str) -> bool:
    """A success, or a failure that speaks of the other side."""
    return not failure or failure in plan.kinds


def opens(plan: BreakerPlan, counts: Counts) -> str:
    """Why a window opens its breaker; empty if it does not."""
    if counts.calls < plan.min_calls:
        return ""
    window_s = plan.window_us / 1e6
    if counts.failures * 100 >= plan.failure_percent * counts.calls:
        return f"{counts.failures} of {counts.calls} calls failed in {window_s:g} s"
    if plan.slow_us and counts.slow * 100 >= plan.slow_percent * counts.calls:
        slow_s = plan.slow_us / 1e6
        return f"{counts.slow} of {counts.calls} calls took more than {slow_s:g} s in {window_s:g} s"
    return ""


class Judged(msgspec.Struct, frozen=True):
    """What the end of a probe means."""

    mode: str
    """``closed``, ``open``, or ``half_open``: it said nothing, the next one is asked."""
    reason: str


def judge(plan: BreakerPlan, failure: str, duration_us: int) -> Judged:
    """Decide on the end of a probe."""
    failed, slow = is_bad(plan, failure, duration_us)
    if failed:
        return Judged(Mode.OPEN, f"the probe failed: {failure}")
    if failure:
        return Judged(Mode.HALF_OPEN, f"the probe ended with {failure}, which says nothing")
    if slow:
        return Judged(Mode.OPEN, f"the probe took {duration_us / 1e6:.3g} s")
    return Judged(Mode.CLOSED, "the probe succeeded")
