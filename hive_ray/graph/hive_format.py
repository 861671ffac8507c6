"""Every generation of Hive's ``agent.json``, and our own YAML and JSON, brought to ``GraphSpec``.

Differences that are levelled here: ``graph`` inside or at top level; ``node_id``/``edge_id``; ``type: llm |
human | tool_call``; ``on_start`` edges and the pseudo-nodes ``START`` and ``END``; prompts whose ``{{key}}``
and "output_keys: [...]" declare what other generations list. Keys that Hive exports and that mean nothing
here are dropped; keys that nobody knows are faults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from hive_ray.errors import Fault, GraphError
from hive_ray.graph.compiled import EdgeCondition, NodeKind
from hive_ray.graph.spec import EdgeSpec, GraphSpec, NodeSpec, nearest

Json = Any
Object = dict[str, Json]

SUBGRAPH_DEPTH_LIMIT = 8

_START, _END = "START", "END"

_FILE_KEYS = frozenset(
    ("agent", "graph", "goal", "required_tools", "metadata", "name", "version", "input_schema", "description")
)
_DROPPED_GRAPH_KEYS = frozenset(
    (
        "version", "goal_id", "goal", "agent", "metadata", "required_tools", "created_at", "updated_at",
        "output_schema", "memory_keys", "cleanup_llm_model",
    )
)  # fmt: skip
_DROPPED_NODE_KEYS = frozenset(("output_model", "max_validation_retries", "metadata", "created_at"))
_DROPPED_EDGE_KEYS = frozenset(("metadata", "created_at"))

_NODE_ALIASES = {"node_id": "id", "type": "node_type", "timeout": "timeout_s", "tool_name": "tool"}
_EDGE_ALIASES = {
    "edge_id": "id",
    "from": "source",
    "to": "target",
    "type": "condition",
    "when": "condition_expr",
}

_KINDS = {
    "llm": NodeKind.LLM_GENERATE, "human": NodeKind.HUMAN_INPUT, "tool_call": NodeKind.TOOL,
    "agent": NodeKind.EVENT_LOOP,
}  # fmt: skip
_LLM_KINDS = (NodeKind.LLM_GENERATE, NodeKind.LLM_TOOL_USE, NodeKind.EVENT_LOOP, NodeKind.ROUTER)

_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_DECLARED_OUTPUTS = re.compile(r"(?:output_keys|JSON with keys)\s*:\s*\[?([^\n.\]]*)", re.IGNORECASE)


@dataclass(slots=True)
class _Reader:
    """Collects faults on the way; ``place`` is where the graph being read stands in the file."""

    faults: list[Fault] = field(default_factory=list[Fault])

    def fault(self, place: str, problem: str, remedy: str = "") -> None:
        self.faults.append(Fault(place, problem, remedy))


def graph_from(data: Mapping[str, Json], subject: str = "graph") -> GraphSpec:
    """The canonical form of a file's content.

    Raises:
        GraphError: all faults of form, each with its place.
    """
    reader = _Reader()
    canonical = _graph(reader, data, "", subject, 0)
    if not reader.faults:
        try:
            return GraphSpec.model_validate(canonical)
        except ValidationError as error:
            reader.faults.extend(_validation_faults(error, canonical))
    raise GraphError(subject, reader.faults)


def _graph(reader: _Reader, data: Mapping[str, Json], place: str, fallback_id: str, depth: int) -> Object:
    outer = dict(data)
    inner = outer.get("graph", outer)
    if not isinstance(inner, Mapping):
        reader.fault(f"{place}graph", "is not an object", "give an object with 'nodes' and 'edges'")
        return {}
    graph = dict(cast("Mapping[str, Json]", inner))
    if not isinstance(graph.get("nodes"), list) or not graph["nodes"]:
        reader.fault(f"{place}nodes", *_not_a_graph(graph))
        return {}
    if inner is not outer:
        _refuse_unknown(reader, place, outer, _FILE_KEYS)
    result = _graph_fields(reader, outer, graph, place, fallback_id)
    result["nodes"] = [_node(reader, node, place, index, depth) for index, node in enumerate(graph["nodes"])]
    edges = [
        _edge(reader, edge, place, index) for index, edge in enumerate(_list(reader, graph, "edges", place))
    ]
    _name_edges(edges)
    _take_pseudo_edges(reader, result, edges, place)
    return result


def _not_a_graph(graph: Object) -> tuple[str, str]:
    if "nodes" in graph:
        return "is empty or not a list", "a graph needs at least one node"
    found = ", ".join(sorted(map(str, graph))[:8]) or "none"
    problem = f"missing: this is not a graph (its keys: {found})"
    return (
        problem,
        "a graph has 'nodes' and 'edges'; if this is a run's input, give it with --input to a graph's file",
    )


def _graph_fields(reader: _Reader, outer: Object, graph: Object, place: str, fallback_id: str) -> Object:
    known = frozenset(GraphSpec.model_fields) | _DROPPED_GRAPH_KEYS
    _refuse_unknown(reader, place, graph, known)
    fields = {
        key: value for key, value in graph.items() if key in GraphSpec.model_fields and value is not None
    }
    agent, goal = _object(outer.get("agent")), _object(outer.get("goal"))
    names = (outer.get("name"), agent.get("name"), goal.get("name"))
    ids = (agent.get("id"), outer.get("name"), goal.get("goal_id"), goal.get("id"), fallback_id)
    descriptions = (outer.get("description"), agent.get("description"), goal.get("description"))
    fields.setdefault("id", _first_text(ids))
    fields.setdefault("name", _first_text(names))
    fields.setdefault("description", _first_text(descriptions))
    entry = _object(graph.get("entry_points")).get("start")
    if entry is not None:
        fields.setdefault("entry_node", entry)
    if isinstance(outer.get("input_schema"), Mapping):
        fields.setdefault("input_schema", outer["input_schema"])
    return fields


def _first_text(candidates: Sequence[Json]) -> str:
    return next((text for text in candidates if isinstance(text, str) and text), "")


def _object(value: Json) -> Object:
    return cast(Object, value) if isinstance(value, dict) else {}


def _list(reader: _Reader, data: Object, key: str, place: str) -> list[Json]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        reader.fault(f"{place}{key}", "is not a list", f"write {key} as a list")
        return []
    return cast("list[Json]", value)


def _refuse_unknown(reader: _Reader, place: str, data: Mapping[str, Json], known: frozenset[str]) -> None:
    for key in data:
        if key not in known:
            reader.fault(f"{place}{_shown(key)}", "unknown key", nearest(str(key), known))


def _shown(name: Json, fallback: str = "''") -> str:
    """A key or id as part of a place: text of readable length, or else the fallback."""
    return name[:80] if isinstance(name, str) and name else fallback


def _node(reader: _Reader, data: Json, graph_place: str, index: int, depth: int) -> Object:
    if not isinstance(data, Mapping):
        reader.fault(f"{graph_place}nodes[{index}]", "is not an object", "a node has 'id' and 'node_type'")
        return {}
    node = _renamed(cast("Mapping[str, Json]", data), _NODE_ALIASES)
    place = f"{graph_place}nodes.{_shown(node.get('id'), f'[{index}]')}."
    _refuse_unknown(reader, place, node, frozenset(NodeSpec.model_fields) | _DROPPED_NODE_KEYS)
    node = {key: value for key, value in node.items() if key in NodeSpec.model_fields and value is not None}
    if "id" not in node:
        reader.fault(f"{graph_place}nodes[{index}].id", "missing", "give the node an id of its own")
    kind = _kind(reader, node, place)
    if kind is None:
        return {}
    node["node_type"] = kind
    _complete(node, kind)
    for key in ("body", "subgraph"):
        if key in node:
            node[key] = _nested(reader, node[key], f"{place}{key}.", str(node.get("id", "")), depth + 1)
    return node


def _renamed(data: Mapping[str, Json], aliases: Mapping[str, str]) -> Object:
    """Aliases give way to the canonical key where both are present."""
    result = {key: value for key, value in data.items() if key not in aliases}
    for alias, key in aliases.items():
        if data.get(alias) is not None and result.get(key) is None:
            result[key] = data[alias]
    return result


def _kind(reader: _Reader, node: Object, place: str) -> NodeKind | None:
    written = node.get("node_type")
    if written is None:
        return _inferred_kind(node)
    if written == "gcu":
        reader.fault(
            f"{place}node_type", "'gcu' (browser control) nodes do not run here", "use an MCP browser tool"
        )
        return None
    known = {kind.value: kind for kind in NodeKind} | _KINDS
    kind = known.get(written) if isinstance(written, str) else None
    if kind is None:
        reader.fault(
            f"{place}node_type", f"unknown node type '{_shown(written)}'", nearest(str(written), known)
        )
    elif written == "llm" and node.get("tools"):
        return NodeKind.LLM_TOOL_USE
    return kind


def _inferred_kind(node: Object) -> NodeKind:
    """Hive's own default is an event loop, unless a field says more."""
    evidence = (
        ("map_over", NodeKind.MAP), ("subgraph", NodeKind.SUBGRAPH), ("routes", NodeKind.ROUTER),
        ("function", NodeKind.FUNCTION), ("tool", NodeKind.TOOL), ("approval", NodeKind.HUMAN_INPUT),
    )  # fmt: skip
    return next((kind for key, kind in evidence if node.get(key)), NodeKind.EVENT_LOOP)


