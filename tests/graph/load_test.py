"""Graph files: syntax, bounds, secrets, nested files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hive_ray.errors import GraphError
from hive_ray.graph.compiled import NodeKind
from hive_ray.graph.compiler import compile_graph
from hive_ray.graph.load import load_graph, parse_graph

NODE = {"id": "a", "node_type": "function", "function": "f"}

YAML = """
id: greeting
nodes:
  - id: greet          # a comment
    node_type: function
    function: greet
    timeout_s: 1m30s
    retry: {max_retries: 1, base_s: 250ms, retry_on: [TIMEOUT]}
  - id: ask
    approval: {reason: "polite?", deadline_s: 2h, owner: role:editor}
    output_keys: [approved]
edges:
  - {from: greet, to: ask}
budget: {budget_usd: 0.25, deadline_s: 1d}
"""


def _fault(data: dict[str, Any]) -> list[str]:
    with pytest.raises(GraphError) as caught:
        parse_graph(data)
    return [str(fault) for fault in caught.value.faults]


def _written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_yaml_is_a_graph_too(tmp_path: Path):
    """Our own fields, durations as text, and node types that follow from other fields."""
    graph = compile_graph(load_graph(_written(tmp_path, "g.yaml", YAML)))
    greet, ask = graph.nodes

    assert greet.timeout_us == 90_000_000
    assert (greet.retry.max_retries, greet.retry.base_us, greet.retry.retry_on) == (1, 250_000, ("TIMEOUT",))
    assert ask.kind is NodeKind.HUMAN_INPUT
    assert ask.human is not None
    assert (ask.human.reason, ask.human.deadline_us, ask.human.owner) == (
        "polite?",
        7_200_000_000,
        "role:editor",
    )
    assert (graph.budget_nanousd, graph.deadline_us) == (250_000_000, 86_400_000_000)


SYNTAX = [
    ("g.json", '{"nodes": [\n  {"id": 1,}\n]}', ":2:12"),
    ("g.json", "", ":1:1"),
    ("g.json", '{"id": "a", "id": "b"}', "'id' stands twice"),
    ("g.json", '{"id": NaN}', "NaN is not JSON"),
    ("g.json", "[" * 100_000, ":1:1"),
    ("g.json", "[1]", "is not an object"),
    ("g.json", b"\xff\xfe", "not UTF-8"),
    ("g.yaml", "nodes:\n  - id: a\n - id: b\n", ":3:2"),
    ("g.yaml", "id: a\nid: b\n", "'id' stands twice"),
    ("g.yaml", "id: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    ("g.yaml", "a: &a [x]\nb: [" + ", ".join(["*a"] * 200) + "]\n", "too many aliases"),
    ("g.yaml", "a: &a [*a]\n", "too large or too deep"),
    (
        "g.yaml",
        "a: &a [1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{new}: &{new} [" + ",".join([f"*{old}"] * 9) + "]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "too large or too deep",
    ),
    ("g.yaml", "? [a, b]\n: c\n", "not text"),
    ("g.yaml", "", "is not an object"),
]


@pytest.mark.parametrize(("name", "text", "said"), SYNTAX)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path: Path, name: str, text: str | bytes, said: str):
    """File, line and column where there are any; never another exception."""
    path = _written(tmp_path, name, text)

    with pytest.raises(GraphError) as caught:
        load_graph(path)

    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path):
    """So is a folder."""
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(GraphError, match="cannot be read"):
            load_graph(path)


def test_a_file_above_the_limit_is_not_even_parsed(tmp_path: Path):
    """4 MiB are enough for any graph."""
    path = _written(tmp_path, "g.json", '{"id": "' + "a" * 5_000_000 + '"}')

    with pytest.raises(GraphError, match="larger than"):
        load_graph(path)


FORM = [
    ({"nodes": []}, "nodes: is empty"),
    ({"graph": 3}, "graph: is not an object"),
    ({"nodes": [3]}, "nodes[0]: is not an object"),
    ({"nodes": [NODE], "egdes": []}, "egdes: unknown key (did you mean 'edges'?)"),
    ({"graph": {"nodes": [NODE]}, "gaol": {}}, "gaol: unknown key (did you mean 'goal'?)"),
    (
        {"nodes": [NODE | {"idempotnet": True}]},
        "nodes.a.idempotnet: unknown key (did you mean 'idempotent'?)",
    ),
    ({"nodes": [NODE | {"node_type": "llm_generat"}]}, "did you mean 'llm_generate'?"),
    ({"nodes": [{"node_type": "function"}]}, "nodes[0].id: missing"),
    ({"nodes": [NODE | {"max_retries": "many"}]}, "nodes.a.max_retries"),
    ({"nodes": [NODE | {"timeout_s": "soon"}]}, "nodes.a.timeout_s: not a duration"),
    ({"nodes": [NODE | {"timeout_s": -1}]}, "nodes.a.timeout_s"),
    ({"nodes": [NODE | {"tools": "search"}]}, "nodes.a.tools: Input should be a valid list (write a list)"),
    ({"nodes": [NODE], "edges": {}}, "edges: is not a list"),
    ({"nodes": [NODE], "edges": [{"source": "a"}]}, "target: missing"),
    (
        {"nodes": [NODE], "edges": [{"id": "e", "source": "a", "target": "a", "condition": "on_sucess"}]},
        "edges.e.condition: unknown condition 'on_sucess' (did you mean 'on_success'?)",
    ),
    (
        {"nodes": [NODE], "edges": [{"id": "e", "source": "a", "target": "END", "condition_expr": "x"}]},
        "edges.e: an edge to END with a condition",
    ),
    (
        {"nodes": [NODE], "edges": [{"id": "e", "source": "a", "target": "a", "condition": "on_start"}]},
        "on_start",
    ),
    (
        {"nodes": [NODE], "entry_node": "b", "edges": [{"id": "e", "source": "START", "target": "a"}]},
        "second entry",
    ),
    ({"nodes": [NODE | {"subgraph": "other.json"}]}, "nodes.a.subgraph: is not a graph"),
    ({"nodes": [NODE | {"routes": {"k": 3}}]}, "nodes.a.routes.k"),
    ({"nodes": [NODE | {"system_prompt": "\ud800"}]}, "surrogate"),
    ({"nodes": [NODE | {"temperature": float("inf")}]}, "not finite"),
    ({"nodes": [NODE | {"output_schema": {"a": b"x"}}]}, "type bytes"),
    ({"nodes": [NODE | {"output_schema": {1: {}}}]}, "a key of type int"),
]


@pytest.mark.parametrize(("data", "said"), FORM, ids=[said for _, said in FORM])
def test_a_wrong_form_names_place_and_remedy(data: dict[str, Any], said: str):
    """Places are node and edge ids, not positions."""
    assert any(said in fault for fault in _fault(data))


def test_all_faults_of_form_come_at_once():
    """Two unknown keys and a wrong type are three faults."""
    nodes = [NODE | {"x1": 1}, {"id": "b", "node_type": "nothing"}]

    assert len(_fault({"nodes": nodes, "y1": 2})) == 3


def test_nesting_is_bounded():
    """A value nested a thousand levels deep is a fault, not a crash."""
    deep: Any = []
    for _ in range(400):
        deep = [deep]

    assert "nested deeper" in _fault({"nodes": [NODE | {"output_schema": {"a": deep}}]})[0]


SECRETS = [
    {"system_prompt": "use sk-" + "a1B2" * 8},
    {"system_prompt": "key AKIA" + "ABCDEFGH12345678"},
    {"description": "ghp_" + "a1" * 18},
    {"description": "xoxb-" + "1234567890-abc"},
    {"prompt": "-----BEGIN RSA " + "PRIVATE KEY-----"},
    {"prompt": "eyJ" + "hbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"},
    {"output_schema": {"properties": {"x": {"default": {"api_key": "plain"}}}}},
    {"metadata": {"db_password": "hunter2"}},
    {"metadata": {"SLACK-TOKEN": "hunter2"}},
]


@pytest.mark.parametrize("fields", SECRETS, ids=[str(index) for index in range(len(SECRETS))])
def test_literal_secrets_are_refused_and_not_repeated(fields: dict[str, Any]):
    """The place and the remedy are named, the secret is not."""
    faults = _fault({"nodes": [NODE | fields], "edges": []})
    secret = json.dumps(fields)

    assert any(fault.startswith("nodes.a.") and "env:NAME" in fault for fault in faults)
    assert not any(word in "\n".join(faults) for word in ("hunter2", "plain", "a1B2", "c2lnbmF0dXJl"))
    assert secret not in "\n".join(faults)


def test_references_and_ordinary_words_are_no_secrets():
    """``max_tokens``, ``next_page_token`` as an output, and references pass."""
    node = NODE | {
        "output_keys": ["next_page_token"],
        "max_tokens": 5,
        "system_prompt": "ask-for-the-password and desk-lamp-with-many-words",
        "metadata": {"api_key": "env:OPENAI_API_KEY", "token": None},
        "routes": {"password": "a"},
    }

    assert parse_graph({"nodes": [node]}).nodes[0].output_keys == ["next_page_token"]


def test_bodies_and_subgraphs_may_be_files(tmp_path: Path):
    """Paths are relative to the file in which they stand."""
    inner = {"nodes": [{"id": "work", "node_type": "function", "function": "f"}]}
    (tmp_path / "parts").mkdir()
    _written(tmp_path / "parts", "leaf.json", json.dumps(inner))
    middle = {"nodes": [{"id": "sub", "node_type": "subgraph", "subgraph": "leaf.json"}]}
    _written(tmp_path / "parts", "middle.json", json.dumps(middle))
    each = {"id": "each", "map_over": "items", "output_keys": ["done"], "body": "parts/middle.json"}
    path = _written(tmp_path, "g.json", json.dumps({"nodes": [each]}))

    graph = compile_graph(load_graph(path))

    assert graph.nodes[0].map is not None
    assert graph.nodes[0].map.body == graph.subgraphs[0].version
    assert graph.subgraphs[0].subgraphs[0].nodes[0].function == "f"


def test_a_graph_that_contains_itself_is_a_fault(tmp_path: Path):
    """A cycle of files ends at the second sight of one."""
    for name, other in (("a.json", "b.json"), ("b.json", "a.json")):
        graph = {"nodes": [{"id": "sub", "node_type": "subgraph", "subgraph": other}]}
        _written(tmp_path, name, json.dumps(graph))

    with pytest.raises(GraphError, match="contains itself"):
        load_graph(tmp_path / "a.json")


def test_a_missing_subgraph_file_names_the_file(tmp_path: Path):
    """The fault names the file that cannot be read."""
    path = _written(tmp_path, "g.json", json.dumps({"nodes": [{"id": "s", "subgraph": "none.json"}]}))

    with pytest.raises(GraphError, match=r"none\.json.*cannot be read"):
        load_graph(path)


def test_a_node_may_stand_in_for_a_body():
    """A map's body can be a single node, without a graph around it."""
    each = {
        "id": "each",
        "map_over": "items",
        "output_keys": ["o"],
        "body": {"node_type": "function", "function": "f"},
    }

    spec = parse_graph({"nodes": [each]})

    assert spec.nodes[0].body is not None
    assert spec.nodes[0].body.nodes[0].id == "item"


