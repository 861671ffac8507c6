"""The degrade ladder of a model: rungs to step down to when it is slow, fails, or a budget runs out.

Down on what calls of the present level show over a window; up again on trials, single calls made as if one
rung higher: a level is left only once what lies above it has been seen to work. Between two steps up with a
fall between them lies at least ``calm_us``: a model that comes and goes makes it flap once in that time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

BAD = ("TIMEOUT", "LLM_UNAVAILABLE", "RATE_LIMITED")
"""Failure kinds that count as errors; other failures are no news of a model."""
TRIALS = 5
"""So many in a row must go well before a level is left."""
TRIALS_IN_WINDOW = 10
"""Most trials in a window."""
CALLS_BETWEEN_TRIALS = 4
MOST_SAMPLES = 512
"""Of one level; the newest are looked at."""


class Rung(msgspec.Struct, frozen=True, array_like=True):
    """What is different from here on; the rungs above hold as well."""

    model: str = ""
    """Another model is asked; empty: the same."""
    max_tokens: int = 0
    """Output tokens at most; 0: as many as before."""
    context_bytes: int = 0
    """Bytes of a conversation at most; 0: as many as before."""
    budget_percent: int = 0
    """A run steps down to here when so much of a budget is spent; 0: budgets do not lead here."""


class LadderPlan(msgspec.Struct, frozen=True, array_like=True):
    """When a model's steps go down and up the rungs."""

    rungs: tuple[Rung, ...]
    window_us: int = 30_000_000
    min_calls: int = 10
    latency_us: int = 0
    """A 95th percentile above it leads down; 0: latency does not."""
    error_percent: int = 0
    """A share of errors at which it goes down; 0: errors do not."""
    recover_percent: int = 70
    """A trial goes well below this share of ``latency_us``."""
    calm_us: int = 300_000_000


class Level(msgspec.Struct, array_like=True):
    """Where a model stands."""

    level: int = 0
    """0: nothing is different."""
    since_us: int = 0
    """Wall time."""
    reason: str = ""
    restored_us: int = 0
    """Wall time of the last step up."""


class Lowered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a ladder made different about an attempt."""

    level: int
    trial: bool = False
    """It is made as if one rung higher, to see whether that goes well."""
    model: str = ""
    """The model that is asked; empty: the one that the graph asks for."""
    dropped: int = 0
    """Entries of the conversation that were left out."""


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of one call."""

    mono_us: int
    duration_us: int
    bad: bool


class Tally(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What calls came to."""

    calls: int = 0
    failures: int = 0
    p95_us: int = 0
    """Of what they took; 0: there were none."""


class Samples:
    """What is known of a model at its present level, and of the one above; times are monotonic."""

    def __init__(self) -> None:
        self.level = -1
        self._calls: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._trials: deque[Sample] = deque(maxlen=TRIALS)
        self._tried_us = 0
        self._begun = 0
        """Calls that began since the last trial did."""

    def at(self, level: int) -> Samples:
        """The samples of a level; what was known of another one says nothing about it."""
        if level != self.level:
            self.level = level
            self._calls.clear()
            self._trials.clear()
            self._begun = 0
        return self

    def add(self, sample: Sample, trial: bool) -> None:
        (self._trials if trial else self._calls).append(sample)

    def calls(self, since_us: int) -> list[Sample]:
        return [sample for sample in self._calls if sample.mono_us >= since_us]

    @property
    def trials(self) -> Sequence[Sample]:
        return self._trials

    def wants_trial(self, plan: LadderPlan, mono_us: int) -> bool:
        """Whether the next call is a trial: few of them are, however few calls there are."""
        is_time = mono_us - self._tried_us >= plan.window_us // TRIALS_IN_WINDOW
        return self.level > 0 and is_time and self._begun >= CALLS_BETWEEN_TRIALS

    def begins(self, trial: bool, mono_us: int) -> None:
        """A call begins."""
        self._begun += 1
        if trial:
            self._begun, self._tried_us = 0, mono_us


def percentile_95(durations: Sequence[int]) -> int:
    """The nearest rank (Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996, definition 1)."""
    ordered = sorted(durations)
    return ordered[-(-95 * len(ordered) // 100) - 1]


def tally(calls: Sequence[Sample]) -> Tally:
    """What calls came to."""
    if not calls:
        return Tally()
    p95_us = percentile_95([sample.duration_us for sample in calls])
    return Tally(len(calls), sum(sample.bad for sample in calls), p95_us)


def leads_down(plan: LadderPlan, calls: Sequence[Sample]) -> str:
    """Why the calls of a window lead a rung down; empty if they do not."""
    if len(calls) < max(plan.min_calls, 1):
        return ""
    window_s = plan.window_us / 1e6
    seen = tally(calls)
    if plan.error_percent and seen.failures * 100 >= plan.error_percent * seen.calls:
        return f"{seen.failures} of {seen.calls} calls failed in {window_s:g} s"
    if plan.latency_us and seen.p95_us > plan.latency_us:
        return f"p95 of {seen.calls} calls in {window_s:g} s is {seen.p95_us / 1e6:.3g} s"
    return ""


def leads_up(plan: LadderPlan, trials: Sequence[Sample]) -> str:
    """Why trials lead a rung up; empty if they do not."""
    if len(trials) < TRIALS or not all(_went_well(plan, trial) for trial in trials):
        return ""
    slowest_s = max(trial.duration_us for trial in trials) / 1e6
    return f"the last {TRIALS} trials went well, the slowest in {slowest_s:.3g} s"


def _went_well(plan: LadderPlan, trial: Sample) -> bool:
    return not trial.bad and (
        not plan.latency_us or trial.duration_us * 100 <= plan.latency_us * plan.recover_percent
    )


def is_calm(plan: LadderPlan, level: Level, wall_us: int) -> bool:
    """Whether the last step up is long enough ago for another one after a fall."""
    return (
        not level.restored_us
        or level.since_us <= level.restored_us
        or (wall_us - level.restored_us >= plan.calm_us)
    )


def level_by_budget(rungs: Sequence[Rung], share_percent: float) -> int:
    """The lowest rung that a run is on when so much of a budget is spent."""
    reached = (n for n, rung in enumerate(rungs, 1) if 0 < rung.budget_percent <= share_percent)
    return max(reached, default=0)


def lowered(rungs: Sequence[Rung]) -> Rung:
    """What holds with all of these rungs together."""
    model, max_tokens, context_bytes = "", 0, 0
    for rung in rungs:
        model = rung.model or model
        max_tokens = min(filter(None, (rung.max_tokens, max_tokens)), default=0)
        context_bytes = min(filter(None, (rung.context_bytes, context_bytes)), default=0)
    return Rung(model, max_tokens, context_bytes)
