"""Whether an event can have come from a graph: its positions and names are those of the graph's nodes."""

from __future__ import annotations

from hive_ray.core import events as ev
from hive_ray.core.messages import StepKind
from hive_ray.core.routing import first_step
from hive_ray.core.run import Run
from hive_ray.graph.compiled import CompiledGraph


def misfit(graph: CompiledGraph, run: Run | None, event: ev.Event) -> str:
    """What is wrong with an event in a run of this graph; empty if nothing is.

    Args:
        run: the state before the event; None before the first.
    """
    match event:
        case ev.RunSubmitted() | ev.RunForked():
            return "" if event.graph == graph.version else f"is of graph {event.graph}, not {graph.version}"
        case ev.NodeEntered():
            return _entered(graph, event) or _led_to(run, event)
        case ev.EdgesTaken():
            return _taken(graph, run, event)
        case ev.NodeSucceeded() | ev.NodeFailed():
            return _left(graph, run, event)
        case ev.RunSucceeded() if run is not None and (run.visits or run.tokens or run.ended):
            return "succeeds while something of it is under way"
        case _:
            return ""


def _entered(graph: CompiledGraph, event: ev.NodeEntered) -> str:
    if not 0 <= event.node < len(graph.nodes):
        return f"enters node {event.node} ({event.node_id}); the graph has {len(graph.nodes)} nodes"
    node = graph.nodes[event.node]
    if node.id != event.node_id:
        return f"enters {event.node_id}; node {event.node} of the graph is {node.id}"
    kind = first_step(node)[0]
    if event.step != kind:
        return f"enters {node.id} with {event.step or 'no step'}; it begins with {kind or 'no step'}"
    return ""


def _led_to(run: Run | None, event: ev.NodeEntered) -> str:
    if run is None:
        return f"enters {event.node_id} before it was submitted"
    if event.serial != run.serial + 1:
        return f"enters {event.node_id} as visit {event.serial}; the next one is {run.serial + 1}"
    if run.serial and not any(token.target == event.node for token in run.tokens):
        return f"enters {event.node_id}, to which no edge was taken"
    return ""


def _taken(graph: CompiledGraph, run: Run | None, event: ev.EdgesTaken) -> str:
    for index, target, name in zip(event.edges, event.targets, event.edge_ids, strict=True):
        if not 0 <= index < len(graph.edges):
            return f"takes edge {index} ({name}); the graph has {len(graph.edges)} edges"
        edge = graph.edges[index]
        if (edge.id, edge.target) != (name, target):
            return (
                f"takes {name} to node {target}; edge {index} of the graph is {edge.id} to node {edge.target}"
            )
        if graph.nodes[edge.source].id != event.node_id:
            return f"takes {name} from {event.node_id}; it leaves {graph.nodes[edge.source].id}"
    return ""


def _left(graph: CompiledGraph, run: Run | None, event: ev.NodeSucceeded | ev.NodeFailed) -> str:
    visit = run.visits.get(event.serial) if run is not None else None
    if visit is None:
        return f"ends visit {event.serial}, which is not under way"
    node = graph.nodes[visit.node]
    return (
        ""
        if event.node_id in ("", node.id)
        else f"ends {event.node_id}; visit {event.serial} is at {node.id}"
    )


def strays(graph: CompiledGraph, run: Run) -> str:
    """What in a run's state cannot be in its graph; empty if it fits."""
    for visit in run.visits.values():
        if not 0 <= visit.node < len(graph.nodes):
            return f"is at node {visit.node}; the graph has {len(graph.nodes)} nodes"
        kinds = {step.kind for step in visit.steps.values()} - {StepKind.DECIDE, StepKind.COLLECT}
        node = graph.nodes[visit.node]
        if kinds and visit.loop is None and {first_step(node, paused=True)[0]} != kinds:
            return f"runs a {'/'.join(sorted(kinds))} step at node {node.id}, which has none"
    for token in run.tokens:
        if not 0 <= token.edge < len(graph.edges) or graph.edges[token.edge].target != token.target:
            return f"has taken edge {token.edge} to node {token.target}, which the graph does not have"
    return ""