def _complete(node: Object, kind: NodeKind) -> None:
    """Fields that other generations put elsewhere."""
    prompt = node.get("prompt") or node.get("system_prompt")
    if isinstance(prompt, str):
        if "input_keys" not in node:
            node["input_keys"] = list(dict.fromkeys(_PLACEHOLDER.findall(prompt)))
        if "output_keys" not in node and kind in _LLM_KINDS:
            node["output_keys"] = _declared_outputs(prompt)
    if kind is NodeKind.TOOL and "tool" not in node:
        tools = node.pop("tools", None)
        first = (
            cast("list[Json]", tools)[0]
            if isinstance(tools, list) and len(cast("list[Json]", tools)) == 1
            else None
        )
        tool = node.pop("function", None) or first
        node.update({"tool": tool} if tool is not None else {})
    if kind is NodeKind.HUMAN_INPUT and "timeout_s" in node and isinstance(node.get("approval", {}), dict):
        node["approval"] = {"deadline_s": node.pop("timeout_s")} | node.get("approval", {})


def _declared_outputs(prompt: str) -> list[str]:
    declared = _DECLARED_OUTPUTS.search(prompt)
    if not declared:
        return []
    words = (re.sub(r"\(.*", "", word).strip() for word in re.sub(r"\([^)]*\)", "", declared[1]).split(","))
    return list(dict.fromkeys(word for word in words if re.fullmatch(r"[A-Za-z_]\w*", word)))


