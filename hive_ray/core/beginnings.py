"""The steps with which a run would begin, known before it does: of a fork there may be several.

Where a fork begins with a model's choice of edges, that choice is one of them; what it leads to is not known.
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
    memory: Mapping[str, Value] = {}
    """Of a choice of edges: the run's, in which the node's outputs are."""


def beginnings(command: Submit | Fork, graph: CompiledGraph) -> list[Beginning]:
    """None for nodes that begin without a step.

    Raises:
        msgspec.DecodeError: a fork comes without a state.
    """
    found = _submitted(command, graph) if isinstance(command, Submit) else _forked(command, graph)
    return [first for first in found if first.kind]


def _submitted(command: Submit, graph: CompiledGraph) -> Iterator[Beginning]:
    node, given = graph.nodes[graph.entry], command.content.outputs
    yield Beginning(node, *first_step(node), {key: given[key] for key in node.input_keys if key in given})


def _forked(command: Fork, graph: CompiledGraph) -> Iterator[Beginning]:
    state = decode_run(command.content.state)
    for drafted in routing.enter(state, graph) if state.serial else routing.enter_first(state, graph):
        if isinstance(drafted.event, NodeEntered):
            evolution.evolve(state, drafted.event, drafted.decoded, 0)
    for visit in state.visits.values():
        node, inputs = graph.nodes[visit.node], inputs_of(state, graph, visit)
        if not visit.deciding:
            yield Beginning(node, *first_step(node), inputs)
            continue
        for step in visit.steps.values():
            yield Beginning(node, step.kind, step.name, step.pool, inputs, state.memory)
