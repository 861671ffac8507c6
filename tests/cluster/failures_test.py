"""Steps that hang, die, or give what cannot be kept: each ends as its declaration says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hive_ray.control.views import RunView
from tests.cluster.installation import Installation, installed, settings_for
from tests.cluster.journals import events_of, kinds_of
from tests.cluster.tool_files import trouble

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failures")


@pytest.fixture(scope="module")
async def running(ray_cluster: None, folder: Path) -> AsyncIterator[Installation]:
    async with installed(settings_for(folder, [trouble(folder)])) as installation:
        yield installation


def one(function: str, *outputs: str, inputs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A graph of one function."""
    node = {"id": "it", "node_type": "function", "function": function, "input_keys": list(inputs)}
    return {"id": function, "nodes": [{**node, "output_keys": list(outputs), **more}], "edges": []}


def failures(running: Installation, view: RunView) -> list[str]:
    """Kinds of the attempts that failed, in order."""
    found = events_of(running.settings, view.run_id, "StepFailed")
    return [str(getattr(recorded.event, "kind", "")) for recorded in found]


@pytest.mark.parametrize("function", ["hang_once", "hang_once_async", "hang_stubbornly"])
async def test_an_idempotent_step_that_hangs_is_tried_again(running: Installation, function: str):
    """It is given up after its timeout, on a thread as on the event loop, and the second attempt counts."""
    view = await running.ended(await running.submit(one(function, "attempt")))

    assert view.status == "succeeded", view.message
    assert (await running.outputs(view))["attempt"] == 2
    assert failures(running, view) == ["TIMEOUT"]


@pytest.mark.parametrize("name", ["keyboard", "generator", "bare", "surrogate"])
@pytest.mark.parametrize("function", ["raise_anything", "raise_anything_async"])
async def test_whatever_a_step_raises_fails_it_and_frees_its_slot(
    running: Installation, function: str, name: str
):
    """Not only ``Exception``, and also texts that no message can carry."""
    graph = one(function, "never", inputs=("name",), retry={"max_retries": 0})
    view = await running.ended(await running.submit(graph, {"name": name}))

    assert (view.status, view.failure) == ("failed", "TOOL_ERROR")
    assert {worker["leases"] for worker in await running.workers("function")} == {0}


@pytest.mark.parametrize("function", ["hang_once_unsafe", "hang_once_async_unsafe"])
async def test_another_step_that_hangs_waits_for_a_person(running: Installation, function: str):
    """Nobody knows whether it took effect: it is not repeated before a person says that it did not."""
    run = await running.submit(one(function, "attempt"))
    (wait,) = (await running.settled(run)).waits
    await running.decide(wait, "did_not_happen")
    view = await running.ended(run)

    assert wait.reason == "outcome_unknown"
    assert function in wait.need
    assert "TIMEOUT" in wait.need
    assert view.status == "succeeded", view.message
    assert failures(running, view) == ["OUTCOME_UNKNOWN"]
    assert (await running.outputs(view))["attempt"] == 2


async def test_a_step_that_kills_its_workers_is_dead_lettered(running: Installation, folder: Path):
    """It is found out and fails; steps that ran beside it lose nothing, even those without retries."""
    deadly = one("poison", "item", inputs=("item",), retry={"base_s": 0.1})
    harmless = one("square", "squared", inputs=("item",), retry={"max_retries": 0})
    poisoned = await running.submit(deadly, {"item": "x"})
    others = [await running.submit(harmless, {"item": number}) for number in range(20)]
    view = await running.ended(poisoned)
    ends = [await running.ended(run) for run in others]
    after = await running.ended(await running.submit(harmless, {"item": 7}))
    pids = (folder / "pids").read_text().split()
    retries = events_of(running.settings, view.run_id, "RetryScheduled")
    in_company = max(getattr(recorded.event, "shared_losses", 0) for recorded in retries)

    assert (view.status, view.failure, view.failed_at) == ("failed", "WORKER_LOST", "it")
    assert view.dead_lettered
    assert "gone" in view.message
    # Four deaths alone (three retries); before these each death in company halved the company.
    assert len(set(pids)) == len(pids) == 4 + in_company
    assert failures(running, view) == ["WORKER_LOST"] * len(pids)
    assert {end.status for end in ends} == {"succeeded"}
    assert (await running.outputs(after)) == {"squared": 49}


async def test_an_output_that_json_cannot_hold_fails_once(running: Installation):
    """The same call would give the same: it is not tried again, though it is idempotent."""
    view = await running.ended(await running.submit(one("unserialisable", "handle")))

    assert (view.status, view.failure, view.failed_at) == ("failed", "INVALID_OUTPUT", "it")
    assert "object" in view.message
    assert kinds_of(running.settings, view.run_id).count("StepStarted") == 1


async def test_large_values_flow_from_node_to_node(running: Installation):
    """A megabyte goes through blobs, never through the journal, and arrives whole."""
    size = 1 << 20
    graph = {
        "id": "large",
        "nodes": [
            {"id": "make", "node_type": "function", "function": "large", "input_keys": ["size"],
             "output_keys": ["text", "numbers", "size"]},
            {"id": "use", "node_type": "function", "function": "measure", "input_keys": ["text", "numbers"],
             "output_keys": ["text", "length", "total"]},
        ],
        "edges": [{"id": "e", "source": "make", "target": "use", "condition": "conditional",
                   "condition_expr": f"size == {size}"}],
    }  # fmt: skip
    view = await running.ended(await running.submit(graph, {"size": size, "padding": "y" * size}))
    outputs = await running.outputs(view)
    bodies = [recorded.content for recorded in events_of(running.settings, view.run_id)]

    assert view.status == "succeeded", view.message
    assert (outputs["length"], outputs["total"], outputs["text"]) == (size, 499500, "X" * size)
    assert view.outputs["text"].blob
    assert all(len(value.data) <= 4096 for content in bodies for value in content.outputs.values())
    assert not bodies[0].outputs["size"].blob
