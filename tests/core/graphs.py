"""Compiled graphs for tests of the core, from as few words as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from hive_ray.core.policies import Fact
from hive_ray.graph.asking import AskPlan
from hive_ray.graph.compiled import (
    CompiledGraph,
    EdgeCondition,
    EdgePlan,
    Expression,
    HumanPlan,
    MapPlan,
    Mask,
    ModelPlan,
    NodeKind,
    NodePlan,
    SubgraphPlan,
    ToolPlan,
)
from hive_ray.graph.policies import RulePlan
from hive_ray.graph.reachability import back_arcs, reached_from

HOUR_US = 3_600_000_000
MODEL = ModelPlan("small", max_tokens=10, prompt_bytes=100)


def node(id: str, kind: NodeKind = NodeKind.FUNCTION, **fields: Any) -> NodePlan:
    """A node whose place in the graph ``graph`` fills in; functions are idempotent unless told otherwise."""
    defaults: dict[str, Any] = {"pool": "function", "output_keys": (id,), "idempotent": True, "function": id}
    return NodePlan(id=id, index=-1, kind=kind, **(defaults | fields))


def mail(id: str, **fields: Any) -> NodePlan:
    """A function that must not run twice."""
    return node(id, idempotent=False, **fields)


def llm(id: str, kind: NodeKind = NodeKind.LLM_GENERATE, **fields: Any) -> NodePlan:
    return node(id, kind, **({"model": MODEL, "function": "", "pool": "llm"} | fields))


def agent(id: str, *tools: ToolPlan, **fields: Any) -> NodePlan:
    return llm(id, NodeKind.EVENT_LOOP, tools=tools, **fields)


def tool(name: str, idempotent: bool = True, cost_nanousd: int = 0) -> ToolPlan:
    return ToolPlan(name, "function", idempotent, cost_nanousd=cost_nanousd)


def human(
    id: str,
    *outputs: str,
    deadline_us: int = 72 * HOUR_US,
    asks: AskPlan | None = None,
    default: bytes = b"",
    **fields: Any,
) -> NodePlan:
    approved = "approved" in outputs
    plan = HumanPlan("may it go out?", b"{}", deadline_us, "boss", approved, asks, default)
    return node(id, NodeKind.HUMAN_INPUT, output_keys=outputs, human=plan, **fields)


def mapping(id: str, over: str, body: CompiledGraph, pause: bool = False, **plan: Any) -> NodePlan:
    return node(id, NodeKind.MAP, map=MapPlan(over, "item", body.version, **plan), pause=pause)


def nested(id: str, body: CompiledGraph, **fields: Any) -> NodePlan:
    return node(id, NodeKind.SUBGRAPH, subgraph=SubgraphPlan(body.version), **fields)


def edge(source: str, target: str, condition: str = "on_success", when: str = "", **fields: Any) -> Any:
    """``when``: a condition for ``Facts``, the evaluator of these tests."""
    return source, target, EdgeCondition(condition), when, fields


def graph(
    nodes: Sequence[NodePlan], edges: Sequence[Any] = (), id: str = "g", **fields: Any
) -> CompiledGraph:
    """A compiled graph; the first node is the entry."""
    places = {node.id: index for index, node in enumerate(nodes)}
    conditions = list(dict.fromkeys(when for _, _, _, when, _ in edges if when))
    plans = tuple(
        EdgePlan(
            f"{source}-{target}-{index}",
            index,
            places[source],
            places[target],
            condition,
            expression=conditions.index(when) if when else -1,
            **more,
        )
        for index, (source, target, condition, when, more) in enumerate(edges)
    )
    arcs = [(plan.source, plan.target) for plan in plans]
    back = back_arcs(len(nodes), arcs, 0)
    plans = tuple(msgspec.structs.replace(plan, back=arcs[plan.index] in back) for plan in plans)
    masks = reached_from(len(nodes), arcs)
    forward = reached_from(len(nodes), [arc for arc in arcs if arc not in back])
    placed = tuple(
        msgspec.structs.replace(
            node,
            index=index,
            out_edges=tuple(plan.index for plan in plans if plan.source == index),
            reached_from=Mask(masks[index]),
            comes_after=Mask(forward[index]),
            decides=any(p.source == index and p.condition is EdgeCondition.LLM_DECIDE for p in plans),
        )
        for index, node in enumerate(nodes)
    )
    expressions = tuple(Expression(when, "", ()) for when in conditions)
    facts = tuple((when.removeprefix("not "),) for when in conditions)
    return CompiledGraph(id, id, 0, placed, plans, expressions, facts, **fields)


def chain(*nodes: NodePlan, id: str = "g", **fields: Any) -> CompiledGraph:
    edges = [edge(a.id, b.id) for a, b in pairwise(nodes)]
    return graph(nodes, edges, id, **fields)


class Facts:
    """An evaluator whose conditions are a fact's name, or ``not`` and a name; ``broken`` has no value."""

    def evaluate(self, graph: CompiledGraph, expression: int, facts: Mapping[str, Any]) -> bool:
        source = graph.expressions[expression].source
        if source == "broken":
            raise ValueError("`broken`: no such overload")
        name = source.removeprefix("not ")
        return bool(facts.get(name)) is (name == source)

    def matches(self, rule: RulePlan, fact: Fact) -> bool:
        """``when`` of a rule is a fact's name, or ``not`` and a name; ``broken`` has no answer."""
        if rule.when == "broken":
            raise ValueError("`broken`: no such overload")
        name = rule.when.removeprefix("not ")
        return not rule.when or bool(fact(name)) is (name == rule.when)
