"""How events about visits of nodes change a run: facts applied, nothing decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_ray.core import events as ev
from hive_ray.core.messages import StepContent, StepKind
from hive_ray.core.run import (
    ERROR_KEY,
    ITEMS,
    Children,
    Ended,
    Loop,
    Orphan,
    Run,
    RunStatus,
    Step,
    StepStatus,
    Token,
    Visit,
    Writer,
    attempt_key,
)
from hive_ray.core.values import Value, inline

Evolve = Callable[[Run, Any, StepContent, int], None]
"""Applies an event of one kind, with its content and the time at which it was decided, to its run."""
_STEP_KINDS = {str(kind): kind for kind in StepKind}


def _node_entered(run: Run, event: ev.NodeEntered, content: StepContent, at_us: int) -> None:
    tokens = run.tokens
    if len(tokens) == 1 and tokens[0].target == event.node:
        edges, run.tokens = (tokens[0].edge,), []
    else:
        edges = tuple([token.edge for token in tokens if token.target == event.node])
        run.tokens = [token for token in tokens if token.target != event.node]
    visit = Visit(event.serial, event.node, event.floor, event.path, edges, since_us=at_us)
    if event.floor == run.serial:
        run.strays = False
    if event.step:
        visit.steps[0] = Step(0, _STEP_KINDS[event.step], event.name, event.pool)
        visit.calls = 1
    run.visits[event.serial] = visit
    run.serial = event.serial
    run.visit_counts[event.node] = run.visit_counts.get(event.node, 0) + 1


def _loop_began(run: Run, event: ev.LoopBegan, content: StepContent, at_us: int) -> None:
    said = list(run.conversation) if event.inherits else []
    run.visits[event.serial].loop = Loop(conversation=said, inherits=event.inherits)


def _node_succeeded(run: Run, event: ev.NodeSucceeded, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    write_memory(run, visit, content.outputs, content.facts, event.dropped)
    run.completed = run.completed or event.completed
    close(run, visit, Ended(visit, route=content.route, completed=event.completed))


def _node_failed(run: Run, event: ev.NodeFailed, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    if visit.wait is not None:
        # Another of its steps ended it: nobody need answer any more.
        wait_more(run, -1, at_us)
        visit.wait = None
    orphan_steps(run, visit)
    run.memory[ERROR_KEY] = inline({"kind": event.kind, "node": event.node_id, "message": content.message})
    close(run, visit, Ended(visit, failure=event.kind, message=content.message))


def close(run: Run, visit: Visit, ended: Ended) -> None:
    """A visit has ended; its edges are still to be taken."""
    if visit.loop is not None and visit.loop.inherits:
        run.conversation = visit.loop.conversation
    del run.visits[visit.serial]
    run.last_ended = visit.node
    run.ended.append(ended)


def _outputs_written(run: Run, event: ev.OutputsWritten, content: StepContent, at_us: int) -> None:
    write_memory(run, run.visits[event.serial], content.outputs, content.facts, event.dropped)


def write_memory(
    run: Run, visit: Visit, outputs: dict[str, Value], facts: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    """Put a visit's outputs into memory, but for the keys that were decided to lose."""
    if not outputs:
        return
    writer = Writer(visit.floor, visit.path)
    for key, value in outputs.items():
        if key in dropped:
            continue
        run.memory[key] = value
        if key not in run.writers:
            run.output_keys.append(key)
        run.writers[key] = writer
    for name, fact in facts.items():
        if not dropped or name.partition(".")[0] not in dropped:
            run.facts[name] = fact


def _edges_taken(run: Run, event: ev.EdgesTaken, content: StepContent, at_us: int) -> None:
    visit = _take_ended(run, event.serial)
    if not event.edges:
        run.strays = True
        run.terminal_reached = run.terminal_reached or event.terminal
    for index, edge in enumerate(event.edges):
        run.tokens.append(Token(edge, event.targets[index], visit.floor, event.paths[index]))


def _take_ended(run: Run, serial: int) -> Visit:
    for position, ended in enumerate(run.ended):
        if ended.visit.serial == serial:
            del run.ended[position]
            return ended.visit
    raise KeyError(serial)


def _map_progressed(run: Run, event: ev.MapProgressed, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    if visit.children is None:
        visit.children = Children(event.total, items=content.outputs.get(ITEMS))
        run.status = RunStatus.RUNNING
    children = visit.children
    if event.item >= 0:
        children.live.pop(event.item, None)
        if event.failure:
            children.failures[event.item] = event.failure
        children.results[event.item] = dict(content.outputs)
    for number, child in zip(range(children.started, event.started), event.children, strict=True):
        children.live[number] = child
    children.started = event.started


def wait_more(run: Run, change: int, at_us: int) -> None:
    """Count waits for people, here or in a child; while there is one, the run's deadline stands still."""
    if not run.waits:
        run.waiting_since_us = at_us
    run.waits += change
    if not run.waits:
        run.deadline_us += max(0, at_us - run.waiting_since_us)
        run.waiting_since_us = 0


def orphan_steps(run: Run, visit: Visit) -> None:
    """Nobody waits for the attempts of a visit any more: what they cost is still to come."""
    for step in visit.steps.values():
        if step.status is StepStatus.LEASED:
            key = attempt_key(visit.serial, step.call, step.attempt)
            run.orphans[key] = Orphan(step.worker, step.reserved_nanousd, step.hold)
    visit.steps = {}


NODES: dict[type[ev.Event], Evolve] = {
    ev.NodeEntered: _node_entered,
    ev.LoopBegan: _loop_began,
    ev.OutputsWritten: _outputs_written,
    ev.NodeSucceeded: _node_succeeded,
    ev.NodeFailed: _node_failed,
    ev.EdgesTaken: _edges_taken,
    ev.MapProgressed: _map_progressed,
}
