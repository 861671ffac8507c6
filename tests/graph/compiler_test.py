"""Compiling: faults, warnings, plans, hashes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from hive_ray.core.failures import FailureKind
from hive_ray.errors import GraphError
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, decode_graph, encode_graph
from hive_ray.graph.compiler import (
    CompileEnvironment,
    FunctionInfo,
    ModelInfo,
    Severity,
    ToolInfo,
    compile_graph,
    lint,
)
from hive_ray.graph.load import parse_graph
from hive_ray.graph.retries import FAILURE_KINDS
from hive_ray.graph.wording import final_answer_text

F = {"node_type": "function", "function": "f"}
LLM = {"node_type": "llm_generate"}
KNOWN = CompileEnvironment(
    models={"small": ModelInfo(100, 400, 512), "free": ModelInfo(0, 0), "odd": ModelInfo(None, 5)},
    default_model="small",
    tools={"search": ToolInfo(True, 5_000_000, "web", ("reads",), 7, 100)},
    functions={"f": FunctionInfo(True, 1_000_000, "fast", 3)},
    pools=("web", "fast", "llm", "function", "tool"),
)


def _node(id: str, *parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"id": id}
    for part in parts:
        result |= part
    return result | fields


def _edge(source: str, target: str, **fields: Any) -> dict[str, Any]:
    return {"id": f"{source}{target}", "source": source, "target": target} | fields


def _data(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    nodes = [part for part in parts if "source" not in part]
    return {"id": "g", "nodes": nodes, "edges": [part for part in parts if "source" in part]} | fields


def _compile(
    *parts: dict[str, Any], environment: CompileEnvironment | None = None, **fields: Any
) -> CompiledGraph:
    return compile_graph(parse_graph(_data(*parts, **fields)), environment or CompileEnvironment())


def _faults(
    *parts: dict[str, Any], environment: CompileEnvironment | None = None, **fields: Any
) -> list[str]:
    with pytest.raises(GraphError) as caught:
        _compile(*parts, environment=environment, **fields)
    return [str(fault) for fault in caught.value.faults]


def _warnings(*parts: dict[str, Any], **fields: Any) -> list[str]:
    findings = lint(parse_graph(_data(*parts, **fields)))
    assert all(finding.severity is Severity.WARNING for finding in findings)
    return [str(finding.fault) for finding in findings]


FAULTS: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([_node("a", F), _node("a", F)], {}, "nodes.a: a second node with this id"),
    (
        [_node("a", F), _node("b", F), _edge("a", "b"), _edge("a", "b")],
        {},
        "edges.ab: a second edge with this id",
    ),
    ([_node("aa", F), _edge("aa", "ab")], {}, "edges.aaab.target: no node 'ab' (known: aa)"),
    ([_node("aa", F), _edge("ab", "aa")], {}, "edges.abaa.source: no node 'ab'"),
    ([_node("aa", F)], {"entry_node": "ab"}, "entry_node: no node 'ab' (known: aa)"),
    ([_node("a", F), _node("b", F)], {}, "entry_node: missing, and not plain (without incoming edges: a, b)"),
    ([_node("a", F), _node("b", F), _edge("a", "b"), _edge("b", "a")], {}, "entry_node: missing"),
    ([_node("aa", F)], {"terminal_nodes": ["ab"]}, "terminal_nodes: no node 'ab'"),
    ([_node("aa", F)], {"pause_nodes": ["ab"]}, "pause_nodes: no node 'ab'"),
    ([_node("a", node_type="function")], {}, "nodes.a.function: missing on a function node"),
    ([_node("a", node_type="tool")], {}, "nodes.a.tool: missing on a tool node"),
    ([_node("a", node_type="router")], {}, "nodes.a.routes: a router without routes and without a function"),
    ([_node("aa", routes={"k": "ab"})], {}, "nodes.aa.routes.k: no node 'ab'"),
    ([_node("a", LLM, routes={"k": "a"})], {}, "nodes.a.routes: means nothing on a llm_generate node"),
    ([_node("a", F, approval={"reason": "x"})], {}, "nodes.a.approval: means nothing on a function node"),
    ([_node("a", node_type="map", output_keys=["o"])], {}, "nodes.a.map_over: missing on a map node"),
    (
        [_node("a", node_type="map", map_over="x", output_keys=["o"])],
        {},
        "nodes.a.body: missing on a map node",
    ),
    ([_node("a", node_type="map", map_over="x", body=F)], {}, "nodes.a.output_keys: missing on a map node"),
    ([_node("a", node_type="subgraph")], {}, "nodes.a.subgraph: missing on a subgraph node"),
    ([_node("a", F, output_keys=["x", "x"])], {}, "nodes.a.output_keys: 'x' stands twice"),
    ([_node("a", LLM, sub_agents=["b"])], {}, "nodes.a.sub_agents: no node 'b'"),
    ([_node("a", F), _edge("a", "a", condition="conditional")], {}, "edges.aa.condition_expr: missing"),
    ([_node("a", F), _edge("a", "a", condition_expr="f(x)")], {}, "edges.aa.condition_expr: the call f(x)"),
    (
        [_node("a", F), _edge("a", "a", input_mapping={"x": "a b"})],
        {},
        "edges.aa.input_mapping.x: 'a b' is not",
    ),
    ([_node("a", LLM, output_schema={"type": 3})], {}, "nodes.a.output_schema: not a JSON Schema"),
    ([_node("a", approval={"form": {"required": "x"}})], {}, "nodes.a.approval.form: not a JSON Schema"),
    (
        [_node("a", approval={"deadline_s": 9, "escalate": [{"owner": "x", "after_s": 9}]})],
        {},
        "nodes.a.approval.escalate: nothing is left for the last owner: escalation takes 9 s of 9 s",
    ),
    (
        [_node("a", approval={"finally": {"approved": "yes"}}, output_keys=["approved"])],
        {},
        "nodes.a.approval.finally.approved: does not fit the form",
    ),
    (
        [_node("a", approval={"finally": "approve", "form": {"required": ["amount"]}})],
        {},
        "nodes.a.approval.finally: does not fit the form: 'amount' is a required property",
    ),
    (
        [_node("s", subgraph=_data(_node("a", F), _edge("a", "b")))],
        {},
        "nodes.s.subgraph.edges.ab.target: no node",
    ),
]


@pytest.mark.parametrize(("parts", "fields", "said"), FAULTS, ids=[said for _, _, said in FAULTS])
def test_a_faulty_graph_is_refused_by_name(parts: list[dict[str, Any]], fields: dict[str, Any], said: str):
    """Each fault names the node or edge and what would be right."""
    faults = _faults(*parts, **fields)

    assert any(fault.startswith(said) for fault in faults), faults


IN_AN_ENVIRONMENT = [
    (_node("a", LLM, model="smal"), "nodes.a.model: unknown model 'smal' (did you mean 'small'?)"),
    (_node("a", LLM, model="odd"), "nodes.a.model: the model 'odd' has no price"),
    (_node("a", LLM, tools=["serch"]), "nodes.a.tools: unknown tool 'serch' (did you mean 'search'?)"),
    (_node("a", node_type="tool", tool="serch"), "nodes.a.tool: unknown tool 'serch'"),
    (_node("a", node_type="function", function="g"), "nodes.a.function: unknown function 'g'"),
    (_node("a", F, pool="gpu"), "nodes.a.pool: no pool 'gpu'"),
]


@pytest.mark.parametrize(("node", "said"), IN_AN_ENVIRONMENT, ids=[said for _, said in IN_AN_ENVIRONMENT])
def test_what_the_place_does_not_have_is_refused_once(node: dict[str, Any], said: str):
    """Models, prices, tools, functions and pools are checked where they are known, and not elsewhere."""
    faults = _faults(node, environment=KNOWN)

    assert [fault for fault in faults if fault.startswith(said)] == faults
    assert len(faults) == 1
    assert _compile(node).nodes[0].id == "a"


def test_a_node_without_any_model_is_refused_where_models_are_known():
    """No default, no name: nothing could be called."""
    faults = _faults(_node("a", LLM), environment=CompileEnvironment(models={"m": ModelInfo(0, 0)}))

    assert faults == ["nodes.a.model: no model named (name one here or as default_model)"]


def test_all_faults_come_at_once():
    """One refusal lists what is wrong with nodes, edges, conditions, models and nested graphs."""
    inner = _data(_node("x", node_type="tool"))
    parts = (
        _node("a", LLM, model="none"),
        _node("b", node_type="function"),
        _node("c", node_type="subgraph", subgraph=inner),
        _edge("a", "z"),
        _edge("a", "b", condition_expr="open('x')"),
    )

    places = [fault.split(":")[0] for fault in _faults(*parts, environment=KNOWN, entry_node="q")]

    assert sorted(places) == [
        "edges.ab.condition_expr",
        "edges.az.target",
        "entry_node",
        "nodes.a.model",
        "nodes.b.function",
        "nodes.c.subgraph.nodes.x.tool",
    ]


WARNINGS: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([_node("a", F), _node("b", F)], {"entry_node": "a"}, "nodes.b: cannot be reached from the entry"),
    (
        [_node("a", F), _node("b", F), _edge("a", "b", condition="on_success")],
        {"terminal_nodes": ["a"]},
        "edges.ab: never taken: 'a' is a terminal node",
    ),
    (
        [_node("a", F), _node("b", F, input_keys=["k"]), _edge("a", "b")],
        {},
        "nodes.b.input_keys: no node writes 'k'",
    ),
    (
        [_node("a", F), _node("b", F), _edge("a", "b", condition_expr="k == 1")],
        {},
        "edges.ab.condition_expr: no node",
    ),
    (
        [_node("a", F), _node("b", F), _edge("a", "b"), _edge("b", "a")],
        {"entry_node": "a"},
        "nodes.a: a cycle without an exit (a, b)",
    ),
    (
        [
            _node("a", F),
            _node("b", F, output_keys=["k"]),
            _node("c", F, output_keys=["k"]),
            _edge("a", "b"),
            _edge("a", "c"),
        ],
        {},
        "nodes.b.output_keys: 'k' is also written by 'c' on a parallel branch",
    ),
    (
        [_node("a", F, nullable_output_keys=["k"])],
        {},
        "nodes.a.nullable_output_keys: 'k' is not an output key",
    ),
    ([_node("a", F, retry_on=["timeot"])], {}, "nodes.a.retry_on: 'timeot' is no failure kind"),
    ([_node("a", node_type="llm_tool_use")], {}, "nodes.a.tools: an llm_tool_use node without tools"),
]


@pytest.mark.parametrize(("parts", "fields", "said"), WARNINGS, ids=[said for _, _, said in WARNINGS])
def test_a_doubtful_graph_is_accepted_with_a_warning(
    parts: list[dict[str, Any]], fields: dict[str, Any], said: str
):
    """Lint says it; the graph compiles all the same."""
    assert any(warning.startswith(said) for warning in _warnings(*parts, **fields))
    assert _compile(*parts, **fields).version


QUIET: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    (
        [_node("a", F), _node("b", F, input_keys=["k"]), _edge("a", "b")],
        {"input_schema": {"properties": {"k": {}}}},
    ),
    (
        [
            _node("a", F, output_keys=["v"]),
            _node("b", F, input_keys=["k"]),
            _edge("a", "b", input_mapping={"k": "v"}),
        ],
        {},
    ),
    ([_node("a", F, output_keys=["go"]), _edge("a", "a", condition_expr="go")], {"entry_node": "a"}),
    ([_node("a", client_facing=True), _node("b", F), _edge("a", "b"), _edge("b", "a")], {"entry_node": "a"}),
]


@pytest.mark.parametrize(("parts", "fields"), QUIET)
def test_a_sound_graph_has_no_warnings(parts: list[dict[str, Any]], fields: dict[str, Any]):
    """Inputs by schema or mapping, loops with a condition, loops through a client."""
    assert _warnings(*parts, **fields) == []


def test_errors_come_before_warnings():
    """What refuses a graph is read first."""
    spec = parse_graph(_data(_node("a", F, retry_on=["x"]), _edge("a", "b")))

    assert [finding.severity for finding in lint(spec)] == [Severity.ERROR, Severity.WARNING]


def test_a_node_takes_its_terms_from_the_environment():
    """Idempotence, timeout, pool and cost of a function or tool; the node's own fields win."""
    parts = (
        _node("a", F),
        _node("b", F, timeout_s=9, idempotent=False, pool="llm", cost_usd="0.01"),
        _edge("a", "b"),
    )

    a, b = _compile(*parts, environment=KNOWN).nodes

    assert (a.idempotent, a.timeout_us, a.pool, a.cost_nanousd) == (True, 1_000_000, "fast", 3)
    assert (b.idempotent, b.timeout_us, b.pool, b.cost_nanousd) == (False, 9_000_000, "llm", 10_000_000)