def test_nested_graphs_are_limited_in_depth():
    """Eight levels load, nine do not."""

    def nested(levels: int) -> dict[str, Any]:
        if levels == 0:
            return {"nodes": [NODE]}
        return {"nodes": [{"id": "s", "node_type": "subgraph", "subgraph": nested(levels - 1)}]}

    assert compile_graph(parse_graph(nested(8))).subgraphs
    assert "nested deeper than 8 graphs" in _fault(nested(9))[0]


def test_edges_without_ids_get_ids_of_their_own():
    """Two edges between the same nodes are told apart."""
    edge = {"source": "a", "target": "b"}
    nodes = [NODE, NODE | {"id": "b"}]

    spec = parse_graph({"nodes": nodes, "edges": [edge, edge | {"condition": "on_failure"}]})

    assert [item.id for item in spec.edges] == ["a-to-b", "a-to-b-2"]


def test_faults_of_a_nested_graph_carry_their_path():
    """The place leads from the outer node to the inner key."""
    inner = {"nodes": [NODE | {"tolls": []}]}

    faults = _fault({"nodes": [{"id": "s", "node_type": "subgraph", "subgraph": inner}]})

    assert faults == ["nodes.s.subgraph.nodes.a.tolls: unknown key (did you mean 'tools'?)"]
