"""Whatever a graph's file holds, the answer is a graph or a ``GraphError``."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hive_ray.errors import GraphError
from hive_ray.graph.compiled import decode_graph, encode_graph
from hive_ray.graph.compiler import CompileEnvironment, ModelInfo, ToolInfo, compile_graph, lint
from hive_ray.graph.drawing import to_mermaid, to_text
from hive_ray.graph.load import parse_graph

VALID: dict[str, Any] = {
    "agent": {"id": "agent", "name": "Agent"},
    "graph": {
        "id": "g",
        "entry_node": "triage",
        "entry_points": {"start": "triage"},
        "terminal_nodes": ["mail"],
        "pause_nodes": ["review"],
        "conversation_mode": "continuous",
        "identity_prompt": "You are careful.",
        "max_steps": 20,
        "budget": {"budget_usd": 0.5, "deadline_s": "1h"},
        "loop_config": {"max_iterations": 5},
        "nodes": [
            {
                "id": "triage",
                "node_type": "router",
                "routes": {"a": "work", "b": "loop"},
                "output_keys": ["category"],
            },
            {
                "id": "work",
                "type": "llm",
                "prompt": "Use {{ticket}}. output_keys: [findings]",
                "tools": ["search"],
            },
            {
                "id": "loop",
                "node_type": "event_loop",
                "output_schema": {"n": {"type": "number", "required": True}},
                "output_keys": ["n"],
                "success_criteria": "n is set",
                "retry": {"base_s": 1},
                "retry_on": ["timeout"],
            },
            {
                "id": "each",
                "map_over": "findings",
                "output_keys": ["results"],
                "body": {"node_type": "function", "function": "f"},
            },
            {
                "id": "review",
                "node_type": "human_input",
                "output_keys": ["approved"],
                "approval": {"form": {"type": "object"}, "owner": "x"},
            },
            {"node_id": "mail", "node_type": "tool_call", "tools": ["send_email"], "timeout": "10s"},
        ],
        "edges": [
            {"id": "e0", "source": "START", "target": "triage", "condition": "on_start"},
            {"edge_id": "e1", "source": "work", "target": "each", "condition": "on_success"},
            {
                "id": "e2",
                "source": "loop",
                "target": "each",
                "condition": "conditional",
                "condition_expr": "n > 3",
            },
            {"id": "e3", "source": "each", "target": "review", "input_mapping": {"x": "output.results"}},
            {"id": "e4", "source": "review", "target": "mail", "condition_expr": "approved == True"},
            {"id": "e5", "source": "mail", "target": "END", "condition": "always"},
        ],
    },
    "goal": {"id": "goal", "success_criteria": []},
}

PLACE = CompileEnvironment(models={"m": ModelInfo(1, 1)}, default_model="m", tools={"search": ToolInfo()})

Path = tuple[Any, ...]


def _paths(value: Any, at: Path = ()) -> list[Path]:
    found = [at]
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in items:
        found += _paths(item, (*at, key))
    return found


PATHS = _paths(VALID)[1:]
KEYS = sorted(
    {str(path[-1]) for path in PATHS if isinstance(path[-1], str)} | {"body", "subgraph", "START", "END", ""}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [*KEYS, "route", "router", "map", "gcu", "llm", "x == ", "x && !y", "((((", "a.b", "1h", "e1"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)), inner, max_size=3),
    ),
    max_leaves=8,
)
ACTIONS = st.one_of(
    st.tuples(st.just("set"), VALUES),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("copy"), st.sampled_from(PATHS)),
    st.tuples(st.just("add"), st.tuples(st.sampled_from(KEYS), VALUES)),
)


def _at(root: Any, path: Path) -> Any:
    for key in path:
        root = root[key]
    return root


def _mutate(root: dict[str, Any], path: Path, action: tuple[str, Any]) -> None:
    try:
        parent, key = _at(root, path[:-1]), path[-1]
        kind, value = action
        if kind == "set":
            parent[key] = value
        elif kind == "delete":
            del parent[key]
        elif kind == "copy":
            parent[key] = copy.deepcopy(_at(root, value))
        else:
            parent[key][value[0]] = value[1]
    except (LookupError, TypeError):
        return  # an earlier change took the place away


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), ACTIONS), min_size=1, max_size=4))
def test_no_mutation_raises_anything_but_a_graph_error(changes: list[tuple[Path, tuple[str, Any]]]):
    """Parsing, linting, compiling, encoding and drawing hold for any JSON near a graph."""
    data = copy.deepcopy(VALID)
    for path, action in changes:
        _mutate(data, path, action)

    try:
        spec = parse_graph(data)
        lint(spec)
        graph = compile_graph(spec, PLACE)
    except GraphError as error:
        assert error.faults
        assert all(fault.place and fault.problem for fault in error.faults)
        str(error).encode()
        return

    assert decode_graph(encode_graph(graph)) == graph
    assert to_mermaid(graph)
    assert to_text(graph)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_no_object_at_all_raises_anything_but_a_graph_error(data: dict[str, Any]):
    """Objects with a graph's words and no sense."""
    try:
        compile_graph(parse_graph(data))
    except GraphError as error:
        assert error.faults


def test_the_unchanged_graph_is_valid():
    """Else the mutations above would prove nothing."""
    graph = compile_graph(parse_graph(json.loads(json.dumps(VALID))))

    assert [node.id for node in graph.nodes if node.terminal] == ["mail"]
