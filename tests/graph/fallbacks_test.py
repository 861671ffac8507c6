"""Fallbacks as users write them, and every fault that they can have."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hive_ray.errors import GraphError
from hive_ray.graph.compiled import CompiledGraph, FallbackKind, NodePlan
from hive_ray.graph.compiler import CompileEnvironment, ModelInfo, ToolInfo, compile_graph, lint
from hive_ray.graph.fallback_plans import AWAY
from hive_ray.graph.load import parse_graph

PLACE = CompileEnvironment(
    models={"dear": ModelInfo(4, 8, 500), "cheap": ModelInfo(1, 2, 300), "free": ModelInfo(None, None)},
    default_model="dear",
    tools={"crm": ToolInfo(), "backup": ToolInfo(idempotent=True, timeout_us=5, pool="slow")},
    functions=None,
)
LLM = {"id": "a", "node_type": "llm_generate", "output_keys": ["x"], "prompt": "say {y}", "input_keys": ["y"]}
TOOL = {"id": "a", "node_type": "tool", "tool": "crm", "output_keys": ["x"]}


def compiled(node: dict[str, Any], fallback: Any, **more: Any) -> CompiledGraph:
    nodes = [node | {"fallback": fallback} | more]
    return compile_graph(parse_graph({"id": "g", "nodes": nodes, "entry_node": "a"}), PLACE)


def plan(node: dict[str, Any], fallback: Any, **more: Any) -> NodePlan:
    return compiled(node, fallback, **more).nodes[0]


def faults(node: dict[str, Any], fallback: Any, **more: Any) -> dict[str, str]:
    with pytest.raises(GraphError) as refused:
        compiled(node, fallback, **more)
    return {fault.place: f"{fault.problem}: {fault.remedy}" for fault in refused.value.faults}


def test_another_model_is_measured_and_priced_like_the_nodes_own():
    """Its worst case is known when the graph is accepted."""
    node = plan(LLM, {"model": "cheap"})
    (fallback,) = node.fallbacks

    assert node.model is not None and fallback.model is not None
    assert (fallback.model.model, fallback.model.max_tokens) == ("cheap", 300)
    assert (fallback.model.input_nanousd_per_mtok, fallback.model.output_nanousd_per_mtok) == (1, 2)
    assert fallback.model.prompt_bytes == node.model.prompt_bytes
    assert fallback.model.mentions == {"y": 1}
    assert (fallback.on, node.model_named("cheap")) == (AWAY, fallback.model)


def test_an_unknown_model_and_one_without_a_price_are_refused():
    assert "unknown model" in faults(LLM, {"model": "chaep"})["nodes.a.fallback.model"]
    assert "has no price" in faults(LLM, {"model": "free"})["nodes.a.fallback.model"]


def test_another_tool_comes_with_its_terms():
    (fallback,) = plan(TOOL, {"tool": "backup", "on": ["TIMEOUT"]}).fallbacks

    assert fallback.tool is not None and fallback.on == ("TIMEOUT",)
    assert (fallback.tool.idempotent, fallback.tool.timeout_us, fallback.tool.pool) == (True, 5, "slow")


def test_several_are_taken_in_order():
    """A value or a person ends the row: what comes behind is never reached, and lint says so."""
    rows = [{"tool": "backup"}, {"value": {"x": 1}}, {"human": {"owner": "role:support"}}]
    assert [one.kind for one in plan(TOOL, rows).fallbacks] == ["tool", "value", "human"]

    spec = parse_graph({"id": "g", "nodes": [TOOL | {"fallback": rows}], "entry_node": "a"})
    assert ["never reached" in str(found) for found in lint(spec, PLACE)] == [True]

    behind = [{"value": {"x": 1}}, {"human": {}, "on": ["CONTEXT_TOO_LONG"]}]
    spec = parse_graph({"id": "g", "nodes": [TOOL | {"fallback": behind}], "entry_node": "a"})
    assert not lint(spec, PLACE)


def test_a_person_is_asked_for_every_output():
    """With what the node's schema says of each; those that may be null may be left out."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    human = (
        plan(TOOL, {"human": {}}, output_keys=["x", "y"], nullable_output_keys=["y"], output_schema=schema)
        .fallbacks[0]
        .human
    )

    assert human is not None
    form = msgspec.json.decode(human.form)
    assert (form["properties"], form["required"]) == ({"x": {"type": "integer"}, "y": {}}, ["x"])
    assert human.reason == "what 'a' needs is away"


def test_a_person_in_the_place_of_a_router_is_asked_for_the_route():
    router = {"id": "a", "node_type": "router", "routes": {"left": "b", "right": "b"}}
    nodes = [router | {"fallback": {"human": {}}}, {"id": "b", "node_type": "tool", "tool": "crm"}]
    graph = compile_graph(parse_graph({"id": "g", "nodes": nodes, "entry_node": "a"}), PLACE)

    human = graph.nodes[0].fallbacks[0].human
    assert human is not None
    assert msgspec.json.decode(human.form)["properties"]["route"]["enum"] == ["left", "right"]


