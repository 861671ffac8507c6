"""Maps and subgraphs: nodes whose work is done by child runs.

A subgraph node is a map over one item. Only the items of the window have a child at any time; results
keep the order of the items, whatever the order in which the children end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import agent_loop, steps
from hive_ray.core import events as ev
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent, StepKind
from hive_ray.core.routing import inputs_of
from hive_ray.core.run import ITEMS, Children, Run, RunStatus, Visit
from hive_ray.core.values import Value, decode, inline
from hive_ray.graph.compiled import (
    TOO_LARGE,
    CompiledGraph,
    MapPlan,
    NodeKind,
    NodePlan,
    extract_facts,
    fact_name,
)

MAX_DEPTH = 8


class Opened(NamedTuple):
    """What a map's window needs: events of the parent and the first event of each new child."""

    parent: list[Draft]
    children: list[Draft]


NOTHING_OPENED = Opened([], [])

FAILED = "!"
"""Key under which a collected failure stands in place of an item's outputs."""


def begin(run: Run, graph: CompiledGraph, visit: Visit, bodies: Mapping[str, CompiledGraph]) -> Opened:
    """Open the first window, or fail the node if there is nothing to map over."""
    node = graph.nodes[visit.node]
    if run.depth >= MAX_DEPTH:
        why = f"subgraphs are nested deeper than {MAX_DEPTH}"
        return Opened([steps.fail_node(run, node, visit, FailureKind.LIMIT_EXCEEDED, why)], [])
    if node.kind is NodeKind.SUBGRAPH:
        return _open(run, graph, visit, bodies, total=1)
    plan = _plan(node)
    value = inputs_of(run, graph, visit).get(plan.over) or run.memory.get(plan.over)
    count = _count(plan, value)
    if value is None or isinstance(count, str):
        return Opened([steps.fail_node(run, node, visit, FailureKind.BAD_INPUT, str(count))], [])
    if count > plan.max_items:
        why = f"{plan.over} has {count} items, more than max_items = {plan.max_items}"
        return Opened([steps.fail_node(run, node, visit, FailureKind.LIMIT_EXCEEDED, why)], [])
    if not count:
        return Opened([_collect(run, visit)], [])
    return _open(run, graph, visit, bodies, count, value)


def _plan(node: NodePlan) -> MapPlan:
    assert node.map is not None
    return node.map


def _count(plan: MapPlan, value: Value | None) -> int | str:
    """How many items the list has, or what is wrong with it."""
    if value is None:
        return f"{plan.over} is not in memory: a map needs a list there"
    if value.item >= 0:
        return f"{plan.over} is an item of a large list: a node must hand its inner list on before a map"
    if value.blob:
        return value.items if value.items >= 0 else f"{plan.over} is not a list: a map needs one there"
    items = decode(value)
    if not isinstance(items, list):
        return f"{plan.over} is a {type(items).__name__}: a map needs a list"
    return len(items)


def _open(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    bodies: Mapping[str, CompiledGraph],
    total: int,
    items: Value | None = None,
) -> Opened:
    """Fill the window. ``items``: the list, when the map begins; later it stands in the visit."""
    node = graph.nodes[visit.node]
    children = visit.children or Children(total, items=items)
    window = node.map.window if node.map else 1
    until = min(total, children.started + window - len(children.live))
    numbers = range(children.started, until)
    if not numbers:
        return NOTHING_OPENED
    ids = tuple(f"{run.id}_{visit.serial}-{number}" for number in numbers)
    event = ev.MapProgressed(run.id, visit.serial, until, total, children=ids)
    progressed = draft(event, StepContent(outputs={ITEMS: items})) if items else Draft(event)
    given = _given(run, graph, visit, children.items, numbers)
    body = bodies[_body(node)]
    born = [
        _child(run, visit, child, number, body, inputs)
        for number, child, inputs in zip(numbers, ids, given, strict=True)
    ]
    return Opened([progressed], born)


def _given(
    run: Run, graph: CompiledGraph, visit: Visit, items: Value | None, numbers: range
) -> list[dict[str, Value]]:
    """The input of each new child."""
    inputs = inputs_of(run, graph, visit)
    plan = graph.nodes[visit.node].map
    if plan is None or items is None:
        return [inputs for _ in numbers]
    return [{**inputs, plan.item_key: item} for item in _picked(items, numbers)]