def test_defaults_follow_the_kind():
    """Functions and tools are not idempotent unless declared, LLM calls are; 30, 60 and 120 seconds."""
    parts = (
        _node("a", F),
        _node("b", node_type="tool", tool="t"),
        _node("c", LLM),
        _edge("a", "b"),
        _edge("b", "c"),
    )
    terms = [(node.pool, node.idempotent, node.timeout_us) for node in _compile(*parts).nodes]

    assert terms == [("function", False, 30_000_000), ("tool", False, 60_000_000), ("llm", True, 120_000_000)]


def test_a_model_plan_bounds_the_call():
    """Prices of the model, its tokens, and every byte that is sent before the inputs."""
    node = _node(
        "a", node_type="llm_tool_use", system_prompt="é", prompt="hi", tools=["search"], output_keys=["o"]
    )

    plan = _compile(node, environment=KNOWN, identity_prompt="who").nodes[0]
    model = plan.model

    assert model is not None
    assert (model.model, model.max_tokens) == ("small", 512)
    assert (model.input_nanousd_per_mtok, model.output_nanousd_per_mtok) == (100, 400)
    texts = len("who" + "hi" + "Begin.") + len("é".encode()) + len(final_answer_text(plan))
    assert model.prompt_bytes == texts + len("search") + 100 + 1024


