"""Graphs inside graphs, and edges that an LLM chooses, on a real cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hive_ray.control.queries import ListRuns
from tests.cluster.installation import Installation, aimock_model, installed, settings_for
from tests.cluster.journals import events_of
from tests.cluster.scripts import always, gives, joined
from tests.cluster.tool_files import trouble
from tests.servers.aimock import AimockServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LLM = joined(
    always("Decide which of these edges", gives(edges=["to-left", "to-right"]), userMessage="both"),
    always("Decide which of these edges", gives(edges=["to-right"]), userMessage="just right"),
    always("Decide which of these edges", gives(edges=[]), userMessage="neither"),
)


@pytest.fixture(scope="module")
async def running(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("composition")
    with AimockServer(LLM, folder) as llm:
        settings = settings_for(folder, [trouble(folder)], aimock_model(llm.openai_url))
        async with installed(settings) as installation:
            yield installation


def function(name: str, inputs: list[str], outputs: list[str], **more: Any) -> dict[str, Any]:
    keys = {"input_keys": inputs, "output_keys": outputs}
    return {"id": name, "node_type": "function", "function": name, **keys, **more}


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"id": f"to-{target}", "source": source, "target": target, "condition": "on_success", **more}


SQUARE = {"id": "body", "nodes": [function("square", ["item"], ["squared"])], "edges": []}


def mapped(**more: Any) -> dict[str, Any]:
    node = {"id": "map", "node_type": "map", "map_over": "items", "input_keys": ["items"], "body": SQUARE}
    return {"id": "mapping", "nodes": [{**node, "output_keys": ["results"], **more}], "edges": []}


async def test_a_map_works_through_its_items_in_a_window(running: Installation):
    """Fifty items, four at a time: all results in the order of the items."""
    run = await running.submit(mapped(window=4), {"items": list(range(50))})
    view = await running.ended(run)
    children = await running.cluster.ask(ListRuns(children=True, limit=1000))
    live, most = 0, 0
    for recorded in events_of(running.settings, run, "MapProgressed"):
        live += len(getattr(recorded.event, "children", ())) - (getattr(recorded.event, "item", -1) >= 0)
        most = max(most, live)

    assert view.status == "succeeded", view.message
    assert (await running.outputs(view))["results"] == [number * number for number in range(50)]
    assert sum(line["parent"] == run for line in children[0]) == 50
    assert (live, most) == (0, 4)


async def test_a_map_counts_and_hands_on_a_list_that_is_a_blob(running: Installation):
    """A list too large for the state is never read by the controller; each item still gets its own."""
    items = [number + 0.5 for number in range(500)]
    run = await running.submit(mapped(window=50), {"items": items})
    view = await running.ended(run)

    assert view.status == "succeeded", view.message
    assert (await running.outputs(view))["results"] == [item * item for item in items]


async def test_a_large_value_that_is_no_list_fails_the_map(running: Installation):
    """The failure names the key and what is needed."""
    run = await running.submit(mapped(), {"items": {"text": "x" * 5000}})
    view = await running.ended(run)

    assert (view.status, view.failure) == ("failed", "BAD_INPUT")
    assert "items is not a list" in view.message


async def test_graphs_nest(running: Installation):
    """A map inside a subgraph inside a subgraph hands its results up through both."""
    inner = {
        "id": "inner",
        "nodes": [
            {"id": "sub", "node_type": "subgraph", "subgraph": mapped(), "input_keys": ["items"],
             "output_keys": ["results"]}
        ],
        "edges": [],
    }  # fmt: skip
    outer = {
        "id": "outer",
        "nodes": [
            {"id": "sub", "node_type": "subgraph", "subgraph": inner, "input_keys": ["items"],
             "output_keys": ["results"]},
            function("measure", ["text", "numbers"], ["length"]),
        ],
        "edges": [edge("sub", "measure", input_mapping={"numbers": "items"})],
    }  # fmt: skip
    view = await running.ended(await running.submit(outer, {"items": [2, 3], "text": "four"}))
    outputs = await running.outputs(view)

    assert view.status == "succeeded", view.message
    assert outputs["results"] == [4, 9]
    assert outputs["length"] == 4


@pytest.mark.parametrize(
    ("item", "written", "reason"),
    [
        ("both", {"squared", "left", "right", "shared"}, "terminal"),
        ("just right", {"squared", "right", "shared"}, "terminal"),
        ("neither", {"squared"}, "no_edge"),
    ],
)
async def test_an_llm_chooses_edges(running: Installation, item: str, written: set[str], reason: str):
    """Two of them, one of them, or none: what was chosen is taken, and nothing else."""
    graph = {
        "id": "deciding",
        "nodes": [
            function("same", ["item"], ["squared"]),
            function("left", ["item"], ["left", "shared"]),
            function("right", ["item"], ["right", "shared"]),
        ],
        "edges": [
            edge("same", "left", condition="llm_decide", description="to the left"),
            edge("same", "right", condition="llm_decide", description="to the right"),
        ],
    }
    view = await running.ended(await running.submit(graph, {"item": item}))

    assert (view.status, view.reason) == ("succeeded", reason), view.message
    assert set(await running.outputs(view)) == written
    assert view.spent_nanousd > 0
