"""A graph that was accepted under other prices."""

from __future__ import annotations

import msgspec

from hive_ray.graph.compiled import CompiledGraph, FallbackKind, FallbackPlan
from hive_ray.graph.compiler import content_hash
from hive_ray.graph.environment import ModelInfo
from hive_ray.graph.repricing import repriced
from tests.core.graphs import MODEL, chain, graph, llm, nested, node

TODAY = {"small": ModelInfo(7, 9)}


def hashed(plan: CompiledGraph) -> CompiledGraph:
    return msgspec.structs.replace(plan, version=content_hash(plan))


def test_prices_that_are_those_of_today_change_nothing():
    """It is the very same graph; a model that is not there, or has no price, keeps its own."""
    plan = hashed(chain(llm("a"), node("b")))

    assert repriced(plan, {}) is plan
    assert repriced(plan, {"small": ModelInfo(None, None)}) is plan
    assert repriced(plan, {"small": ModelInfo(0, 0)}) is plan


def test_other_prices_make_another_version_with_nothing_else_changed():
    """Of the node's model, and of those that may take its place."""
    fallback = FallbackPlan(FallbackKind.MODEL, (), model=MODEL)
    plan = hashed(chain(llm("a", fallbacks=(fallback,)), node("b")))

    found = repriced(plan, TODAY)

    first, second = found.nodes
    assert first.model is not None
    assert first.fallbacks[0].model == first.model
    assert (first.model.input_nanousd_per_mtok, first.model.output_nanousd_per_mtok) == (7, 9)
    assert second == plan.nodes[1]
    assert found.version == content_hash(found) != plan.version
    assert repriced(found, TODAY) is found


def test_a_nested_graph_is_repriced_and_found_under_its_new_version():
    """Its parent names it by hash."""
    body = hashed(chain(llm("a")))
    plan = hashed(graph([nested("s", body)], subgraphs=(body,)))

    found = repriced(plan, TODAY)

    subgraph = found.nodes[0].subgraph
    assert subgraph is not None
    assert [one.version for one in found.subgraphs] == [subgraph.body] == [repriced(body, TODAY).version]
    assert found.version != plan.version
