"""A graph that was accepted under other prices, as it is under those of today.

What is reserved for a call rests on the prices in its plan, and what is charged on those that workers know:
an agent that was registered before a price rose would otherwise pass budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from hive_ray.graph.compiled import CompiledGraph, FallbackPlan, MapPlan, ModelPlan, NodePlan, SubgraphPlan
from hive_ray.graph.compiler import content_hash
from hive_ray.graph.environment import ModelInfo

Models = Mapping[str, ModelInfo]
Nested = TypeVar("Nested", MapPlan, SubgraphPlan)


def repriced(graph: CompiledGraph, models: Models) -> CompiledGraph:
    """The same graph if its prices are those of the models; else another version of it.

    Models that are not there, or have no price, keep the one that they had.
    """
    bodies = {body.version: repriced(body, models) for body in graph.subgraphs}
    nodes = tuple(_node(node, models, bodies) for node in graph.nodes)
    if nodes == graph.nodes:
        return graph
    found = msgspec.structs.replace(graph, nodes=nodes, subgraphs=tuple(bodies.values()))
    return msgspec.structs.replace(found, version=content_hash(found))


def _node(node: NodePlan, models: Models, bodies: Mapping[str, CompiledGraph]) -> NodePlan:
    return msgspec.structs.replace(
        node,
        model=_model(node.model, models),
        fallbacks=tuple(_fallback(plan, models) for plan in node.fallbacks),
        map=_nested(node.map, bodies),
        subgraph=_nested(node.subgraph, bodies),
    )


def _model(plan: ModelPlan | None, models: Models) -> ModelPlan | None:
    info = models.get(plan.model) if plan is not None else None
    if plan is None or info is None or info.input_nanousd_per_mtok is None:
        return plan
    return msgspec.structs.replace(
        plan,
        input_nanousd_per_mtok=info.input_nanousd_per_mtok,
        output_nanousd_per_mtok=info.output_nanousd_per_mtok or 0,
    )


def _fallback(plan: FallbackPlan, models: Models) -> FallbackPlan:
    return msgspec.structs.replace(plan, model=_model(plan.model, models))


def _nested(plan: Nested | None, bodies: Mapping[str, CompiledGraph]) -> Nested | None:
    return msgspec.structs.replace(plan, body=bodies[plan.body].version) if plan is not None else None