def _nested(reader: _Reader, data: Json, place: str, fallback_id: str, depth: int) -> Object:
    if depth > SUBGRAPH_DEPTH_LIMIT:
        reader.fault(
            place.rstrip("."), f"nested deeper than {SUBGRAPH_DEPTH_LIMIT} graphs", "flatten the graph"
        )
        return {}
    if not isinstance(data, Mapping):
        reader.fault(
            place.rstrip("."),
            "is not a graph",
            "give a graph, or a path in a graph that is loaded from a file",
        )
        return {}
    inner = dict(cast("Mapping[str, Json]", data))
    if "nodes" not in inner and "graph" not in inner:
        inner = {"id": fallback_id, "nodes": [{"id": "item"} | inner]}
    return _graph(reader, inner, place, fallback_id, depth)


def _edge(reader: _Reader, data: Json, graph_place: str, index: int) -> Object:
    if not isinstance(data, Mapping):
        reader.fault(f"{graph_place}edges[{index}]", "is not an object", "an edge has 'source' and 'target'")
        return {}
    edge = _renamed(cast("Mapping[str, Json]", data), _EDGE_ALIASES)
    place = f"{graph_place}edges.{_shown(edge.get('id'), f'[{index}]')}."
    _refuse_unknown(reader, place, edge, frozenset(EdgeSpec.model_fields) | _DROPPED_EDGE_KEYS)
    edge = {key: value for key, value in edge.items() if key in EdgeSpec.model_fields and value is not None}
    condition = edge.get("condition")
    if condition is None:
        edge["condition"] = "conditional" if edge.get("condition_expr") else "always"
    elif condition != "on_start" and (condition not in _CONDITIONS):
        reader.fault(
            f"{place}condition",
            f"unknown condition '{_shown(condition)}'",
            nearest(str(condition), _CONDITIONS),
        )
    return edge