def test_an_explicit_price_of_nothing_is_a_price():
    """A local model costs 0, which is known."""
    assert _compile(_node("a", LLM, model="free"), environment=KNOWN).version


def test_routes_become_edges_and_repeated_ones_do_not_double():
    """A declared edge to a route's target is that route; an ``on_failure`` edge stays what it is."""
    parts = (
        _node("r", routes={"x": "a", "y": "b"}),
        _node("a", F),
        _node("b", F),
        _edge("r", "a", condition="on_success", priority=2),
        _edge("r", "b", condition="on_failure"),
    )

    edges = _compile(*parts).edges

    assert [(edge.id, edge.condition, edge.route) for edge in edges] == [
        ("ra", EdgeCondition.ROUTE, "x"),
        ("rb", EdgeCondition.ON_FAILURE, ""),
        ("r:y", EdgeCondition.ROUTE, "y"),
    ]
    assert [edge.index for edge in edges] == [0, 1, 2]
    assert edges[0].priority == 2


def test_masks_follow_what_can_be_taken():
    """A terminal node that succeeds takes no edge, so nothing is reached through it but after failure."""
    parts = (
        _node("a", F),
        _node("b", F),
        _node("c", F),
        _node("d", F),
        _edge("a", "b"),
        _edge("b", "c", condition="on_success"),
        _edge("b", "d", condition="on_failure"),
    )

    nodes = _compile(*parts, terminal_nodes=["b"]).nodes

    assert [node.reached_from for node in nodes] == [0, 0b1, 0, 0b11]
    assert nodes[1].out_edges == (1, 2)


