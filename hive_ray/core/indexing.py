"""The index of queues and leases kept in step with the runs, event by event.

``fleet.rebuild`` makes the same index from the runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_ray.core import events as ev
from hive_ray.core import fleet
from hive_ray.core.run import Run, StepStatus, attempt_key


def _release_lease(
    index: fleet.Fleet, run: Run, event: ev.StepSucceeded | ev.StepFailed | ev.LeaseReturned
) -> None:
    visit = run.visits.get(event.serial)
    if visit is None:
        _release_orphan(index, run, event)
        return
    worker = visit.steps[event.call].worker
    fleet.release(index, worker, (event.run, event.serial, event.call, event.attempt))


def _release_orphan(index: fleet.Fleet, run: Run, event: ev.LateOutcome | Any) -> None:
    orphan = run.orphans.get(attempt_key(event.serial, event.call, event.attempt))
    if orphan is not None:
        fleet.release(index, orphan.worker, (event.run, event.serial, event.call, event.attempt))


def _remember_submission(index: fleet.Fleet, run: Run, event: ev.RunSubmitted) -> None:
    fleet.note_submission(index, run)


def _remember_fork(index: fleet.Fleet, run: Run, event: ev.RunForked) -> None:
    fleet.note_submission(index, run)
    _enqueue_all(index, run, event)


def _grant_lease(index: fleet.Fleet, run: Run, event: ev.StepStarted) -> None:
    step = run.visits[event.serial].steps[event.call]
    fleet.grant(index, event.worker, (event.run, event.serial, event.call, event.attempt), step)


def _enqueue_first(index: fleet.Fleet, run: Run, event: ev.NodeEntered) -> None:
    if event.step and not run.paused:
        fleet.enqueue(index, run, event.pool, (event.run, event.serial, 0))


def _enqueue_next(index: fleet.Fleet, run: Run, event: ev.StepQueued) -> None:
    if not run.paused:
        fleet.enqueue(index, run, event.pool, (event.run, event.serial, event.call))


def _enqueue_again(index: fleet.Fleet, run: Run, event: Any) -> None:
    visit = run.visits.get(event.serial)
    if visit is None or run.paused:
        return
    step = visit.steps[event.call]
    if step.status is StepStatus.READY:
        fleet.enqueue(index, run, step.pool, (event.run, event.serial, event.call))


def _enqueue_cleared(index: fleet.Fleet, run: Run, event: ev.ApprovalResolved) -> None:
    """A step that was held may start; the others of its visit may ask now."""
    visit = run.visits.get(event.serial)
    for step in visit.steps.values() if visit is not None and not run.paused else ():
        if step.status is StepStatus.READY and step.cleared == event.approval:
            fleet.enqueue(index, run, step.pool, (event.run, event.serial, step.call))
    fleet.wake(index, f"approval/{event.run}.{event.serial}")


def _dequeue_all(index: fleet.Fleet, run: Run, event: ev.RunPaused) -> None:
    fleet.dequeue(index, run)


def _enqueue_all(index: fleet.Fleet, run: Run, event: ev.RunResumed | ev.RunForked | ev.RunLetIn) -> None:
    for pool, step in fleet.ready_steps(run):
        fleet.enqueue(index, run, pool, step)


Indexer = Callable[[fleet.Fleet, Run, Any], None]

BEFORE: dict[type[ev.Event], Indexer] = {
    ev.StepSucceeded: _release_lease,
    ev.StepFailed: _release_lease,
    ev.LeaseReturned: _release_lease,
    ev.LateOutcome: _release_orphan,
    ev.RunPaused: _dequeue_all,
}
"""What an event takes out of the index, before it is applied: the step still names its worker."""

AFTER: dict[type[ev.Event], Indexer] = {
    ev.RunSubmitted: _remember_submission,
    ev.RunForked: _remember_fork,
    ev.StepStarted: _grant_lease,
    ev.NodeEntered: _enqueue_first,
    ev.StepQueued: _enqueue_next,
    ev.RetryScheduled: _enqueue_again,
    ev.TimerFired: _enqueue_again,
    ev.StepRouted: _enqueue_again,
    ev.LeaseReturned: _enqueue_again,
    ev.RunResumed: _enqueue_all,
    ev.RunLetIn: _enqueue_all,
    ev.ApprovalResolved: _enqueue_cleared,
}
"""What an event puts into the index, once it is applied."""
