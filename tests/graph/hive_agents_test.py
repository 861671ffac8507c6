"""Graphs that Hive exported, in all generations of its format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hive_ray.errors import GraphError
from hive_ray.graph.compiled import EdgeCondition, NodeKind
from hive_ray.graph.compiler import Severity, compile_graph, lint
from hive_ray.graph.load import load_graph, parse_graph

AGENTS = Path(__file__).parents[2] / ".." / "shared" / "hive-agents"
FILES = sorted(path for path in AGENTS.glob("*.json") if not path.name.endswith("-input.json"))

pytestmark = pytest.mark.skipif(not FILES, reason="the folder of Hive's graphs is not here")


def _load(name: str):
    return load_graph(AGENTS / name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_exported_graph_compiles_without_errors(path: Path):
    """All 32 generations of the format are understood; what looks odd is a warning."""
    spec = load_graph(path)

    graph = compile_graph(spec)

    assert len(graph.nodes) == len(spec.nodes)
    assert all(finding.severity is Severity.WARNING for finding in lint(spec))


def test_there_are_thirty_two_exported_graphs():
    """A folder that lost files would let the other tests pass on nothing."""
    assert len(FILES) == 32


def test_a_runs_input_is_refused_as_what_it_is():
    """The file next to the graph is an input: the fault says so and where it belongs."""
    with pytest.raises(GraphError) as caught:
        _load("customer-support-input.json")

    assert "this is not a graph" in str(caught.value)
    assert "--input" in str(caught.value)


def test_the_customer_support_router_becomes_route_edges():
    """Three routes lead to three nodes, and the review's condition stays on the mail's edge."""
    graph = compile_graph(_load("customer-support.json"))
    ids = [node.id for node in graph.nodes]
    routes = {edge.route: ids[edge.target] for edge in graph.edges if edge.condition is EdgeCondition.ROUTE}
    mail = next(edge for edge in graph.edges if edge.id == "e3")

    assert routes == {
        "technical": "research_technical",
        "billing": "check_billing",
        "other": "draft_response",
    }
    assert graph.expressions[mail.expression].source == "approved == True"
    assert graph.input_keys == ("ticket",)
    assert graph.max_steps == 20


def test_the_human_review_waits_by_itself():
    """A human node in ``pause_nodes`` is not paused a second time; its form comes from its outputs."""
    graph = compile_graph(_load("customer-support.json"))
    review = next(node for node in graph.nodes if node.id == "human_review")

    assert review.kind is NodeKind.HUMAN_INPUT
    assert not review.pause
    assert review.human is not None
    assert review.human.has_approved
    form = json.loads(review.human.form)
    assert form["properties"]["approved"] == {"type": "boolean"}
    assert form["properties"]["feedback"] == {"type": ["string", "null"]}
    assert form["required"] == ["approved"]


def test_start_and_end_are_no_nodes():
    """``START`` names the entry, ``END`` a terminal node."""
    graph = compile_graph(_load("market_research_agent.json"))

    assert graph.nodes[graph.entry].id == "analyze"
    assert [node.id for node in graph.nodes if node.terminal] == ["report"]
    assert [edge.id for edge in graph.edges] == ["analyze_to_search", "search_to_report"]


def test_prompts_of_the_short_generation_declare_keys():
    """``{{key}}`` is an input, "JSON with keys: …" the outputs, ``timeout: 1h`` a human's deadline."""
    graph = compile_graph(_load("support_ticket_agent.json"))
    nodes = {node.id: node for node in graph.nodes}

    assert nodes["triage"].input_keys == ("ticket_content", "customer_id")
    assert nodes["triage"].output_keys == ("category", "priority", "summary", "confidence")
    assert nodes["draft_reply"].output_keys == ("reply", "next_steps", "confidence")
    assert nodes["triage"].instruction.startswith("You are a support triage assistant")
    assert nodes["escalate"].human is not None
    assert nodes["escalate"].human.deadline_us == 3_600_000_000
    assert {node.id for node in graph.nodes if node.terminal} == {"respond", "escalate"}


def test_fan_in_knows_its_branches():
    """The join of the parallel demo is reached from the start and all three branches."""
    graph = compile_graph(_load("async_demo.json"))
    nodes = {node.id: node for node in graph.nodes}
    join = nodes["aggregator"]
    before = [name for name, node in nodes.items() if join.reached_from >> node.index & 1]

    assert before == ["start", "research_topic_1", "research_topic_2", "research_topic_3"]


def test_a_deciding_node_gets_a_model():
    """``llm_decide`` edges mark their source."""
    graph = compile_graph(_load("dependency_vulnerability_auditor.json"))
    deciding = [node for node in graph.nodes if node.decides]

    assert [node.id for node in deciding] == ["result-aggregator"]
    assert deciding[0].model is not None


def test_loop_config_limits_the_turns():
    """Hive's ``max_iterations`` of the graph is every event loop's turn limit."""
    graph = compile_graph(_load("trip_planner.json"))

    assert {node.max_turns for node in graph.nodes} == {100}
    assert graph.continuous


def test_sub_agents_are_a_warning_on_their_node_only():
    """Delegation does not run here; the delegates are not also called unreachable."""
    places = [finding.fault.place for finding in lint(_load("document_intelligence_agent_team.json"))]

    assert "nodes.coordinator.sub_agents" in places
    assert "nodes.researcher" not in places


def test_browser_nodes_are_refused_by_name():
    """``gcu`` is known and does not run."""
    with pytest.raises(GraphError) as caught:
        parse_graph({"id": "g", "nodes": [{"id": "browse", "node_type": "gcu"}], "edges": []})

    assert [fault.place for fault in caught.value.faults] == ["nodes.browse.node_type"]
    assert "gcu" in caught.value.faults[0].problem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_retries_of_exported_nodes_are_honoured(path: Path):
    """``max_retries`` of a node, else ``max_retries_per_node`` of its graph; ``retry_on`` by kind."""
    spec = load_graph(path)

    for node, plan in zip(spec.nodes, compile_graph(spec).nodes, strict=True):
        wanted = node.max_retries if node.max_retries is not None else spec.max_retries_per_node
        assert plan.retry.max_retries == (3 if wanted is None else wanted)
        assert bool(plan.retry.retry_on) <= bool(node.retry_on)
