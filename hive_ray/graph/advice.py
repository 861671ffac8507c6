"""What a graph is accepted with but probably does not mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from hive_ray.graph.compiled import EdgeCondition, EdgePlan, NodeKind, NodePlan
from hive_ray.graph.findings import Findings
from hive_ray.graph.reachability import cycles, members, reachable
from hive_ray.graph.spec import GraphSpec
from hive_ray.graph.tables import Tables

COMPARISONS_LIMIT = 20_000
"""Comparisons of parallel branches in one graph: advice must not cost more than acceptance."""

_PLAIN = (EdgeCondition.ALWAYS, EdgeCondition.ON_SUCCESS)


def warn_about(
    spec: GraphSpec,
    nodes: Sequence[NodePlan],
    edges: Sequence[EdgePlan],
    entry: int,
    tables: Tables,
    findings: Findings,
) -> None:
    """Adds every warning about a graph without errors."""
    masks = [node.reached_from for node in nodes]
    _without_meaning_here(spec, nodes[entry].id, findings)
    _unreachable(spec, nodes, reachable(masks, entry), findings)
    _edges_never_taken(nodes, edges, findings)
    _unwritten_keys(spec, nodes, edges, entry, findings)
    _unwritten_facts(spec, nodes, tables, findings)
    _endless_cycles(nodes, edges, masks, findings)
    _parallel_writes(nodes, edges, masks, findings)


def _unreachable(spec: GraphSpec, nodes: Sequence[NodePlan], found: int, findings: Findings) -> None:
    delegated = {name for node in spec.nodes for name in node.sub_agents}
    for node in nodes:
        if not found >> node.index & 1 and node.id not in delegated:
            findings.warn(f"nodes.{node.id}", "cannot be reached from the entry", "add an edge, or remove it")


def _without_meaning_here(spec: GraphSpec, entry: str, findings: Findings) -> None:
    """What Hive's graphs may ask for and does not happen here."""
    for name, target in spec.entry_points.items():
        if name != "start":
            problem = f"not used: every run begins at '{entry}', and one that waits goes on where it waits"
            findings.warn(f"entry_points.{name}", problem, f"fork a run from '{target}' to begin there")
    for index, group in enumerate(spec.parallel_groups):
        branches, least = group.get("nodes"), group.get("min_completed")
        if least is not None and not (isinstance(branches, list) and least == len(branches)):  # pyright: ignore[reportUnknownArgumentType]
            problem = "not used: a join waits for every branch that can still reach it"
            remedy = "let a branch that may fail go on over an on_failure edge"
            findings.warn(f"parallel_groups[{index}].min_completed", problem, remedy)


def _edges_never_taken(nodes: Sequence[NodePlan], edges: Sequence[EdgePlan], findings: Findings) -> None:
    for edge in edges:
        after_failure = edge.condition in (EdgeCondition.ALWAYS, EdgeCondition.ON_FAILURE)
        if nodes[edge.source].terminal and not after_failure:
            problem = f"never taken: '{nodes[edge.source].id}' is a terminal node"
            findings.warn(
                f"edges.{edge.id}", problem, "take the node out of terminal_nodes, or remove the edge"
            )


def _input_names(spec: GraphSpec, entry_keys: Sequence[str]) -> set[str]:
    properties = (spec.input_schema or {}).get("properties")
    return set(entry_keys) | (set(properties) if isinstance(properties, dict) else set())


def _unwritten_keys(
    spec: GraphSpec, nodes: Sequence[NodePlan], edges: Sequence[EdgePlan], entry: int, findings: Findings
) -> None:
    known = {key for node in nodes for key in node.output_keys} | _input_names(spec, nodes[entry].input_keys)
    mapped = {(edge.target, name) for edge in edges for name, _ in edge.input_mapping}
    remedy = "give it with the input, or write it before"
    delegated = {name for node in spec.nodes for name in node.sub_agents}
    for node in nodes:
        for key in () if node.id in delegated else node.input_keys:
            if key not in known and (node.index, key) not in mapped:
                findings.warn(f"nodes.{node.id}.input_keys", f"no node writes '{key}'", remedy)
    for edge in edges:
        for name, key in edge.input_mapping:
            if key not in known:
                findings.warn(f"edges.{edge.id}.input_mapping.{name}", f"no node writes '{key}'", remedy)


