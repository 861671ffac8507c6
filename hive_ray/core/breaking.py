"""The breakers at work: which steps they keep from starting, what ends of attempts mean to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hive_ray.core import events as ev
from hive_ray.core.admission import Refusal
from hive_ray.core.breakers import (
    Breaker,
    BreakerPlan,
    Counts,
    Mode,
    Window,
    attempt_name,
    attempt_of,
    is_bad,
    is_counted,
    judge,
    opens,
)
from hive_ray.core.commands import Moment
from hive_ray.core.events import Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.messages import Outcome
from hive_ray.core.run import StepStatus, attempt_key

if TYPE_CHECKING:
    from hive_ray.core.engine import Engine


class Breaking:
    """The part of the engine that minds breakers. Names are ``model/NAME`` and ``tool/NAME``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._windows: dict[str, tuple[BreakerPlan, Window]] = {}
        self._due: dict[str, int] = {}
        """When an open breaker may be probed, by the monotonic clock."""
        self._mono_us = 0

    @property
    def minds(self) -> bool:
        """Whether there is anything to mind."""
        engine = self._engine
        return bool(engine.force.plan.breakers or engine.fleet.breakers)

    def refusal(self, name: str, now: Moment) -> Refusal | None:
        """Why a step may not begin now."""
        breaker = self._engine.fleet.breakers.get(name)
        if breaker is None or not self._keeps(name, breaker, now):
            return None
        kind = FailureKind.LLM_UNAVAILABLE if name.startswith("model/") else FailureKind.TOOL_UNAVAILABLE
        return Refusal(kind, f"the breaker of {name} is {_said(breaker)}: {breaker.reason}")

    def _keeps(self, name: str, breaker: Breaker, now: Moment) -> bool:
        if breaker.forced:
            return breaker.mode == Mode.OPEN
        if self._engine.force.breaker(name) is None:
            return False
        if breaker.mode == Mode.HALF_OPEN:
            return bool(breaker.probe)
        return now.mono_us < self._due_us(name, breaker, now)

    def _due_us(self, name: str, breaker: Breaker, now: Moment) -> int:
        """After a restart only the wall clock tells how long it has been open."""
        due = self._due.get(name)
        if due is None:
            left = breaker.since_us + breaker.open_us - now.wall_us
            due = self._due[name] = now.mono_us + min(max(left, 0), breaker.open_us)
        return due

    def begins(self, name: str, attempt: AttemptRef, now: Moment) -> None:
        """An attempt is being leased: where the breaker is not closed, it is the probe."""
        breaker = self._engine.fleet.breakers.get(name)
        if breaker is None or breaker.forced or self._engine.force.breaker(name) is None:
            return
        event = ev.BreakerHalfOpened("", name, attempt_name(attempt), breaker.reason)
        self._engine.record([Draft(event)], now)

    def ended(self, name: str, outcome: Outcome, now: Moment) -> None:
        """An attempt has ended.

        Args:
            name: empty if it does not count: nobody waited for it any more.
        """
        key = attempt_name(outcome.key)
        for probed, breaker in self._engine.fleet.breakers.items():
            if breaker.probe == key:
                self._judge(probed, outcome, now)
                return
        plan = self._engine.force.breaker(name) if name else None
        if plan is not None and name not in self._engine.fleet.breakers:
            self._count(name, plan, outcome, now)

    def _judge(self, name: str, outcome: Outcome, now: Moment) -> None:
        plan = self._engine.force.breaker(name)
        if plan is None:
            return  # The next look at it closes it.
        judged = judge(plan, outcome.failure, outcome.duration_us)
        if judged.mode == Mode.CLOSED:
            self._close(name, judged.reason, now)
        elif judged.mode == Mode.OPEN:
            self._open(name, plan, judged.reason, Counts(), now)
        else:
            self._engine.record([Draft(ev.BreakerHalfOpened("", name, "", judged.reason))], now)

    def _count(self, name: str, plan: BreakerPlan, outcome: Outcome, now: Moment) -> None:
        if not is_counted(plan, outcome.failure):
            return
        window = self._window(name, plan)
        self._mono_us = max(self._mono_us, now.mono_us)
        window.add(*is_bad(plan, outcome.failure, outcome.duration_us), now.mono_us)
        counts = window.counts(now.mono_us)
        reason = opens(plan, counts)
        if reason:
            self._open(name, plan, reason, counts, now)

    def _window(self, name: str, plan: BreakerPlan) -> Window:
        known = self._windows.get(name)
        if known is None or known[0] != plan:
            known = self._windows[name] = (plan, Window(plan.window_us))
        return known[1]

    def counts(self, name: str) -> Counts:
        """What the window of a breaker held when time was looked at last."""
        known = self._windows.get(name)
        return known[1].counts(self._mono_us) if known is not None else Counts()

    def names(self) -> list[str]:
        """Every breaker that has counted something, or is not closed."""
        return sorted({*self._windows, *self._engine.fleet.breakers})

    def _open(self, name: str, plan: BreakerPlan, reason: str, counts: Counts, now: Moment) -> None:
        self._windows.pop(name, None)
        self._due[name] = now.mono_us + plan.open_us
        event = ev.BreakerOpened("", name, reason, plan.open_us, counts.calls, counts.failures, counts.slow)
        self._engine.record([Draft(event)], now)

    def _close(self, name: str, reason: str, now: Moment) -> None:
        self._due.pop(name, None)
        self._engine.record([Draft(ev.BreakerClosed("", name, reason))], now)

    def sweep(self, now: Moment) -> None:
        """Free probes whose attempt is gone, and close what is no longer configured."""
        self._mono_us = now.mono_us
        for name, breaker in list(self._engine.fleet.breakers.items()):
            if breaker.forced:
                continue
            if self._engine.force.breaker(name) is None:
                self._close(name, "it is no longer configured", now)
            elif breaker.probe and not self._is_under_way(attempt_of(breaker.probe)):
                event = ev.BreakerHalfOpened("", name, "", "the probe is gone without an end")
                self._engine.record([Draft(event)], now)

    def _is_under_way(self, attempt: AttemptRef) -> bool:
        run_id, serial, call, number = attempt
        run = self._engine.runs.get(run_id)
        if run is None:
            return False
        visit = run.visits.get(serial)
        step = visit.steps.get(call) if visit is not None else None
        if step is not None and step.attempt == number:
            return step.status is StepStatus.LEASED
        return attempt_key(serial, call, number) in run.orphans


def _said(breaker: Breaker) -> str:
    if breaker.forced:
        return f"held {breaker.mode} by {breaker.principal or 'an operator'}"
    return "half-open, and another step is its probe" if breaker.mode == Mode.HALF_OPEN else "open"
