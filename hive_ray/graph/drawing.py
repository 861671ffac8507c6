"""Drawings of a compiled graph: Mermaid for documents, lines for terminals."""

from __future__ import annotations

from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, EdgePlan, NodeKind, NodePlan

_SHAPES = {
    NodeKind.ROUTER: ("{", "}"),
    NodeKind.HUMAN_INPUT: ("[/", "/]"),
    NodeKind.TOOL: ("[[", "]]"),
    NodeKind.FUNCTION: ("[[", "]]"),
    NodeKind.MAP: ("[(", ")]"),
    NodeKind.SUBGRAPH: ("[(", ")]"),
}
_ROUNDED = ("(", ")")


def to_mermaid(graph: CompiledGraph) -> str:
    """A Mermaid flowchart; terminal nodes have a thick border, failure edges are dotted."""
    lines = ["flowchart TD"]
    lines += [f"    {_mermaid_node(node)}" for node in graph.nodes]
    lines += [f"    {_mermaid_edge(graph, edge)}" for edge in graph.edges]
    lines.append(f"    start((start)) --> n{graph.entry}")
    lines += [f"    style n{node.index} stroke-width:4px" for node in graph.nodes if node.terminal]
    return "\n".join(lines) + "\n"


def _mermaid_node(node: NodePlan) -> str:
    left, right = _SHAPES.get(node.kind, _ROUNDED)
    return f'n{node.index}{left}"{_escaped(node.id)}<br/><i>{node.kind}</i>"{right}'


def _mermaid_edge(graph: CompiledGraph, edge: EdgePlan) -> str:
    label = edge_label(graph, edge)
    arrow = "-.->" if edge.condition is EdgeCondition.ON_FAILURE else "-->"
    shown = f'|"{_escaped(label)}"|' if label else ""
    return f"n{edge.source} {arrow}{shown} n{edge.target}"


def _escaped(text: str) -> str:
    """Mermaid's entity codes for what would end a quoted label."""
    for char, code in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", " ")):
        text = text.replace(char, code)
    return text


def edge_label(graph: CompiledGraph, edge: EdgePlan) -> str:
    """When the edge is taken, in a few words; empty for plain success."""
    words = {
        EdgeCondition.ROUTE: edge.route,
        EdgeCondition.ON_SUCCESS: "",
        EdgeCondition.CONDITIONAL: "",
        EdgeCondition.LLM_DECIDE: "llm decides",
        EdgeCondition.ON_FAILURE: "on failure",
        EdgeCondition.ALWAYS: "always",
    }
    condition = graph.expressions[edge.expression].source if edge.expression >= 0 else ""
    return " and ".join(part for part in (words[edge.condition], condition) if part)


def to_text(graph: CompiledGraph) -> str:
    """One line a node, in walking order, its edges below it."""
    width = max(len(node.id) for node in graph.nodes)
    lines: list[str] = []
    for index in _walking_order(graph):
        node = graph.nodes[index]
        lines.append(f"{_mark(graph, node)} {node.id:<{width}}  {node.kind}{_notes(node)}")
        lines += _edge_lines(graph, node)
    return "\n".join(lines) + "\n"


def _walking_order(graph: CompiledGraph) -> list[int]:
    """Breadth first from the entry; what it does not reach comes last."""
    order = [graph.entry]
    for index in order:
        targets = [graph.edges[edge].target for edge in graph.nodes[index].out_edges]
        order += [target for target in dict.fromkeys(targets) if target not in order]
    return order + [node.index for node in graph.nodes if node.index not in order]


def _mark(graph: CompiledGraph, node: NodePlan) -> str:
    if node.index == graph.entry:
        return "▶"
    return "■" if node.terminal else "●"


def _notes(node: NodePlan) -> str:
    notes = ["terminal"] if node.terminal else []
    notes += ["pauses"] if node.pause else []
    notes += ["client"] if node.client_facing else []
    return f" ({', '.join(notes)})" if notes else ""


def _edge_lines(graph: CompiledGraph, node: NodePlan) -> list[str]:
    lines: list[str] = []
    for position, index in enumerate(node.out_edges):
        edge = graph.edges[index]
        branch = "└" if position == len(node.out_edges) - 1 else "├"
        label = edge_label(graph, edge)
        lines.append(f"  {branch}─▶ {graph.nodes[edge.target].id}" + (f"  [{label}]" if label else ""))
    return lines
