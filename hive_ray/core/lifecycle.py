"""A run as a whole: submitted, paused, resumed, cancelled, out of time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.commands import Cancel, Forget, Moment, Pause, Refused, Resume, Submit
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.routing import fail_run
from hive_ray.core.run import Run, Visit
from hive_ray.core.sealing import reasoned
from hive_ray.core.steps import fail_node
from hive_ray.graph.compiled import CompiledGraph


def submit(command: Submit, graph: CompiledGraph, key: bytes, priority: int, now: Moment) -> Draft:
    """The first event of a run.

    Args:
        key: reference to the run's content key.
        priority: index into ``core.plan.CLASSES``.
    """
    budget = command.budget_nanousd if command.budget_nanousd >= 0 else graph.budget_nanousd
    event = ev.RunSubmitted(
        command.run,
        command.request_id,
        command.team,
        command.agent,
        command.graph,
        budget,
        command.deadline_us or now.wall_us + graph.deadline_us,
        command.idempotency_key,
        command.digest,
        command.principal,
        command.traceparent,
        graph_name=graph.name or graph.id,
        key=key,
        priority=priority,
    )
    content = command.content
    if command.callback:
        content = msgspec.structs.replace(content, message=command.callback)
    return draft(event, content)


def cancel(run: Run, command: Cancel, level: int) -> list[Draft] | Refused:
    """Cancelling twice is no fault; cancelling what has ended otherwise is a conflict."""
    if run.status == "cancelled":
        return []
    if run.terminal:
        return Refused("conflict", f"run {run.id} has ended already: it is {run.status}")
    return [reasoned(ev.RunCancelled(run.id, command.reason, command.principal), level)]


def pause(run: Run, command: Pause, level: int) -> list[Draft] | Refused:
    if run.terminal:
        return Refused("conflict", f"run {run.id} has ended already: it is {run.status}")
    if run.paused:
        return []
    reason = command.reason or "paused by an operator"
    return [reasoned(ev.RunPaused(run.id, reason, command.principal), level)]


def forget(run: Run, family: Iterable[Run], forks: Iterable[Run], command: Forget) -> list[Draft] | Refused:
    """Give up the content of a run that has ended, and of its children.

    Args:
        family: runs that were begun for it, at any depth.
        forks: runs that began with its state, or with that of one of its children.
    """
    if run.parent:
        return Refused(
            "conflict", f"run {run.id} belongs to run {run.parent}: forget the one that began them"
        )
    if not run.terminal:
        return Refused("conflict", f"run {run.id} is {run.status}: cancel it first")
    if not run.key and not run.forgotten:
        why = "it began before this state could hold sealed content, and its journal is plain"
        return Refused("conflict", f"run {run.id} cannot be forgotten by its key: {why}")
    copies = ", ".join(fork.id for fork in forks if not fork.forgotten)
    if copies:
        return Refused("conflict", f"run {run.id} goes on in {copies}: forget that first")
    return [Draft(ev.RunForgotten(one.id, command.principal)) for one in (run, *family) if not one.forgotten]


def resume(run: Run, command: Resume) -> list[Draft] | Refused:
    """Ends an operator's pause. Waits at ``pause_nodes`` are resolved by the engine along with it."""
    if run.terminal:
        return Refused("conflict", f"run {run.id} has ended already: it is {run.status}")
    if not run.paused:
        return []
    return [Draft(ev.RunResumed(run.id, command.principal))]


def fail_stuck(run: Run, graph: CompiledGraph, visit: Visit) -> list[Draft]:
    """End a visit at which nothing is under way and that waits for nobody: a fault here, never a hang."""
    if visit.children is not None and visit.children.live:
        return []
    node = graph.nodes[visit.node]
    why = f"nothing is under way at node {node.id}, and it waits for nobody: please report this"
    return [fail_node(run, node, visit, FailureKind.INTERNAL, why)]


def out_of_time(run: Run, graph: CompiledGraph) -> list[Draft]:
    """The run's deadline passed; time spent waiting for people does not count."""
    where = ", ".join(graph.nodes[visit.node].id for visit in run.visits.values())
    why = f"the run's deadline passed while it was at: {where or 'its beginning'}"
    return [fail_run(run, FailureKind.EXPIRED, where or graph.nodes[graph.entry].id, why)]
