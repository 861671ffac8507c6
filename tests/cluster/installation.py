"""A running installation as a test sees it: a graph goes in, a run is followed and answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, key_section, started
from hive_ray.config import Settings
from hive_ray.control.queries import GetRun, ListWorkers, Request, WatchRun
from hive_ray.control.views import RunView, WaitView
from hive_ray.core.commands import Complete, Resolve, Resume, Signal, Submit
from serve.app import RayController
from serve.backend import Backend, digest_of, new_run_id

PATIENCE_S = 30.0
ENDED = ("succeeded", "failed", "cancelled")


def settings_for(
    folder: Path,
    modules: Iterable[str] = (),
    models: Mapping[str, Any] | None = None,
    pools: Mapping[str, Any] | None = None,
    **more: Any,
) -> Settings:
    """One worker a pool, and short times where a test would wait."""
    idle = {"num_cpus": 0, "slots": 8}
    return Settings.model_validate(
        {
            "state": {"url": (folder / "state").as_uri()},
            "keys": key_section(folder),
            "pools": {"function": idle, "tool": idle, "llm": idle} | dict(pools or {}),
            "tools": {"modules": list(modules)},
            "models": models or {},
            "observe": {"log_level": "ERROR"},
            **more,
        }
    )


def aimock_model(openai_url: str) -> dict[str, Any]:
    """An LLM server as the only model, with prices."""
    prices = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 4}
    return {"mock": {"provider": "openai-compatible", "model": "mock", "base_url": openai_url, **prices}}


class Installation:
    """A controller and its workers, reached as a replica of the HTTP face reaches them."""

    def __init__(self, cluster: Cluster) -> None:
        controller = RayController()
        self.cluster = cluster
        self.settings = cluster.settings
        self.backend = Backend(cluster.settings, controller.ask, controller.standing)

    async def submit(self, graph: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> str:
        """Accept a graph and begin a run of it; its id."""
        accepted = await self.backend.acceptance.accept(graph)
        run = new_run_id()
        content = await self.backend.content(run, accepted, values or {})
        await self.send(
            Submit(run, run, "default", "test", accepted.version, content, digest=digest_of(values))
        )
        return run

    async def send(self, request: Request) -> RunView:
        return await self.backend.view(request)

    async def view(self, run: str) -> RunView:
        return await self.send(GetRun(run))

    async def until(self, run: str, holds: Callable[[RunView], bool]) -> RunView:
        """Follow a run until something holds of it."""
        deadline = time.monotonic() + PATIENCE_S
        view = await self.view(run)
        while not holds(view):
            assert time.monotonic() < deadline, f"waited in vain: {view}"
            assert view.status not in ENDED, f"ended before: {view}"
            view = await self.send(WatchRun(run, view.seq))
        return view

    async def settled(self, run: str) -> RunView:
        """The run when it has ended or waits for a person."""
        return await self.until(run, lambda view: view.status in (*ENDED, "waiting"))

    async def ended(self, run: str) -> RunView:
        return await self.until(run, lambda view: view.status in ENDED)

    async def under_way(self, run: str, node: str) -> RunView:
        """The run when a worker has an attempt at that node."""
        return await self.until(
            run, lambda view: any(s.node == node and s.status == "leased" for s in view.steps)
        )

    async def outputs(self, view: RunView) -> dict[str, Any]:
        """What the nodes wrote, blobs read."""
        return await self.backend.loaded(view.outputs)

    # --- people ----------------------------------------------------------------------------------

    async def decide(self, wait: WaitView, decision: str, **answer: Any) -> RunView:
        """Answer an approval."""
        content = await self._content(wait.run_id, answer)
        digest = digest_of(answer)
        return await self.send(Resolve(wait.run_id, wait.approval_id, decision, content, "ann", digest))

    async def say(self, wait: WaitView, said: str) -> RunView:
        return await self.send(
            Signal(wait.run_id, await self._content(wait.run_id, {"said": said}), wait.node)
        )

    async def complete(self, wait: WaitView, **outputs: Any) -> RunView:
        return await self.send(Complete(wait.run_id, await self._content(wait.run_id, outputs), wait.node))

    async def resume(self, run: str) -> RunView:
        return await self.send(Resume(run, "ann"))

    async def _content(self, run: str, values: Mapping[str, Any]) -> Any:
        view = await self.view(run)
        return await self.backend.content(
            run, await self.backend.acceptance.known(view.graph_version), values
        )

    # --- processes -------------------------------------------------------------------------------

    async def workers(self, pool: str) -> list[dict[str, Any]]:
        (found,) = await self.cluster.ask(ListWorkers())
        return [worker for worker in found if worker["pool"] == pool]

    async def standing(self) -> dict[str, Any]:
        return await self.backend.standing()


@asynccontextmanager
async def installed(settings: Settings) -> AsyncGenerator[Installation]:
    """A controller and workers in the present Ray session."""
    async with started(settings) as cluster:
        yield Installation(cluster)


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.05)