def _picked(items: Value, numbers: range) -> list[Value]:
    """Some items of a list; of one in a blob, references."""
    if items.blob:
        return [msgspec.structs.replace(items, items=-1, item=number) for number in numbers]
    values = decode(items)
    return [inline(values[number]) for number in numbers]


def _body(node: NodePlan) -> str:
    if node.map:
        return node.map.body
    assert node.subgraph is not None
    return node.subgraph.body


def _child(
    run: Run, visit: Visit, child: str, number: int, body: CompiledGraph, given: dict[str, Value]
) -> Draft:
    event = ev.RunSubmitted(
        child,
        run.request_id,
        run.team,
        run.agent,
        body.version,
        -1,
        run.deadline_us,
        principal=run.principal,
        traceparent=run.traceparent,
        parent=run.id,
        parent_serial=visit.serial,
        item=number,
        depth=run.depth + 1,
        graph_name=body.name or body.id,
        key=run.key,
        priority=run.priority,
    )
    return draft(event, StepContent(outputs=given, facts=_facts(body, given)))


def _facts(graph: CompiledGraph, values: dict[str, Value]) -> dict[str, Any]:
    """Facts of values of which some are blobs: a condition that reads one of those fails by name."""
    small = {key: decode(value) for key, value in values.items() if not value.blob}
    unread = {fact_name(p): TOO_LARGE for p in graph.facts if p[0] in values and values[p[0]].blob}
    return extract_facts(graph, small) | unread


def child_ended(run: Run, graph: CompiledGraph, visit: Visit, child: Run) -> list[Draft]:
    """A child is terminal: note its result, or fail the node. The window moves in ``move_window``."""
    node = graph.nodes[visit.node]
    succeeded = child.status is RunStatus.SUCCEEDED
    kind = "" if succeeded else (child.failure or FailureKind.CANCELLED)
    why = child.message or child.reason or str(child.status)
    if not succeeded and (node.map is None or node.map.on_failure == "fail"):
        where = f"item {child.item}" if node.map else f"the subgraph (run {child.id})"
        return [steps.fail_node(run, node, visit, kind, f"{where}: {why}")]
    assert visit.children is not None
    started, total = visit.children.started, visit.children.total
    event = ev.MapProgressed(run.id, visit.serial, started, total, child.item, str(kind))
    return [draft(event, StepContent(outputs=_result(node, child, str(kind), why)))]


def _result(node: NodePlan, child: Run, kind: str, why: str) -> dict[str, Value]:
    if not kind:
        return {key: child.memory[key] for key in child.output_keys if key in child.memory}
    if node.map and node.map.on_failure == "collect":
        return {FAILED: inline({"error": kind, "message": why})}
    return {}


def move_window(run: Run, graph: CompiledGraph, visit: Visit, bodies: Mapping[str, CompiledGraph]) -> Opened:
    """Start the next items, or end the node when all have ended."""
    children = visit.children
    if children is None:
        return NOTHING_OPENED
    if children.started < children.total:
        return _open(run, graph, visit, bodies, children.total)
    if children.live or visit.steps:
        return NOTHING_OPENED
    node = graph.nodes[visit.node]
    if node.kind is NodeKind.SUBGRAPH:
        return Opened(_handed_up(run, graph, node, visit), [])
    return Opened([_collect(run, visit)], [])


def _handed_up(run: Run, graph: CompiledGraph, node: NodePlan, visit: Visit) -> list[Draft]:
    assert visit.children is not None
    result = visit.children.results[0]
    outputs = {key: result[key] for key in (node.output_keys or result) if key in result}
    content = StepContent(outputs=outputs, facts=_facts(graph, outputs))
    return agent_loop.end_well(run, node, visit, content)


def _collect(run: Run, visit: Visit) -> Draft:
    """A worker puts the list together: items may be blobs, which the controller never reads."""
    return Draft(ev.StepQueued(run.id, visit.serial, visit.calls, StepKind.COLLECT, "collect", "function"))


def collect_inputs(visit: Visit) -> dict[str, Value]:
    """Inputs of the collecting step: ``"3.summary"`` is what item 3 wrote under ``summary``."""
    if visit.children is None:
        return {}
    return {
        f"{number}.{key}": value
        for number, result in sorted(visit.children.results.items())
        for key, value in result.items()
    }
