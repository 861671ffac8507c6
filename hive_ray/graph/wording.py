"""What the LLM of a node is told whatever its inputs are: the fixed texts and schemas of each kind of node.

The compiler measures them to bound what a call can cost; workers put the inputs and the conversation in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, NodeKind, NodePlan

SET_OUTPUT = "set_output"
ASK_USER = "ask_user"

PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][\w.-]*)\s*\}\}|\{([A-Za-z_][\w.-]*)\}")
"""``{key}`` or ``{{key}}`` in a prompt."""


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A tool as a model is shown it."""

    name: str
    description: str
    schema: Mapping[str, Any]


def mentioned(template: str) -> list[str]:
    """The key of each placeholder, as often as it stands there."""
    return [a or b for a, b in PLACEHOLDER.findall(template)]


def answer_text(keys: Iterable[str]) -> str:
    return "Answer with one JSON object that has exactly these keys: " + ", ".join(keys) + "."


def final_answer_text(node: NodePlan) -> str:
    """How a model with tools gives its results."""
    return f"When you have what you need: {answer_text(node.output_keys)}" if node.output_keys else ""


def loop_text(node: NodePlan) -> str:
    """What an agent loop's model must know about its two tools."""
    parts: list[str] = []
    if node.output_keys:
        parts.append(f"Give each result with the tool {SET_OUTPUT}: {', '.join(node.output_keys)}.")
    if node.nullable_keys:
        parts.append(f"These may stay unset: {', '.join(node.nullable_keys)}.")
    if node.client_facing:
        parts.append(f"You talk with a client: ask with the tool {ASK_USER}, then wait for the answer.")
    return " ".join(parts)


def loop_tools(node: NodePlan) -> tuple[ToolSchema, ...]:
    """The synthetic tools of an agent loop; they end in the step itself, never in a worker."""
    tools: list[ToolSchema] = []
    if node.output_keys:
        tools.append(ToolSchema(SET_OUTPUT, "Set one of the results.", _set_output_schema(node)))
    if node.client_facing:
        question = {"question": {"type": "string"}}
        tools.append(ToolSchema(ASK_USER, "Ask the client and wait.", _object(question, ["question"])))
    return tuple(tools)


def _set_output_schema(node: NodePlan) -> dict[str, Any]:
    value = {"description": "Any JSON value."}
    return _object(
        {"key": {"type": "string", "enum": list(node.output_keys)}, "value": value}, ["key", "value"]
    )


def _object(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def outputs_schema(node: NodePlan) -> dict[str, Any]:
    """JSON Schema of a node's outputs: what the graph gives, else any value for each key."""
    if node.output_schema:
        given = cast("dict[str, Any]", msgspec.json.decode(node.output_schema))
        properties = cast("dict[str, Any]", given.get("properties") or {})
        known = {key: properties.get(key, {}) for key in node.output_keys} or properties
        extra = {k: v for k, v in given.items() if k not in ("properties", "required")}
        return extra | _object(known, list(known))
    return _object({key: {} for key in node.output_keys}, node.output_keys)


def route_keys(node: NodePlan) -> list[str]:
    """What a router's model answers: the route and the outputs beside it."""
    return ["route", *(key for key in node.output_keys if key != "route")]


def route_schema(node: NodePlan) -> dict[str, Any]:
    """The routes as a closed enumeration, and the outputs beside it."""
    outputs = cast("dict[str, Any]", outputs_schema(node)["properties"])
    properties = {"route": {"type": "string", "enum": list(node.routes)}}
    properties |= {key: value for key, value in outputs.items() if key != "route"}
    return _object(properties, list(properties))


def route_text(graph: CompiledGraph, node: NodePlan) -> str:
    """Each route with what stands behind it."""
    lines = [f"- {route}{_behind(graph, node, route)}" for route in node.routes]
    return "Choose one route:\n" + "\n".join(lines)


def _behind(graph: CompiledGraph, node: NodePlan, route: str) -> str:
    for index in node.out_edges:
        edge = graph.edges[index]
        if edge.condition is EdgeCondition.ROUTE and edge.route == route:
            text = edge.description or graph.nodes[edge.target].description
            return f": {text}" if text else ""
    return ""


def decisions(graph: CompiledGraph, node: NodePlan) -> dict[str, str]:
    """Id and description of the edges an LLM chooses among, in declaration order."""
    found: dict[str, str] = {}
    for index in node.out_edges:
        edge = graph.edges[index]
        if edge.condition is EdgeCondition.LLM_DECIDE:
            target = graph.nodes[edge.target]
            found[edge.id] = (
                ". ".join(part for part in (edge.description, target.description) if part) or target.id
            )
    return found


def decide_schema(edge_ids: Sequence[str]) -> dict[str, Any]:
    chosen = {"type": "array", "items": {"type": "string", "enum": list(edge_ids)}}
    return _object({"edges": chosen}, ["edges"])


def decide_text(edges: Mapping[str, str]) -> str:
    lines = "\n".join(f"- {edge}: {text}" for edge, text in edges.items())
    return f"Decide which of these edges to follow next; none, one or several:\n{lines}"


DEFAULT_TASK = "Begin."
"""What a model is told where neither inputs nor texts say anything."""


def step_bytes(graph: CompiledGraph, node: NodePlan) -> int:
    """Bytes of the texts of a node's LLM step but for inputs, conversation and registered tools."""
    texts = [graph.identity_prompt, node.prompt, node.instruction, node.description, DEFAULT_TASK]
    return _size(texts) + _OF_KIND.get(node.kind, lambda graph, node: 0)(graph, node)


def decision_bytes(graph: CompiledGraph, node: NodePlan) -> int:
    """Bytes of the texts with which a model chooses among the edges of a node."""
    edges = decisions(graph, node)
    if not edges:
        return 0
    return _size([graph.identity_prompt, decide_text(edges)]) + _json_size(decide_schema(list(edges)))


def _generate_bytes(graph: CompiledGraph, node: NodePlan) -> int:
    return _size([answer_text(node.output_keys)]) + _json_size(outputs_schema(node))


def _route_bytes(graph: CompiledGraph, node: NodePlan) -> int:
    texts = [route_text(graph, node), answer_text(route_keys(node))]
    return _size(texts) + _json_size(route_schema(node))


def _tool_use_bytes(graph: CompiledGraph, node: NodePlan) -> int:
    return _size([final_answer_text(node)])


def _loop_bytes(graph: CompiledGraph, node: NodePlan) -> int:
    shown = [[tool.name, tool.description, tool.schema] for tool in loop_tools(node)]
    return _size([loop_text(node)]) + _json_size(shown) + len(shown) * TOOL_KEYS_BYTES


_OF_KIND: Mapping[NodeKind, Callable[[CompiledGraph, NodePlan], int]] = {
    NodeKind.LLM_GENERATE: _generate_bytes,
    NodeKind.ROUTER: _route_bytes,
    NodeKind.LLM_TOOL_USE: _tool_use_bytes,
    NodeKind.EVENT_LOOP: _loop_bytes,
}

TOOL_KEYS_BYTES = 32
"""``description`` and ``schema`` as they stand around what a tool says of itself."""


def _size(texts: Iterable[str]) -> int:
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def _json_size(value: Any) -> int:
    return len(msgspec.json.encode(value))
