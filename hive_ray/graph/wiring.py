"""Edges of a graph as they will be walked: declared ones, and those that routers' ``routes`` make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hive_ray.graph.compiled import EdgeCondition, EdgePlan, NodeKind
from hive_ray.graph.expressions import ExpressionFault, compile_condition
from hive_ray.graph.findings import Findings
from hive_ray.graph.spec import EdgeSpec, GraphSpec, NodeSpec, nearest
from hive_ray.graph.tables import Tables

_PLAIN = (EdgeCondition.ALWAYS, EdgeCondition.ON_SUCCESS, EdgeCondition.CONDITIONAL)


def plan_edges(
    spec: GraphSpec, positions: Mapping[str, int], tables: Tables, findings: Findings
) -> list[EdgePlan]:
    """Every edge whose ends exist, declared ones first.

    Args:
        positions: node id to index.
        tables: receives the conditions and the facts that they read.
    """
    _check_ids(spec, findings)
    routes = _routes(spec, positions, findings)
    edges: list[EdgePlan] = []
    for edge in spec.edges:
        plan = _declared(edge, len(edges), positions, tables, findings)
        if plan is not None:
            edges.append(_as_route(plan, spec, routes))
    taken = {edge.id for edge in edges}
    for source, key, target in routes:
        name = f"{source}:{key}" if f"{source}:{key}" not in taken else f"{source}:{key}:route"
        ends = positions[source], positions[target]
        edges.append(EdgePlan(name, len(edges), *ends, EdgeCondition.ROUTE, route=key))
    return edges


def _check_ids(spec: GraphSpec, findings: Findings) -> None:
    seen: set[str] = set()
    for edge in spec.edges:
        if edge.id in seen:
            findings.error(
                f"edges.{edge.id}", "a second edge with this id", "give each edge an id of its own"
            )
        seen.add(edge.id)


Route = tuple[str, str, str]


def _routes(spec: GraphSpec, positions: Mapping[str, int], findings: Findings) -> list[Route]:
    """(router, key, target), by key: the order of a JSON object's keys means nothing."""
    found: list[Route] = []
    for node in spec.nodes:
        for key, target in sorted(node.routes.items()):
            if target in positions:
                found.append((node.id, key, target))
            else:
                place = f"nodes.{node.id}.routes.{key}"
                findings.error(place, f"no node '{target}'", nearest(target, positions))
    return found


def _as_route(edge: EdgePlan, spec: GraphSpec, routes: list[Route]) -> EdgePlan:
    """A declared edge that repeats a route becomes that route, so that it is not taken on every answer."""
    if edge.condition not in _PLAIN:
        return edge
    ends = spec.nodes[edge.source].id, spec.nodes[edge.target].id
    route = next((route for route in routes if (route[0], route[2]) == ends), None)
    if route is None:
        return edge
    routes.remove(route)
    return EdgePlan(
        id=edge.id, index=edge.index, source=edge.source, target=edge.target, condition=EdgeCondition.ROUTE,
        priority=edge.priority, expression=edge.expression, input_mapping=edge.input_mapping, route=route[1],
        description=edge.description,
    )  # fmt: skip


def _declared(
    edge: EdgeSpec, index: int, positions: Mapping[str, int], tables: Tables, findings: Findings
) -> EdgePlan | None:
    expression = _expression(edge, tables, findings)
    mapping = _input_mapping(edge, findings)
    known = [_known_end(edge, end, positions, findings) for end in ("source", "target")]
    if not all(known):
        return None
    return EdgePlan(
        id=edge.id, index=index, source=positions[edge.source], target=positions[edge.target],
        condition=edge.condition, priority=edge.priority, expression=expression, input_mapping=mapping,
        description=edge.description,
    )  # fmt: skip


def _known_end(edge: EdgeSpec, end: str, positions: Mapping[str, int], findings: Findings) -> bool:
    name: str = getattr(edge, end)
    if name in positions:
        return True
    findings.error(f"edges.{edge.id}.{end}", f"no node '{name}'", nearest(name, positions))
    return False


def _expression(edge: EdgeSpec, tables: Tables, findings: Findings) -> int:
    place = f"edges.{edge.id}.condition_expr"
    if edge.condition is EdgeCondition.ROUTE:
        findings.error(f"edges.{edge.id}.condition", "'route' is made from a router's routes", "use 'routes'")
    if edge.condition_expr is None or not edge.condition_expr.strip():
        if edge.condition is EdgeCondition.CONDITIONAL:
            findings.error(place, "missing on a conditional edge", "add it, or use on_success")
        return -1
    try:
        tables.expressions.append(compile_condition(edge.condition_expr, tables.facts, tables.keys))
    except ExpressionFault as fault:
        findings.error(place, fault.problem, fault.remedy)
        return -1
    return len(tables.expressions) - 1


def _input_mapping(edge: EdgeSpec, findings: Findings) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for name, value in sorted(edge.input_mapping.items()):
        key = value.strip().strip("{}").strip()
        for context in ("output.", "memory."):
            key = key.removeprefix(context)
        if not key or any(char in key for char in ".[]{} "):
            remedy = "name a whole memory key: KEY, {KEY} or output.KEY"
            findings.error(f"edges.{edge.id}.input_mapping.{name}", f"'{value}' is not a key", remedy)
        pairs.append((name, key))
    return tuple(pairs)


def decided_edges(edges: Sequence[EdgePlan]) -> dict[int, list[EdgePlan]]:
    """By source: the edges among which a model chooses."""
    found: dict[int, list[EdgePlan]] = {}
    for edge in edges:
        if edge.condition is EdgeCondition.LLM_DECIDE:
            found.setdefault(edge.source, []).append(edge)
    return found


def is_llm_router(node: NodeSpec) -> bool:
    """A router without a function lets a model choose among its routes."""
    return node.node_type is NodeKind.ROUTER and node.function is None