def _unwritten_facts(spec: GraphSpec, nodes: Sequence[NodePlan], tables: Tables, findings: Findings) -> None:
    known = tables.keys | _input_names(spec, ())
    by_source = {expression.source: expression for expression in tables.expressions}
    for edge in spec.edges:
        used = by_source.get(edge.condition_expr or "")
        roots = [tables.facts[index][0] for index in used.facts] if used else []
        for root in dict.fromkeys(roots):
            if root not in known:
                problem = f"no node writes '{root}': it is null unless the input brings it"
                findings.warn(f"edges.{edge.id}.condition_expr", problem, "check the name")


_ENDED_BY_PEOPLE = (NodeKind.HUMAN_INPUT,)


def _endless_cycles(
    nodes: Sequence[NodePlan], edges: Sequence[EdgePlan], masks: Sequence[int], findings: Findings
) -> None:
    for group in cycles(masks):
        inside = [nodes[index] for index in members(group)]
        if not any(_can_leave(node, edges, group) for node in inside):
            names = ", ".join(node.id for node in inside)
            problem = f"a cycle without an exit ({names}): it ends at max_steps only, as a failure"
            findings.warn(f"nodes.{inside[0].id}", problem, "add an edge that leaves it, or a condition")


def _can_leave(node: NodePlan, edges: Sequence[EdgePlan], group: int) -> bool:
    if node.terminal or node.client_facing or node.kind in _ENDED_BY_PEOPLE:
        return True
    leaving = [edges[index] for index in node.out_edges]
    stays = any(_is_plain(edge) and group >> edge.target & 1 for edge in leaving)
    return not stays or any(not group >> edge.target & 1 for edge in leaving)


def _is_plain(edge: EdgePlan) -> bool:
    return edge.condition in _PLAIN and edge.expression < 0


def _parallel_writes(
    nodes: Sequence[NodePlan], edges: Sequence[EdgePlan], masks: Sequence[int], findings: Findings
) -> None:
    writers = _writers(nodes)
    pairs = itertools.islice(_branch_pairs(nodes, edges), COMPARISONS_LIMIT // max(len(writers), 1))
    clashes = [_clashes(writers, reachable(masks, left), reachable(masks, right)) for left, right in pairs]
    for clash in dict.fromkeys(itertools.chain.from_iterable(clashes)):
        _warn_clash(nodes, clash, findings)


def _writers(nodes: Sequence[NodePlan]) -> dict[str, int]:
    """Mask of the nodes that write a key, for keys with more than one."""
    writers: dict[str, int] = {}
    for node in nodes:
        for key in node.output_keys:
            writers[key] = writers.get(key, 0) | 1 << node.index
    return {key: mask for key, mask in writers.items() if mask.bit_count() > 1}


def _branch_pairs(nodes: Sequence[NodePlan], edges: Sequence[EdgePlan]) -> Iterator[tuple[int, int]]:
    """Pairs of nodes that one node starts at the same time."""
    for node in nodes:
        plain = [edges[index] for index in node.out_edges if _is_plain(edges[index])]
        highest = max((edge.priority for edge in plain), default=0)
        targets = sorted({edge.target for edge in plain if edge.priority == highest})
        yield from itertools.combinations(targets, 2)


def _clashes(writers: Mapping[str, int], left: int, right: int) -> list[tuple[int, int, str]]:
    """For each key: its first writer on one branch only, and its first on the other only."""
    found: list[tuple[int, int, str]] = []
    for key, mask in writers.items():
        ours, theirs = mask & left & ~right, mask & right & ~left
        if ours and theirs:
            first, second = next(members(ours)), next(members(theirs))
            found.append((min(first, second), max(first, second), key))
    return found


def _warn_clash(nodes: Sequence[NodePlan], clash: tuple[int, int, str], findings: Findings) -> None:
    first, second, key = clash
    problem = f"'{key}' is also written by '{nodes[second].id}' on a parallel branch"
    findings.warn(
        f"nodes.{nodes[first].id}.output_keys", problem, "the later declared edge wins; use two keys"
    )
