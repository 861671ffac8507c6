"""``GraphSpec`` -> ``CompiledGraph``: the whole graph is checked before any of it is accepted.

``compile_graph`` refuses with every fault at once; ``lint`` gives errors and warnings. A graph is
identified by the SHA-256 of its content: key order, name and the place of a file do not enter it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hive_ray.errors import GraphError
from hive_ray.graph.advice import warn_about
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, EdgePlan, Mask, NodePlan, encode_graph
from hive_ray.graph.environment import CompileEnvironment, FunctionInfo, ModelInfo, ToolInfo
from hive_ray.graph.findings import Finding, Findings, Severity
from hive_ray.graph.hive_format import SUBGRAPH_DEPTH_LIMIT
from hive_ray.graph.node_plans import NodeContext, plan_node
from hive_ray.graph.prompts import measured
from hive_ray.graph.reachability import back_arcs, reachable, reached_from
from hive_ray.graph.spec import GraphSpec, nearest
from hive_ray.graph.tables import Tables
from hive_ray.graph.wiring import decided_edges, plan_edges

__all__ = [
    "CompileEnvironment", "Finding", "FunctionInfo", "ModelInfo", "Severity", "ToolInfo",
    "compile_graph", "content_hash", "lint",
]  # fmt: skip

DEADLINE_S = 24 * 3600.0
_ANYTHING = CompileEnvironment()


def compile_graph(spec: GraphSpec, environment: CompileEnvironment = _ANYTHING) -> CompiledGraph:
    """The plan that the controller and the workers execute.

    Raises:
        GraphError: every fault, each with node or edge id and what would be right.
    """
    findings = Findings()
    graph = _compile(spec, environment, findings, 0)
    if graph is None:
        raise GraphError(f"graph '{spec.id}'", findings.faults())
    return graph


def lint(spec: GraphSpec, environment: CompileEnvironment = _ANYTHING) -> list[Finding]:
    """Errors and warnings, errors first."""
    findings = Findings()
    _compile(spec, environment, findings, 0)
    return sorted(findings.all, key=lambda finding: finding.severity)


def content_hash(graph: CompiledGraph) -> str:
    """Hex SHA-256 of what a graph does; nested graphs enter through their own hashes."""
    content = msgspec.structs.replace(graph, version="", name="", subgraphs=())
    return hashlib.sha256(_without_unused(encode_graph(content))).hexdigest()


def _without_unused(encoded: bytes) -> bytes:
    """The form of a graph that uses no later addition to the format: its hash stays what it was."""
    graph: dict[str, Any] = msgspec.msgpack.decode(encoded)
    for node in graph["nodes"]:
        for name in LATER:
            if not node[name]:
                del node[name]
        for plan in (node, *node["tools"]):
            if not plan["memory"]:
                del plan["memory"]
    return msgspec.msgpack.encode(graph)


LATER = ("deadline_us", "fallbacks")
"""Fields of a node that 0.1.0 did not have."""


@dataclass(slots=True)
class _Bodies:
    """Nested graphs, compiled once each."""

    environment: CompileEnvironment
    findings: Findings
    depth: int
    found: dict[str, CompiledGraph] = field(default_factory=dict[str, CompiledGraph])

    def compile(self, spec: GraphSpec, place: str) -> str:
        """Hash of the nested graph; empty if it has faults."""
        graph = _compile(spec, self.environment, self.findings.below(place), self.depth + 1)
        if graph is None:
            return ""
        self.found[graph.version] = graph
        return graph.version


def _compile(
    spec: GraphSpec, environment: CompileEnvironment, findings: Findings, depth: int
) -> CompiledGraph | None:
    if depth > SUBGRAPH_DEPTH_LIMIT:
        findings.error("nodes", f"nested deeper than {SUBGRAPH_DEPTH_LIMIT} graphs", "flatten the graph")
        return None
    before = len(findings.faults())
    positions = _positions(spec, findings)
    tables = Tables(_memory_keys(spec))
    edges = plan_edges(spec, positions, tables, findings)
    bodies = _Bodies(environment, findings, depth)
    context = NodeContext(spec, environment, findings, decided_edges(edges), bodies.compile)
    nodes = [plan_node(node, index, context) for index, node in enumerate(spec.nodes)]
    entry = _entry(spec, positions, edges, findings)
    terminal = _terminal(spec, positions, edges, findings)
    if len(findings.faults()) > before:
        return None
    wired, directed = _wired(nodes, edges, terminal, entry)
    warn_about(spec, wired, directed, entry, tables, findings)
    return _assembled(spec, entry, wired, directed, tables, bodies.found)


def _positions(spec: GraphSpec, findings: Findings) -> dict[str, int]:
    positions: dict[str, int] = {}
    for index, node in enumerate(spec.nodes):
        if node.id in positions:
            findings.error(
                f"nodes.{node.id}", "a second node with this id", "give each node an id of its own"
            )
        positions.setdefault(node.id, index)
    for name in spec.pause_nodes:
        if name not in positions:
            findings.error("pause_nodes", f"no node '{name}'", nearest(name, positions))
    return positions


def _memory_keys(spec: GraphSpec) -> frozenset[str]:
    keys: set[str] = set()
    for node in spec.nodes:
        keys.update(node.input_keys, node.output_keys)
    return frozenset(keys)


def _entry(
    spec: GraphSpec, positions: Mapping[str, int], edges: Sequence[EdgePlan], findings: Findings
) -> int:
    if spec.entry_node is not None:
        if spec.entry_node not in positions:
            findings.error("entry_node", f"no node '{spec.entry_node}'", nearest(spec.entry_node, positions))
        return positions.get(spec.entry_node, -1)
    reached = {edge.target for edge in edges if edge.source != edge.target}
    delegated = {name for node in spec.nodes for name in node.sub_agents}
    first = [index for name, index in positions.items() if index not in reached and name not in delegated]
    if len(first) != 1:
        names = ", ".join(spec.nodes[index].id for index in first[:8]) or "none"
        findings.error(
            "entry_node", f"missing, and not plain (without incoming edges: {names})", "name the first node"
        )
        return -1
    return first[0]


def _terminal(
    spec: GraphSpec, positions: Mapping[str, int], edges: Sequence[EdgePlan], findings: Findings
) -> frozenset[str]:
    if spec.terminal_nodes is None:
        left = {edge.source for edge in edges}
        return frozenset(node.id for index, node in enumerate(spec.nodes) if index not in left)
    for name in spec.terminal_nodes:
        if name not in positions:
            findings.error("terminal_nodes", f"no node '{name}'", nearest(name, positions))
    return frozenset(spec.terminal_nodes)


_AFTER_FAILURE = (EdgeCondition.ALWAYS, EdgeCondition.ON_FAILURE)


def _wired(
    nodes: Sequence[NodePlan], edges: Sequence[EdgePlan], terminal: frozenset[str], entry: int
) -> tuple[tuple[NodePlan, ...], tuple[EdgePlan, ...]]:
    """Nodes with their edges and masks, edges with their direction.

    A terminal node that succeeds takes no edge.
    """
    last = {node.index for node in nodes if node.id in terminal}
    taken = [edge for edge in edges if edge.source not in last or edge.condition in _AFTER_FAILURE]
    arcs = [(edge.source, edge.target) for edge in taken]
    back = back_arcs(len(nodes), arcs, entry)
    masks = reached_from(len(nodes), arcs)
    forward = reached_from(len(nodes), (arc for arc in arcs if arc not in back))
    leaving: list[list[int]] = [[] for _ in nodes]
    for edge in edges:
        leaving[edge.source].append(edge.index)
    wired = tuple(
        msgspec.structs.replace(
            node,
            terminal=node.index in last,
            out_edges=tuple(leaving[node.index]),
            reached_from=Mask(masks[node.index]),
            comes_after=Mask(forward[node.index]),
        )
        for node in nodes
    )
    return wired, tuple(
        msgspec.structs.replace(edge, back=(edge.source, edge.target) in back) for edge in edges
    )


def _assembled(
    spec: GraphSpec,
    entry: int,
    nodes: tuple[NodePlan, ...],
    edges: Sequence[EdgePlan],
    tables: Tables,
    bodies: Mapping[str, CompiledGraph],
) -> CompiledGraph:
    budget = spec.budget
    limit = budget.budget_usd if budget else None
    deadline_s = (budget.deadline_s if budget else None) or DEADLINE_S
    graph = CompiledGraph(
        id=spec.id, version="", entry=entry, nodes=nodes, edges=tuple(edges),
        expressions=tuple(tables.expressions), facts=tuple(tables.facts), max_steps=spec.max_steps,
        deadline_us=round(deadline_s * 1_000_000),
        budget_nanousd=-1 if limit is None else int(limit * 1_000_000_000),
        identity_prompt=spec.identity_prompt, continuous=spec.conversation_mode == "continuous",
        subgraphs=tuple(bodies.values()), name=spec.name, input_keys=_input_keys(spec, entry, nodes, edges),
    )  # fmt: skip
    graph = measured(graph)
    return msgspec.structs.replace(graph, version=content_hash(graph))


def _input_keys(
    spec: GraphSpec, entry: int, nodes: Sequence[NodePlan], edges: Sequence[EdgePlan]
) -> tuple[str, ...]:
    """Keys that are read on the way and that no node writes, in the order of the nodes."""
    found = reachable([node.reached_from for node in nodes], entry)
    written = {key for node in spec.nodes for key in node.output_keys}
    mapped = {(edge.target, name) for edge in edges for name, _ in edge.input_mapping}
    read = [
        key
        for node in nodes
        if found >> node.index & 1
        for key in node.input_keys
        if (node.index, key) not in mapped
    ]
    sources = [key for edge in edges if found >> edge.source & 1 for _, key in edge.input_mapping]
    return tuple(dict.fromkeys(key for key in (*read, *sources) if key not in written))
