"""The steps with which a run would begin, known before it does: of a fork there may be several.

Those behind edges that a fork has still to choose are not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hive_ray.core import evolution, routing
from hive_ray.core.commands import Fork, Submit
from hive_ray.core.events import NodeEntered
from hive_ray.core.routing import first_step, inputs_of
from hive_ray.core.run import decode_run
from hive_ray.core.values import Value
from hive_ray.graph.compiled import CompiledGraph, NodePlan


class Beginning(NamedTuple):
    """A step that would be ready at once."""

    node: NodePlan
    kind: str
    name: str
    """Of its function, tool or model."""
    pool: str
    inputs: Mapping[str, Value]


def beginnings(command: Submit | Fork, graph: CompiledGraph) -> list[Beginning]:
    """None for nodes that begin without a step, nor for a choice of edges.

    Raises:
        msgspec.DecodeError: a fork comes without a state.
    """
    found = _submitted(command, graph) if isinstance(command, Submit) else _forked(command, graph)
    return [Beginning(node, *first_step(node), inputs) for node, inputs in found if first_step(node)[0]]


def _submitted(command: Submit, graph: CompiledGraph) -> Iterator[tuple[NodePlan, Mapping[str, Value]]]:
    node, given = graph.nodes[graph.entry], command.content.outputs
    yield node, {key: given[key] for key in node.input_keys if key in given}


def _forked(command: Fork, graph: CompiledGraph) -> Iterator[tuple[NodePlan, Mapping[str, Value]]]:
    state = decode_run(command.content.state)
    for drafted in routing.enter(state, graph) if state.serial else routing.enter_first(state, graph):
        if isinstance(drafted.event, NodeEntered):
            evolution.evolve(state, drafted.event, drafted.decoded, 0)
    for visit in state.visits.values():
        if not visit.deciding:
            yield graph.nodes[visit.node], inputs_of(state, graph, visit)