def test_a_loop_reaches_itself():
    """Every node of a cycle is reached from all of it."""
    parts = (_node("a", F), _node("b", F), _edge("a", "b"), _edge("b", "a"))

    assert [node.reached_from for node in _compile(*parts, entry_node="a").nodes] == [0b11, 0b11]


def test_input_mappings_name_memory_keys():
    """``{key}``, ``output.key`` and ``key`` are the same key."""
    mapping = {"x": "{v}", "y": "output.v", "z": "v", "w": "{{ v }}"}
    parts = (_node("a", F), _node("b", F), _edge("a", "b", input_mapping=mapping))

    assert _compile(*parts).edges[0].input_mapping == (("w", "v"), ("x", "v"), ("y", "v"), ("z", "v"))


def test_retries_take_hives_names():
    """Hive's words become failure kinds; numbers come from the nearest place that has them."""
    nodes = _compile(
        _node("a", F, retry_on=["rate_limit", "Timeout", "connection"], max_retries=7),
        _node("b", F, retry_on=["all"]),
        _edge("a", "b"),
        max_retries_per_node=1,
    ).nodes

    assert nodes[0].retry.retry_on == ("LLM_UNAVAILABLE", "RATE_LIMITED", "TIMEOUT", "TOOL_UNAVAILABLE")
    assert (nodes[0].retry.max_retries, nodes[1].retry.max_retries) == (7, 1)
    assert nodes[1].retry.retry_on == ()


def test_failure_kinds_are_those_of_the_core():
    """The names stand twice, since the graph imports nothing of the core."""
    assert list(FAILURE_KINDS) == [kind.value for kind in FailureKind]


def test_pause_nodes_pause():
    """Any node but a human one, which waits by itself."""
    nodes = _compile(
        _node("a", F), _node("h", node_type="human_input"), _edge("a", "h"), pause_nodes=["a", "h"]
    ).nodes

    assert [node.pause for node in nodes] == [True, False]


def test_hives_output_schema_becomes_json_schema():
    """Fields without an object around them are wrapped; ``required: true`` moves to the list."""
    schema = {"score": {"type": "number", "required": True}, "note": {"type": "string"}}

    written = json.loads(_compile(_node("a", LLM, output_schema=schema)).nodes[0].output_schema)

    assert written["required"] == ["score"]
    Draft202012Validator(written).validate({"score": 1})
    assert not Draft202012Validator(written).is_valid({"score": "x"})


