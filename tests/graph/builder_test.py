"""Graphs written in Python, and graphs drawn."""

from __future__ import annotations

import pytest

from hive_ray.errors import GraphError
from hive_ray.graph.builder import Graph
from hive_ray.graph.compiled import NodeKind
from hive_ray.graph.compiler import compile_graph
from hive_ray.graph.drawing import to_mermaid, to_text
from hive_ray.graph.load import parse_graph


def greet(name: str) -> str:
    """A function to register by its name."""
    return f"hello {name}"


def _support() -> Graph:
    item = Graph("item").function("work", greet, inputs=["item"], outputs=["done"])
    return (
        Graph("support", max_steps=30)
        .router("triage", {"hard": "research", "easy": "draft"}, inputs=["ticket"])
        .event_loop("research", "Find it.", tools=["search"], outputs=["findings"])
        .llm("draft", "Answer {{ticket}}", outputs=["body"])
        .human("review", "Is it right?", deadline_s="1h", owner="role:lead", outputs=["approved"])
        .tool("mail", "send_email", inputs=["body"])
        .map("each", "items", item, outputs=["results"], window=2)
        .subgraph("again", item, outputs=["done"])
        .edge("research", "draft")
        .edge("draft", "review")
        .edge("review", "mail", when="approved == True")
        .edge("review", "each", on="on_failure")
        .edge("mail", "each", on="always")
        .edge("each", "again")
        .entry("triage")
        .terminal("again")
    )


def test_the_builder_writes_what_a_file_would_hold():
    """Built and parsed from its content, a graph is the same version."""
    built = compile_graph(_support().spec())

    assert compile_graph(parse_graph(_support().content())).version == built.version
    kinds = [node.kind for node in built.nodes]
    assert kinds == [
        NodeKind.ROUTER,
        NodeKind.EVENT_LOOP,
        NodeKind.LLM_GENERATE,
        NodeKind.HUMAN_INPUT,
        NodeKind.TOOL,
        NodeKind.MAP,
        NodeKind.SUBGRAPH,
    ]
    assert built.max_steps == 30
    assert built.nodes[3].human is not None
    assert built.nodes[3].human.owner == "role:lead"
    assert built.nodes[5].map is not None
    assert built.nodes[5].map.window == 2
    assert built.subgraphs[0].nodes[0].function == "greet"


def test_the_builder_checks_like_the_loader():
    """A misspelt field is a fault with a remedy."""
    with pytest.raises(GraphError, match=r"nodes\.a\.timeout: |did you mean 'timeout_s'"):
        Graph("g").function("a", greet, timeot_s=3).spec()


def test_a_function_router_names_its_function():
    """A router with a function needs no model."""
    graph = compile_graph(Graph("g").router("r", {"k": "a"}, function=greet).function("a", greet).spec())

    assert graph.nodes[0].function == "greet"
    assert graph.nodes[0].model is None
    assert graph.nodes[0].pool == "function"


def test_mermaid_shows_every_node_and_edge():
    """Labels are quoted and escaped; failure is dotted."""
    drawing = to_mermaid(compile_graph(_support().spec()))

    assert drawing.startswith("flowchart TD\n")
    assert 'n0{"triage<br/><i>router</i>"}' in drawing
    assert 'n0 -->|"hard"| n1' in drawing
    assert 'n3 -->|"approved == True"| n4' in drawing
    assert 'n3 -.->|"on failure"| n5' in drawing
    assert "start((start)) --> n0" in drawing
    assert drawing.count("-->") + drawing.count("-.->") == 8 + 1


def test_mermaid_labels_cannot_break_out():
    """Quotes and markup in a condition stay text."""
    graph = Graph("g").function("a", greet, outputs=["x"]).edge("a", "a", when='x == "<b>"').entry("a")

    assert '|"x == #quot;#lt;b#gt;#quot;"|' in to_mermaid(compile_graph(graph.spec()))


def test_the_text_drawing_lists_nodes_in_walking_order():
    """Entry first, each node's edges below it."""
    lines = to_text(compile_graph(_support().spec())).splitlines()

    assert lines[0].startswith("▶ triage")
    assert lines[1] == "  ├─▶ draft  [easy]"
    assert lines[2] == "  └─▶ research  [hard]"
    assert any(line.startswith("■ again") for line in lines)
