"""What the shell notes of each event besides writing it down: counters, timers, ends of runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from hive_ray.core import events as ev

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

log = logging.getLogger(__name__)


class Counters(msgspec.Struct):
    """Plain integers; whoever exposes them reads them."""

    steps: int = 0
    failures: int = 0
    retries: int = 0
    runs_submitted: int = 0
    runs_succeeded: int = 0
    runs_failed: int = 0
    runs_cancelled: int = 0
    commits: int = 0
    bytes: int = 0
    exchanges: int = 0
    leases: int = 0
    cost_nanousd: int = 0
    late_outcomes: int = 0
    reservations_exceeded: int = 0
    claims_disbelieved: int = 0
    notifications_delivered: int = 0
    notifications_failed: int = 0
    outcomes_refused: int = 0


def _succeeded(shell: Shell, event: ev.StepSucceeded) -> None:
    shell.counters.steps += 1
    shell.counters.cost_nanousd += event.cost_nanousd
    if event.usage is not None or event.overrun_nanousd:
        _settled(shell, event)


def _failed(shell: Shell, event: ev.StepFailed) -> None:
    shell.counters.failures += 1
    shell.counters.cost_nanousd += event.cost_nanousd
    _settled(shell, event)


def _settled(shell: Shell, event: ev.StepSucceeded | ev.StepFailed | ev.LateOutcome) -> None:
    """Say that an endpoint billed more than was held for it, or claimed what cannot be."""
    usage = None if isinstance(event, ev.LateOutcome) else event.usage
    if usage is not None and usage.disbelieved:
        shell.counters.claims_disbelieved += 1
    if event.overrun_nanousd:
        shell.counters.reservations_exceeded += 1
        facts = {"run_id": event.run, "serial": event.serial, "call": event.call}
        over = {"cost_nanousd": event.cost_nanousd, "overrun_nanousd": event.overrun_nanousd}
        log.warning("a step cost more than was reserved for it", extra=facts | over)


def _retried(shell: Shell, event: ev.RetryScheduled) -> None:
    shell.counters.retries += 1
    shell.note_backoff(event)


def _late(shell: Shell, event: ev.LateOutcome) -> None:
    shell.counters.late_outcomes += 1
    shell.counters.cost_nanousd += event.cost_nanousd
    _settled(shell, event)


def _corrected(shell: Shell, event: ev.CostCorrected) -> None:
    shell.counters.cost_nanousd += event.cost_nanousd


def _submitted(shell: Shell, event: ev.RunSubmitted | ev.RunForked) -> None:
    shell.counters.runs_submitted += 1
    shell.live_runs += 1
    shell.rearm(event.run)


def _asked(shell: Shell, event: ev.ApprovalRequested | ev.ApprovalResolved) -> None:
    shell.rearm_family(event.run)


def _escalated(shell: Shell, event: ev.ApprovalEscalated) -> None:
    shell.rearm(event.run)


def _node_failed(shell: Shell, event: ev.NodeFailed) -> None:
    shell.stop_orphans(event)


def _run_succeeded(shell: Shell, event: ev.RunSucceeded) -> None:
    shell.counters.runs_succeeded += 1
    shell.run_ended(event.run)


def _run_failed(shell: Shell, event: ev.RunFailed) -> None:
    shell.counters.runs_failed += 1
    shell.run_ended(event.run)
    shell.stop_orphans(event)


def _run_cancelled(shell: Shell, event: ev.RunCancelled) -> None:
    shell.counters.runs_cancelled += 1
    shell.run_ended(event.run)
    shell.stop_orphans(event)


def _queued(shell: Shell, event: ev.NotificationQueued) -> None:
    shell.note_notification(event)


def _delivered(shell: Shell, event: ev.NotificationDelivered) -> None:
    shell.counters.notifications_delivered += 1


def _given_up(shell: Shell, event: ev.NotificationFailed) -> None:
    shell.counters.notifications_failed += 1
    facts = {"notification": event.notification, "attempts": event.attempt}
    log.warning("a notification was given up: %s", event.error, extra=facts)


def _forgotten(shell: Shell, event: ev.RunForgotten) -> None:
    shell.note_erasure(shell.engine.runs[event.run])


NOTES: dict[type[ev.Event], Callable[[Shell, Any], None]] = {
    ev.StepSucceeded: _succeeded,
    ev.StepFailed: _failed,
    ev.RetryScheduled: _retried,
    ev.LateOutcome: _late,
    ev.CostCorrected: _corrected,
    ev.RunSubmitted: _submitted,
    ev.RunForked: _submitted,
    ev.ApprovalRequested: _asked,
    ev.ApprovalResolved: _asked,
    ev.ApprovalEscalated: _escalated,
    ev.NodeFailed: _node_failed,
    ev.RunSucceeded: _run_succeeded,
    ev.RunFailed: _run_failed,
    ev.RunCancelled: _run_cancelled,
    ev.RunForgotten: _forgotten,
    ev.NotificationQueued: _queued,
    ev.NotificationDelivered: _delivered,
    ev.NotificationFailed: _given_up,
}