def test_success_criteria_reach_the_prompt():
    """What Hive's judge held an agent to is told to the agent."""
    node = _compile(_node("a", system_prompt="Work.", success_criteria="it is done")).nodes[0]

    assert node.prompt == "Work.\n\nYou are done when: it is done"


BASE = _data(
    _node("r", routes={"x": "a", "y": "b"}, system_prompt="choose"),
    _node("a", F, output_keys=["k"]),
    _node("b", F),
    _edge("a", "b", condition_expr="k == 1", input_mapping={"p": "k", "q": "k"}),
    entry_node="r",
)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def test_the_order_of_keys_does_not_change_the_hash():
    """A graph is its content, not its file."""
    assert compile_graph(parse_graph(_reversed(BASE))).version == compile_graph(parse_graph(BASE)).version


def test_the_name_does_not_change_the_hash():
    """Renaming a graph is no new version."""
    assert (
        compile_graph(parse_graph(BASE | {"name": "x"})).version == compile_graph(parse_graph(BASE)).version
    )


CHANGES = [
    ("nodes", 0, "system_prompt", "choose well"),
    ("nodes", 1, "timeout_s", 7),
    ("nodes", 1, "function", "g"),
    ("edges", 0, "condition_expr", "k == 2"),
    ("edges", 0, "priority", 1),
]


@pytest.mark.parametrize(("part", "index", "key", "value"), CHANGES)
def test_any_change_of_content_changes_the_hash(part: str, index: int, key: str, value: Any):
    """Prompts, terms, conditions, priorities."""
    changed = json.loads(json.dumps(BASE))
    changed[part][index][key] = value

    assert compile_graph(parse_graph(changed)).version != compile_graph(parse_graph(BASE)).version


def test_a_change_inside_a_nested_graph_changes_the_outer_hash():
    """A graph is pinned to the bodies that it runs."""

    def versions(function: str) -> str:
        body = {"node_type": "function", "function": function}
        return _compile(_node("m", map_over="xs", output_keys=["o"], body=body)).version

    assert versions("f") != versions("g")


def test_a_compiled_graph_survives_its_encoding():
    """What is stored under the hash comes back equal."""
    graph = compile_graph(parse_graph(BASE))

    assert decode_graph(encode_graph(graph)) == graph
    assert msgspec.structs.asdict(graph)["version"] == graph.version


def test_a_graph_may_have_more_nodes_than_an_integer_has_bits():
    """Reachability masks of 200 nodes survive the encoding."""
    nodes = [_node(f"n{index}", F) for index in range(200)]
    edges = [_edge(f"n{index}", f"n{index + 1}") for index in range(199)]

    graph = decode_graph(encode_graph(_compile(*nodes, *edges)))

    assert graph.nodes[-1].reached_from == (1 << 199) - 1
    assert graph.nodes[-1].reached_from & 1 << 150


def test_equal_bodies_are_kept_once():
    """Two maps over one body share its compiled graph."""
    body = {"node_type": "function", "function": "f"}
    parts = [
        _node(id, map_over="xs", output_keys=[id], body={"id": "b", "nodes": [_node("i", body)]})
        for id in "mn"
    ]

    assert len(_compile(*parts, _edge("m", "n")).subgraphs) == 1


def test_what_means_nothing_here_is_named():
    """Hive's other entry points and its early joins: the graph runs, and lint says what does not happen."""
    groups = [{"nodes": ["a", "b"], "min_completed": 1}, {"nodes": ["a", "b"], "min_completed": 2}]
    parts = (_node("a", F), _node("b", F), _edge("a", "b"))
    data = _data(*parts, entry_points={"start": "a", "again": "b"}, parallel_groups=groups)

    places = [str(finding.fault.place) for finding in lint(parse_graph(data))]

    assert places == ["entry_points.again", "parallel_groups[0].min_completed"]


def test_an_input_schema_is_planned_in_either_form():
    """JSON Schema, or Hive's fields; what is none is a fault, and where nothing checks it lint says so."""
    hive = {"x": {"type": "string", "required": True}}
    asked = _node("a", F, input_keys=["x"], input_schema=hive)
    human = _node("a", node_type="human_input", output_keys=["ok"], input_schema=hive)

    planned = json.loads(_compile(asked).nodes[0].input_schema)

    assert (planned["properties"], planned["required"]) == ({"x": {"type": "string"}}, ["x"])
    assert [str(f.fault.place) for f in lint(parse_graph(_data(human)))] == ["nodes.a.input_schema"]
    assert "nodes.a.input_schema" in _faults(_node("a", F, input_schema={"$ref": 5}))[0]
