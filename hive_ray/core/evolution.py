"""How each event changes a run: facts applied, nothing decided.

Those about steps, visits of nodes, and people are in modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hive_ray.core import events as ev
from hive_ray.core import longterm
from hive_ray.core.evolving_nodes import NODES, Evolve, orphan_steps, wait_more
from hive_ray.core.evolving_people import PEOPLE
from hive_ray.core.evolving_steps import STEPS
from hive_ray.core.evolving_steps import keep_artifacts as keep_artifacts
from hive_ray.core.messages import ERASED, StepContent
from hive_ray.core.run import (
    Allowance,
    Change,
    Run,
    RunStatus,
    decode_run,
    decode_turns,
)


def change(run: Run, change: Change, at_us: int) -> None:
    """Apply what happened in a child run."""
    run.spent_nanousd += change.spent_nanousd
    run.reserved_nanousd += change.reserved_nanousd
    run.overrun_nanousd += change.overrun_nanousd
    if change.waits:
        wait_more(run, change.waits, at_us)


def begin(event: ev.RunSubmitted, content: StepContent, at_us: int) -> Run:
    """The state after ``RunSubmitted``."""
    return Run(
        id=event.run,
        request_id=event.request_id,
        team=event.team,
        agent=event.agent,
        graph=event.graph,
        graph_name=event.graph_name,
        submitted_us=at_us,
        deadline_us=event.deadline_us,
        idempotency_key=event.idempotency_key,
        digest=event.digest,
        principal=event.principal,
        traceparent=event.traceparent,
        parent=event.parent,
        parent_serial=event.parent_serial,
        item=event.item,
        depth=event.depth,
        budget_nanousd=event.budget_nanousd,
        memory=dict(content.outputs),
        facts=dict(content.facts),
        key=event.key,
        priority=event.priority,
        callback=content.message if content is not ERASED else "",
    )


def begin_fork(event: ev.RunForked, content: StepContent, at_us: int) -> Run:
    """The state after ``RunForked``.

    Raises:
        msgspec.DecodeError: its content holds no state.
    """
    # Without its content the state that it began with is gone: what comes behind no longer fits.
    run = decode_run(content.state) if content is not ERASED else Run("", "", "", "", "")
    run.id = event.run
    run.key = event.key
    run.request_id = event.request_id
    run.team = event.team
    run.agent = event.agent
    run.graph = event.graph
    run.graph_name = event.graph_name
    run.submitted_us = at_us
    run.deadline_us = event.deadline_us
    run.idempotency_key = event.idempotency_key
    run.digest = event.digest
    run.principal = event.principal
    run.traceparent = event.traceparent
    run.budget_nanousd = event.budget_nanousd
    run.priority = event.priority
    run.outside = event.outside
    for visit in run.visits.values():
        visit.since_us = at_us
    run.origin = event.origin
    if run.shelf is not None:
        run.shelf.owner = run.id
    return run


BEGIN: dict[type[ev.Event], Callable[[Any, StepContent, int], Run]] = {
    ev.RunSubmitted: begin,
    ev.RunForked: begin_fork,
}
"""The events with which a run begins."""


MISFITS = (LookupError, AssertionError, msgspec.MsgspecError)
"""What applying an event raises if it does not fit the state: journal and run are not of one history."""


def evolve(run: Run, event: ev.Event, content: StepContent, at_us: int) -> None:
    """Apply one event to a run; raises one of ``MISFITS``."""
    EVOLVE[type(event)](run, event, content, at_us)


# --- the run itself ------------------------------------------------------------------------------


def _memory_changed(
    run: Run, event: ev.MemoryWritten | ev.MemoryDeleted, content: StepContent, at_us: int
) -> None:
    if run.shelf is None:
        run.shelf = longterm.Shelf(event.scope, event.owner)
    longterm.apply(run.shelf, event, content, at_us, 0)


def _conversation_carried(run: Run, event: ev.ConversationCarried, content: StepContent, at_us: int) -> None:
    if not content.state:
        return  # erased, with the end of the run
    turns = decode_turns(content.state)
    run.conversation = turns.run
    for serial, said in turns.loops.items():
        loop = run.visits[serial].loop
        assert loop is not None
        loop.conversation = said


def _run_degraded(run: Run, event: ev.RunDegraded, content: StepContent, at_us: int) -> None:
    run.lowered[event.model] = event.level


def _allowance_granted(run: Run, event: ev.AllowanceGranted, content: StepContent, at_us: int) -> None:
    had = run.allowances.get(event.account, Allowance())
    run.allowances[event.account] = Allowance(had.nanousd + event.nanousd, had.tokens + event.tokens)


def _run_let_in(run: Run, event: ev.RunLetIn, content: StepContent, at_us: int) -> None:
    run.outside = False
    for visit in run.visits.values():
        visit.since_us = at_us


def _run_paused(run: Run, event: ev.RunPaused, content: StepContent, at_us: int) -> None:
    run.paused = True
    run.reason = event.reason or content.message


def _run_resumed(run: Run, event: ev.RunResumed, content: StepContent, at_us: int) -> None:
    run.paused = False
    run.reason = ""


def _finish(run: Run, status: RunStatus, at_us: int) -> None:
    # Waits of children stay counted until these end, which follows.
    waits = sum(visit.wait is not None for visit in run.visits.values())
    if waits:
        wait_more(run, -waits, at_us)
    for visit in run.visits.values():
        orphan_steps(run, visit)
    run.visits = {}
    run.tokens = []
    run.ended = []
    run.conversation = []
    run.status = status
    run.paused = False
    run.finished_us = at_us


def _run_succeeded(run: Run, event: ev.RunSucceeded, content: StepContent, at_us: int) -> None:
    _finish(run, RunStatus.SUCCEEDED, at_us)
    run.reason = event.reason


def _run_failed(run: Run, event: ev.RunFailed, content: StepContent, at_us: int) -> None:
    _finish(run, RunStatus.FAILED, at_us)
    run.failure = event.kind
    run.failed_at = event.place
    run.message = content.message
    run.dead_lettered = event.dead_lettered


def _run_cancelled(run: Run, event: ev.RunCancelled, content: StepContent, at_us: int) -> None:
    _finish(run, RunStatus.CANCELLED, at_us)
    run.reason = event.reason or content.message


def _run_forgotten(run: Run, event: ev.RunForgotten, content: StepContent, at_us: int) -> None:
    """What remains is what may be read anyway: kinds, times, costs, names."""
    run.forgotten = True
    run.memory = {}
    run.facts = {}
    run.writers = {}
    run.output_keys = []
    run.artifacts = []
    run.shelf = None
    run.message = ""
    run.callback = ""
    if run.status is RunStatus.CANCELLED:
        run.reason = ""


EVOLVE: dict[type[ev.Event], Evolve] = {
    **STEPS,
    **NODES,
    **PEOPLE,
    ev.ConversationCarried: _conversation_carried,
    ev.RunLetIn: _run_let_in,
    ev.RunPaused: _run_paused,
    ev.RunResumed: _run_resumed,
    ev.RunSucceeded: _run_succeeded,
    ev.RunFailed: _run_failed,
    ev.RunCancelled: _run_cancelled,
    ev.MemoryWritten: _memory_changed,
    ev.MemoryDeleted: _memory_changed,
    ev.RunForgotten: _run_forgotten,
    ev.AllowanceGranted: _allowance_granted,
    ev.RunDegraded: _run_degraded,
}