def _name_edges(edges: list[Object]) -> None:
    """Edges without an id are named after their ends, counted where that is not enough."""
    taken = {edge["id"] for edge in edges if isinstance(edge.get("id"), str)}
    numbers: dict[str, int] = {}
    for edge in edges:
        if edge and "id" not in edge:
            wanted = f"{_shown(edge.get('source'))}-to-{_shown(edge.get('target'))}"
            edge["id"] = _free_name(wanted, taken, numbers)
            taken.add(edge["id"])


def _free_name(wanted: str, taken: set[str], numbers: dict[str, int]) -> str:
    name = wanted
    while name in taken:
        numbers[wanted] = numbers.get(wanted, 1) + 1
        name = f"{wanted}-{numbers[wanted]}"
    return name


_CONDITIONS = tuple(condition.value for condition in EdgeCondition if condition is not EdgeCondition.ROUTE)


def _take_pseudo_edges(reader: _Reader, graph: Object, edges: list[Object], place: str) -> None:
    """``START -> x`` names the entry, ``x -> END`` a terminal node; neither is an edge."""
    ids = [node.get("id") for node in graph["nodes"]]
    starts = [edge for edge in edges if _is_start(edge, ids)]
    ends = [edge for edge in edges if edge.get("target") == _END and _END not in ids]
    graph["edges"] = [edge for edge in edges if edge not in starts and edge not in ends]
    for edge in starts:
        _take_start(reader, graph, edge, place)
    for edge in ends:
        _take_end(reader, graph, edge, place)


def _is_start(edge: Object, ids: Sequence[Json]) -> bool:
    return edge.get("condition") == "on_start" or (edge.get("source") == _START and _START not in ids)


def _take_start(reader: _Reader, graph: Object, edge: Object, place: str) -> None:
    if edge.get("source", _START) != _START:
        problem = "'on_start' on an edge that does not leave START"
        reader.fault(f"{place}edges.{_shown(edge.get('id'))}.condition", problem, "use on_success or always")
    elif graph.setdefault("entry_node", edge.get("target")) != edge.get("target"):
        problem = f"a second entry: the graph already starts at '{graph['entry_node']}'"
        reader.fault(
            f"{place}edges.{_shown(edge.get('id'))}", problem, "start at one node and fan out from there"
        )


def _take_end(reader: _Reader, graph: Object, edge: Object, place: str) -> None:
    if edge.get("condition") not in ("always", "on_success") or edge.get("condition_expr"):
        problem = "an edge to END with a condition"
        reader.fault(
            f"{place}edges.{_shown(edge.get('id'))}", problem, "leave it out: a run ends when no edge matches"
        )
        return
    terminal = graph.setdefault("terminal_nodes", [])
    if isinstance(terminal, list) and edge.get("source") not in terminal:
        cast("list[Json]", terminal).append(edge.get("source"))


def _validation_faults(error: ValidationError, canonical: Object) -> list[Fault]:
    return [_validation_fault(item["loc"], item["type"], item["msg"], canonical) for item in error.errors()]


def _validation_fault(location: Sequence[int | str], kind: str, message: str, canonical: Object) -> Fault:
    problem = "missing" if kind == "missing" else message.removeprefix("Value error, ")
    return Fault(_place(location, canonical), problem, _EXPECTED.get(kind, ""))


_EXPECTED = {
    "missing": "add this key",
    "list_type": "write a list",
    "dict_type": "write an object",
    "string_type": "write a string",
    "int_parsing": "write a whole number",
    "bool_parsing": "write true or false",
}


def _place(location: Sequence[int | str], canonical: Json) -> str:
    """``nodes.triage.tools`` instead of ``nodes.3.tools``."""
    parts: list[str] = []
    current: Json = canonical
    for step in location:
        current = _step_into(current, step)
        named = _object(current).get("id") if isinstance(step, int) else None
        parts.append(str(named) if isinstance(named, str) else str(step))
    return ".".join(parts)


def _step_into(value: Json, step: int | str) -> Json:
    if isinstance(value, list) and isinstance(step, int):
        items = cast("list[Json]", value)
        return items[step] if step < len(items) else None
    return _object(value).get(str(step))
