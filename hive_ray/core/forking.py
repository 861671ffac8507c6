"""Forks: where a run can be cut, what a new run takes over from there, and what of it begins again.

A cut is made from the parent's events alone. Finished work stays; every visit that was under way at the
cut begins again in the new run, as its first attempt. Money, people's answers and open attempts are the
parent's and stay with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import events as ev
from hive_ray.core import evolution
from hive_ray.core import run as runs
from hive_ray.core.commands import Fork, Moment, Refused
from hive_ray.core.events import Draft, draft
from hive_ray.core.messages import StepContent, StepKind, ToolCall
from hive_ray.core.routing import first_step
from hive_ray.core.run import ERROR_KEY, Ended, Loop, Run, Step, Visit
from hive_ray.core.steps import is_idempotent
from hive_ray.core.values import NULL, Value
from hive_ray.graph.compiled import CompiledGraph, NodeKind, NodePlan

Told = tuple[int, int, ev.Event, StepContent]
"""(seq, time, event, content): one of a run's own events, as the journal tells it."""

FEATURE_LEVEL = 2
"""The state's level from which on ``RunForked`` may be written: release 0.1.0 does not know it."""
MOST_BYTES = 2 * 1024 * 1024
"""A cut larger than this is refused: it has to fit into a segment beside others."""


class Cut(NamedTuple):
    """What a new run begins with."""

    state: Run
    """Names no run yet, and owes and owns no money."""
    seq: int
    """The parent's last event that it reflects."""
    node: str = ""
    visit: int = 0
    again: tuple[str, ...] = ()
    """Nodes of the visits that begin again."""
    repeats: tuple[str, ...] = ()
    """Nodes whose work had started, may have taken effect, and is not declared idempotent: of the visits that
    begin again, and of what the parent did behind the cut that does not follow from the node cut before."""

    def origin(self, parent: str, resumes: bool = False) -> ev.Origin:
        """What the new run's first event says about where it comes from."""
        serials = tuple(self.state.visits)
        return ev.Origin(parent, self.seq, self.node, self.visit, resumes, self.again, self.repeats, serials)


class Boundary(NamedTuple):
    """A place at which a run can be cut: before ``seq``, where the visit was about to be entered."""

    node: str
    visit: int
    """Which visit of the node, from 1."""
    seq: int


# --- where ---------------------------------------------------------------------------------------


def boundaries(events: Sequence[Told], graph: CompiledGraph) -> list[Boundary]:
    """Every place at which a run can be cut, in order."""
    found: list[Boundary] = []
    counts: dict[int, int] = {}
    for seq, at_us, event, content in events:
        if isinstance(event, ev.RunForked):
            state = evolution.begin_fork(event, content, at_us)
            counts = dict(state.visit_counts)
            found += _begun_again(state, graph, seq + 1)
        elif isinstance(event, ev.ConversationCarried):
            # It belongs to the beginning: what began again has heard it.
            found = [place._replace(seq=seq + 1) for place in found]
        elif isinstance(event, ev.NodeEntered):
            counts[event.node] = counts.get(event.node, 0) + 1
            found.append(Boundary(event.node_id, counts[event.node], seq))
    return found


def _begun_again(state: Run, graph: CompiledGraph, seq: int) -> Iterator[Boundary]:
    """Visits that a fork took over begin with it."""
    later: dict[int, int] = {}
    for visit in reversed(list(state.visits.values())):
        number = state.visit_counts.get(visit.node, 1) - later.get(visit.node, 0)
        later[visit.node] = later.get(visit.node, 0) + 1
        yield Boundary(graph.nodes[visit.node].id, number, seq)


def before_node(events: Sequence[Told], graph: CompiledGraph, node: str, visit: int = 0) -> Cut | Refused:
    """Cut a run just before it entered a node.

    Args:
        visit: which visit of the node, from 1; 0: the last.
    """
    places = boundaries(events, graph)
    fitting = [place for place in places if place.node == node and visit in (0, place.visit)]
    if not fitting:
        return _not_there(graph, places, node, visit)
    place = fitting[-1]
    run = replayed(events, place.seq)
    return _cut(run, events, graph, place.node, place.visit)


