"""An agent that was registered before prices rose."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.config import of_content
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import PlainCodec
from hive_ray.state.memory_store import MemoryStore, forget_memory
from serve.acceptance import Acceptance
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

GRAPH = {"id": "g", "nodes": [{"id": "a", "node_type": "llm_generate", "output_keys": ["x"]}], "edges": []}


def acceptance(name: str, usd: int) -> Acceptance:
    """A replica over the same store, with a price."""
    model = {"provider": "openai-compatible", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    prices = {"input_usd_per_mtok": usd, "output_usd_per_mtok": usd}
    settings = of_content({"models": {"m": model | prices}})

    async def key() -> bytes:
        return b""

    return Acceptance(settings, Blobs(MemoryStore(name), PlainCodec(), b"k" * 32), key)


def price(graph: CompiledGraph) -> Any:
    model = graph.nodes[0].model
    return model and model.input_nanousd_per_mtok


async def test_its_new_runs_reserve_at_the_prices_of_today():
    """Runs under way stay on the version that they began with; the new one is stored like any other."""
    accepted = await acceptance("repricing", 1).accept(GRAPH)
    today = acceptance("repricing", 5)

    current = await today.current(accepted.version)

    assert (price(accepted), price(current)) == (1_000_000_000, 5_000_000_000)
    assert price(await today.known(accepted.version)) == 1_000_000_000
    assert price(await acceptance("repricing", 5).known(current.version)) == 5_000_000_000
    assert (await today.current(current.version)).version == current.version
    forget_memory("repricing")


async def test_a_fork_begins_at_the_prices_of_today():
    """And so does a run in the place of another; the parent stays on the version that it began with."""
    model = {"provider": "openai-compatible", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    prices = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}
    face = Face("fork-prices", [], models=of_content({"models": {"m": model | prices}}).models)
    async with face.http:
        run = (await face.http.post("/v1/runs", json={"graph": GRAPH})).json()["run_id"]
        await face.http.post(f"/v1/runs/{run}/cancel")
        face.backend.acceptance = acceptance("fork-prices", 5)
        fork = (await face.http.post(f"/v1/runs/{run}/fork", json={"from": "a"})).json()["run_id"]
        resumed = (await face.http.post(f"/v1/runs/{run}/resume")).json()["run_id"]
    versions = {name: face.driver.engine.runs[name].graph for name in (run, fork, resumed)}

    assert price(face.driver.engine.graphs[versions[run]]) == 1_000_000_000
    assert price(face.driver.engine.graphs[versions[fork]]) == 5_000_000_000
    assert versions[fork] == versions[resumed]
    forget_memory("fork-prices")
