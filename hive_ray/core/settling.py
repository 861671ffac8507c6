"""The accounts kept in step with the runs: what each event holds, frees and charges.

It looks at an event before the run does: the step or orphan still says what it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_ray.core import events as ev
from hive_ray.core.accounts import Accounts, tokens_of
from hive_ray.core.holds import Hold
from hive_ray.core.run import Run, Step, StepStatus, attempt_key


def _started(accounts: Accounts, root: Run, run: Run, event: ev.StepStarted, at_us: int) -> Hold | None:
    if event.hold is not None:
        accounts.hold(root, event.hold)
    return None


def _ended(
    accounts: Accounts, root: Run, run: Run, event: ev.StepSucceeded | ev.StepFailed, at_us: int
) -> Hold | None:
    step = run.visits[event.serial].steps[event.call]
    hold = step.hold
    if hold is None:
        if event.cost_nanousd or event.usage is not None:
            _correct(accounts, root, run, event, step, at_us)
        return None
    unseen = isinstance(event, ev.StepFailed) and event.unseen
    tokens = hold.tokens if unseen else tokens_of(event.usage)
    accounts.settle(root, hold, event.cost_nanousd, tokens)
    if isinstance(event, ev.StepSucceeded):
        accounts.learn(hold, event.cost_nanousd, tokens)
    return hold


def _correct(
    accounts: Accounts,
    root: Run,
    run: Run,
    event: ev.StepSucceeded | ev.StepFailed,
    step: Step,
    at_us: int,
) -> None:
    """The end of an attempt that holds nothing: it was charged as unseen, or was to cost nothing."""
    charged = run.unseen_holds.get(attempt_key(event.serial, event.call, event.attempt))
    hold = charged or Hold(at_us=at_us, pool=step.pool)
    accounts.charge(root, hold, event.cost_nanousd, tokens_of(event.usage) - hold.tokens)


def _returned(accounts: Accounts, root: Run, run: Run, event: ev.LeaseReturned, at_us: int) -> Hold | None:
    hold = _hold_of(run, event.serial, event.call, event.attempt)
    if hold is not None:
        accounts.settle(root, hold, 0, 0)
    return hold


def _late(accounts: Accounts, root: Run, run: Run, event: ev.LateOutcome, at_us: int) -> Hold | None:
    key = attempt_key(event.serial, event.call, event.attempt)
    orphan = run.orphans.get(key)
    if orphan is not None and orphan.hold is not None:
        tokens = orphan.hold.tokens if event.unseen else tokens_of(event.usage)
        accounts.settle(root, orphan.hold, event.cost_nanousd, tokens)
        return orphan.hold
    charged = run.unseen_holds.get(key)
    if charged is not None:
        accounts.charge(root, charged, event.cost_nanousd, tokens_of(event.usage) - charged.tokens)
    elif event.cost_nanousd:
        charged = Hold(at_us=at_us)
        accounts.charge(root, charged, event.cost_nanousd, tokens_of(event.usage))
    return charged


def _corrected(accounts: Accounts, root: Run, run: Run, event: ev.CostCorrected, at_us: int) -> Hold | None:
    key = attempt_key(event.serial, event.call, event.attempt)
    charged = run.unseen_holds.get(key) or Hold(at_us=at_us)
    accounts.charge(root, charged, event.cost_nanousd, 0)
    return charged


def _hold_of(run: Run, serial: int, call: int, attempt: int) -> Hold | None:
    visit = run.visits.get(serial)
    if visit is not None:
        return visit.steps[call].hold
    orphan = run.orphans.get(attempt_key(serial, call, attempt))
    return orphan.hold if orphan is not None else None


SETTLE: dict[type[ev.Event], Callable[[Accounts, Run, Run, Any, int], Hold | None]] = {
    ev.StepStarted: _started,
    ev.StepSucceeded: _ended,
    ev.StepFailed: _ended,
    ev.LeaseReturned: _returned,
    ev.LateOutcome: _late,
    ev.CostCorrected: _corrected,
}
"""By kind: (accounts, run that pays, run of the event, event, its wall time) to what is free now."""


def holds_of(run: Run) -> list[Hold]:
    """What the attempts of a run that are under way hold."""
    steps = (step for visit in run.visits.values() for step in visit.steps.values())
    held = [step.hold for step in steps if step.status is StepStatus.LEASED and step.hold is not None]
    return held + [orphan.hold for orphan in run.orphans.values() if orphan.hold is not None]