def _not_there(graph: CompiledGraph, places: list[Boundary], node: str, visit: int) -> Refused:
    counts: dict[str, list[int]] = {}
    for place in places:
        counts.setdefault(place.node, []).append(place.visit)
    visited = ", ".join(
        name if len(numbers) == 1 else f"{name} (visits {numbers[0]} to {numbers[-1]})"
        for name, numbers in counts.items()
    )
    if node in counts:
        why = f"node {node} had no visit {visit}"
    elif any(known.id == node for known in graph.nodes):
        why = f"node {node} was never visited"
    else:
        why = f"the graph has no node {node}"
    return Refused("invalid", f"{why}; the run has visited: {visited or 'nothing yet'}")


def before_end(events: Sequence[Told], graph: CompiledGraph) -> Cut | Refused:
    """Cut a run that failed or was cancelled just before that, with the visit that failed not begun.

    What had ended stays, also in branches that went on beside the visit that failed.
    """
    end = next((told for told in events if isinstance(told[2], _ENDS)), None)
    if end is None:
        return Refused(
            "conflict", "the run has not ended; only a run that failed or was cancelled is resumed"
        )
    if isinstance(end[2], ev.RunSucceeded):
        return Refused("conflict", "the run has succeeded; to do part of it again, fork it from a node")
    run = replayed(events, end[0])
    fresh = isinstance(end[2], ev.RunFailed) and end[2].kind == "LIMIT_EXCEEDED"
    if isinstance(end[2], ev.RunFailed) and run.ended:
        _take_back(run, events)
    if fresh:
        # Whoever resumes a run that ran out of visits grants it as many again.
        run.serial_base, run.visit_base = run.serial, dict(run.visit_counts)
    return _cut(run, events, graph)


_ENDS = (ev.RunSucceeded, ev.RunFailed, ev.RunCancelled)


def _take_back(run: Run, events: Sequence[Told]) -> None:
    """The visit whose end failed the run has not ended."""
    fatal = run.ended.pop(0)
    visit = fatal.visit
    # Only its choice of edges failed: the work itself is done and stays.
    visit.deciding = visit.deciding and bool(fatal.failure)
    run.visits = dict(sorted({**run.visits, visit.serial: visit}.items()))
    if fatal.failure:
        _restore_error(run, events, visit.serial)


def _restore_error(run: Run, events: Sequence[Told], serial: int) -> None:
    """``_error`` in memory as it was before a visit failed."""
    failed = next(
        told[0] for told in events if isinstance(told[2], ev.NodeFailed) and told[2].serial == serial
    )
    before = replayed(events, failed).memory.get(ERROR_KEY)
    if before is None:
        run.memory.pop(ERROR_KEY, None)
    else:
        run.memory[ERROR_KEY] = before


def replayed(events: Sequence[Told], until_seq: int) -> Run:
    """The run as its own events before ``until_seq`` leave it; its children's money is not in it.

    Raises:
        ValueError: the events do not begin with the run's beginning, or do not follow from each other.
    """
    run: Run | None = None
    for seq, at_us, event, content in events:
        if seq >= until_seq:
            break
        try:
            run = _evolved(run, event, content, at_us)
        except evolution.MISFITS as error:
            kind = type(event).__name__
            raise ValueError(f"event {seq} ({kind}) does not fit the state before it: {error!r}") from error
        run.seq = seq
    if run is None:
        raise ValueError("the run's first event is missing")
    return run


def _evolved(run: Run | None, event: ev.Event, content: StepContent, at_us: int) -> Run:
    begin = evolution.BEGIN.get(type(event))
    if begin is not None:
        return begin(event, content, at_us)
    assert run is not None, "the run's first event is missing"
    evolution.evolve(run, event, _said(run, event, content), at_us)
    return run


def _said(run: Run, event: ev.Event, content: StepContent) -> StepContent:
    """Content as ``evolve`` needs it where a conversation was erased at its run's end.

    What an agent loop has said and heard does not matter to a cut: its visit begins again, or has ended.
    """
    visit = run.visits.get(getattr(event, "serial", -1))
    loop = visit.loop if visit is not None else None
    if visit is None or loop is None:
        return content
    if isinstance(event, ev.StepQueued) and event.turn >= len(loop.results):
        missing = event.turn + 1 - len(loop.results)
        loop.results.extend([None] * missing)
        loop.calls.extend([ToolCall("", event.name)] * missing)
    key = ""
    if isinstance(event, ev.StepSucceeded) and visit.steps[event.call].kind is StepKind.TOOL:
        key = "result"
    elif isinstance(event, ev.ApprovalResolved) and event.decision == "answer":
        key = "said"
    return StepContent(outputs={key: NULL}) if key and key not in content.outputs else content