@pytest.mark.parametrize(
    ("node", "fallback", "place", "says"),
    [
        (TOOL, {}, "", "names nothing"),
        (TOOL, {"tool": "backup", "value": {}}, "", "names tool and value"),
        (TOOL, {"tool": "crm"}, ".tool", "the node's own tool"),
        (TOOL, {"tool": "bakcup"}, ".tool", "did you mean 'backup'"),
        (TOOL, {"model": "cheap"}, ".model", "asks no model"),
        (LLM, {"tool": "backup"}, ".tool", "cannot stand in"),
        (TOOL, {"value": {}}, ".value", "has no value for output 'x'"),
        (TOOL, {"value": {"x": 1, "xx": 2}}, ".value.xx", "is not an output key"),
        (TOOL, {"value": {"x": 1}, "on": ["BAD_INPUT"]}, ".on", "does not say that something is away"),
        (TOOL, {"value": {"x": 1}, "on": ["AWAY"]}, ".on", "no kind 'AWAY'"),
        (TOOL, [{"tool": "backup"}, {"tool": "none"}], "[1].tool", "unknown tool"),
    ],
)
def test_a_fallback_that_cannot_be_is_refused_by_name(node: Any, fallback: Any, place: str, says: str):
    assert says in faults(node, fallback)[f"nodes.a.fallback{place}"]


def test_a_prompt_that_is_too_long_has_a_fallback_where_it_is_declared():
    """Another model may have more room; nothing is away, so it is not among those meant by default."""
    (fallback,) = plan(LLM, {"model": "cheap", "on": ["CONTEXT_TOO_LONG"]}).fallbacks

    assert fallback.on == ("CONTEXT_TOO_LONG",)
    assert "CONTEXT_TOO_LONG" not in AWAY


AGENT = {
    "id": "a",
    "node_type": "event_loop",
    "output_keys": ["x"],
    "tools": ["crm", "backup"],
    "prompt": "go",
}
OF_CRM = {"instead_of": "crm"}


def test_a_call_of_an_agent_has_fallbacks_of_its_own():
    """A tool with its terms, or any result; what a value ends for one tool it does not end for another."""
    rows = [OF_CRM | {"tool": "backup"}, OF_CRM | {"value": {"note": "none"}}, {"model": "cheap"}]
    tool, value, model = plan(AGENT, rows).fallbacks

    assert (tool.instead_of, value.instead_of, model.instead_of) == ("crm", "crm", "")
    assert tool.tool is not None and (tool.tool.pool, tool.tool.timeout_us) == ("slow", 5)
    assert value.value == b'{"note":"none"}'
    spec = parse_graph({"id": "g", "nodes": [AGENT | {"fallback": rows}], "entry_node": "a"})
    assert not [found for found in lint(spec, PLACE) if "fallback" in str(found)]


@pytest.mark.parametrize(
    ("node", "fallback", "place", "says"),
    [
        (TOOL, OF_CRM | {"value": {"x": 1}}, ".instead_of", "'crm' is no tool of an agent"),
        (AGENT, {"instead_of": "cmr", "value": {}}, ".instead_of", "did you mean 'crm'"),
        (AGENT, OF_CRM | {"human": {}}, "", "'human' cannot stand in for a call"),
        (AGENT, OF_CRM | {"model": "cheap"}, "", "'model' cannot stand in for a call"),
        (AGENT, OF_CRM, "", "'nothing' cannot stand in"),
        (AGENT, OF_CRM | {"tool": "crm"}, ".tool", "has failed already"),
        (AGENT, [OF_CRM | {"tool": "backup"}, OF_CRM | {"tool": "backup"}], "[1].tool", "has failed already"),
        (AGENT, OF_CRM | {"tool": "none"}, ".tool", "unknown tool"),
        (AGENT, {"instead_of": "backup", "tool": "crm"}, ".tool", "is not idempotent, as 'backup' is"),
    ],
)
def test_a_fallback_that_a_call_cannot_have_is_refused_by_name(
    node: Any, fallback: Any, place: str, says: str
):
    assert says in faults(node, fallback)[f"nodes.a.fallback{place}"]


def test_a_default_value_must_fit_the_schema():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}

    assert (
        "does not fit"
        in faults(TOOL, {"value": {"x": "?"}}, output_schema=schema)["nodes.a.fallback.value.x"]
    )


def test_a_routers_value_must_name_a_route():
    router = {"id": "a", "node_type": "router", "routes": {"left": "a"}, "max_node_visits": 2}

    assert "one of left" in faults(router, {"value": {"route": "up"}})["nodes.a.fallback.value.route"]
    (fallback,) = plan(router, {"value": {"route": "left"}}).fallbacks
    assert (fallback.kind, fallback.value) == (FallbackKind.VALUE, b'{"route":"left"}')


def test_nodes_without_a_step_have_no_fallback():
    human = {"id": "a", "node_type": "human_input", "output_keys": ["x"]}

    assert "means nothing" in faults(human, {"value": {"x": 1}})["nodes.a.fallback"]