# --- what ----------------------------------------------------------------------------------------


def _cut(run: Run, events: Sequence[Told], graph: CompiledGraph, node: str = "", visit: int = 0) -> Cut:
    visits = {serial: _begin_again(v, graph.nodes[v.node]) for serial, v in run.visits.items()}
    state = Run(
        "",
        "",
        run.team,
        run.agent,
        run.graph,
        run.graph_name,
        budget_nanousd=run.budget_nanousd,
        serial=run.serial,
        visit_counts=run.visit_counts,
        visits=visits,
        tokens=run.tokens,
        ended=[_bare(ended) for ended in run.ended],
        memory=run.memory,
        facts=run.facts,
        writers=run.writers,
        output_keys=run.output_keys,
        strays=run.strays,
        last_ended=run.last_ended,
        terminal_reached=run.terminal_reached,
        completed=run.completed,
        conversation=run.conversation,
        serial_base=run.serial_base,
        visit_base=run.visit_base,
        shelf=run.shelf,
        callback=run.callback,
    )
    begun = {v.serial: v.node for v in visits.values() if not v.deciding}
    again = tuple(graph.nodes[v.node].id for v in visits.values())
    beside = _beside(events, graph, run.seq, node) if node else {}
    repeats = _repeats(events, graph, begun | beside)
    return Cut(state, run.seq, node, visit, again, repeats)


def _beside(events: Sequence[Told], graph: CompiledGraph, seq: int, node: str) -> dict[int, int]:
    """Visits that began behind a cut, to their nodes, but for those that follow from the node cut before."""
    place = next(plan.index for plan in graph.nodes if plan.id == node)
    entered = (told[2] for told in events if told[0] > seq and isinstance(told[2], ev.NodeEntered))
    return {
        event.serial: event.node
        for event in entered
        if event.node != place and not graph.nodes[event.node].reached_from >> place & 1
    }


def _repeats(events: Sequence[Told], graph: CompiledGraph, visits: Mapping[int, int]) -> tuple[str, ...]:
    """Names of the nodes of those visits whose work may have taken effect already, here or in a parent."""
    started = _started(events)
    owed = _owed(events)
    names = [
        graph.nodes[node].id
        for serial, node in visits.items()
        if serial in owed or _may_repeat(graph, graph.nodes[node], started.get(serial, ()))
    ]
    return tuple(dict.fromkeys(names))


def _owed(events: Sequence[Told]) -> set[int]:
    """Visits that a fork took over, and whose work had started in its parent already."""
    origins = [told[2].origin for told in events if isinstance(told[2], ev.RunForked)]
    return {
        serial
        for origin in origins
        for serial, node in zip(origin.serials, origin.again, strict=True)
        if node in origin.repeats
    }


def _begin_again(visit: Visit, node: NodePlan) -> Visit:
    """A visit as it was when it was entered; if its edges are being decided, as when that began."""
    again = Visit(visit.serial, visit.node, visit.floor, visit.path, visit.mapping_edges)
    if visit.deciding:
        call = visit.calls - 1
        model = node.model.model if node.model else ""
        again.steps = {call: Step(call, StepKind.DECIDE, model, "llm")}
        again.calls, again.deciding = visit.calls, True
        if visit.loop is not None and visit.loop.inherits:
            again.loop = Loop(conversation=visit.loop.conversation, inherits=True)
        return again
    kind, name, pool = first_step(node)
    if kind:
        again.steps = {0: Step(0, StepKind(kind), name, pool)}
        again.calls = 1
    return again


def _bare(ended: Ended) -> Ended:
    """A visit whose edges are still to be taken: its place is all that counts."""
    visit = ended.visit
    kept = Visit(visit.serial, visit.node, visit.floor, visit.path, visit.mapping_edges)
    return Ended(kept, ended.failure, ended.message, ended.route, ended.chosen, ended.completed)


def _started(events: Sequence[Told]) -> dict[int, list[Step | None]]:
    """By visit: the steps that an attempt was leased for; None stands for child runs."""
    queued: dict[tuple[int, int], Step] = {}
    started: dict[tuple[int, int], Step | None] = {}
    for _, at_us, event, content in events:
        match event:
            case ev.RunForked():
                for visit in evolution.begin_fork(event, content, at_us).visits.values():
                    queued.update({(visit.serial, step.call): step for step in visit.steps.values()})
            case ev.NodeEntered() if event.step:
                queued[event.serial, 0] = Step(0, StepKind(event.step), event.name, event.pool)
            case ev.StepQueued():
                queued[event.serial, event.call] = Step(
                    event.call, event.kind, event.name, event.pool, turn=event.turn
                )
            case ev.StepStarted():
                started[event.serial, event.call] = queued[event.serial, event.call]
            case ev.LeaseReturned():
                started.pop((event.serial, event.call), None)
            case ev.MapProgressed():
                started[event.serial, -1] = None
            case _:
                pass
    found: dict[int, list[Step | None]] = {}
    for (serial, _), step in started.items():
        found.setdefault(serial, []).append(step)
    return found


def _may_repeat(graph: CompiledGraph, node: NodePlan, started: Sequence[Step | None]) -> bool:
    return any(
        _has_effects(graph, node) if step is None else not is_idempotent(node, step) for step in started
    )


def _has_effects(graph: CompiledGraph, node: NodePlan) -> bool:
    """Whether the body of a map or subgraph holds work that must not run twice."""
    plan = node.map or node.subgraph
    body = next((b for b in graph.subgraphs if plan is not None and b.version == plan.body), None)
    return body is None or any(_is_effect(body, inner) for inner in body.nodes)


def _is_effect(graph: CompiledGraph, node: NodePlan) -> bool:
    match node.kind:
        case NodeKind.MAP | NodeKind.SUBGRAPH:
            return _has_effects(graph, node)
        case NodeKind.FUNCTION | NodeKind.TOOL:
            return not node.idempotent
        case NodeKind.ROUTER:
            return bool(node.function) and not node.idempotent
        case NodeKind.EVENT_LOOP | NodeKind.LLM_TOOL_USE:
            stand_ins = (plan.tool for plan in node.fallbacks)
            return any(tool is not None and not tool.idempotent for tool in (*node.tools, *stand_ins))
        case NodeKind.LLM_GENERATE | NodeKind.HUMAN_INPUT:
            return False


# --- with what -----------------------------------------------------------------------------------


def known_keys(graph: CompiledGraph, state: Run) -> set[str]:
    """Keys of memory that mean something: there already, or named by the graph."""
    keys = {*state.memory, *(path[0] for path in graph.facts)}
    for node in graph.nodes:
        keys.update((*node.input_keys, *node.output_keys))
        if node.map is not None:
            keys.add(node.map.over)
    keys.update(source for edge in graph.edges for _, source in edge.input_mapping)
    return keys - {ERROR_KEY}


def change(state: Run, values: Mapping[str, Value], facts: Mapping[str, Any]) -> None:
    """Put other values into a cut; facts of the values that they replace go."""
    state.memory.update(values)
    state.facts = {
        name: fact for name, fact in state.facts.items() if name.partition(".")[0] not in values
    } | dict(facts)


# --- the new run ---------------------------------------------------------------------------------


def fork(
    command: Fork, graph: CompiledGraph, key: bytes, priority: int, outside: bool, now: Moment
) -> list[Draft] | Refused:
    """The first events of a run that goes on from another's state.

    Conversations go apart: they do not outlive the run, and its state must.

    Args:
        key: reference to the content key of the new run.
        priority: index into ``core.plan.CLASSES``.
        outside: it must wait at the entrance.
    """
    if len(command.content.state) > MOST_BYTES:
        size = len(command.content.state)
        return Refused("invalid", f"the state at the cut has {size} bytes, more than {MOST_BYTES}")
    event = ev.RunForked(
        command.run,
        command.request_id,
        command.team,
        command.agent,
        command.graph,
        command.budget_nanousd,
        command.deadline_us or now.wall_us + graph.deadline_us,
        command.origin,
        command.idempotency_key,
        command.digest,
        command.principal,
        command.traceparent,
        graph.name or graph.id,
        key,
        priority,
        outside,
    )
    state = runs.decode_run(command.content.state)
    turns = runs.part_turns(state)
    if not turns.run and not turns.loops:
        return [draft(event, command.content)]
    silent = msgspec.structs.replace(command.content, state=runs.encode_run(state))
    said = StepContent(state=runs.encode_turns(turns))
    carried = draft(ev.ConversationCarried(command.run), said, conversation=True)
    return [draft(event, silent), carried]
