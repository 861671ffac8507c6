"""A cluster for one benchmark: Ray on this machine, a controller, workers, a fresh file store."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import ray

from hive_ray.config import Settings
from hive_ray.control.actor import ControllerActor
from hive_ray.control.envelope import INSTALLATION, Seal, closed, seal_of
from hive_ray.control.queries import ListWorkers
from hive_ray.graph.compiled import (
    CompiledGraph,
    EdgeCondition,
    EdgePlan,
    NodeKind,
    NodePlan,
    encode_graph,
)
from hive_ray.names import NAMESPACE, controller_name
from hive_ray.state.access import open_blobs, open_keyring

_decode = msgspec.msgpack.Decoder().decode
READY_S = 60.0


def settings_for(
    state: Mapping[str, Any], slots: int, workers: int, control: Mapping[str, Any] | None = None
) -> Settings:
    """Defaults, but for the function pool and the `state` section of a fresh store.

    Args:
        control: further sections: budgets, rates, policies.
    """
    pool = {"kind": "function", "slots": slots, "workers": {"min": workers, "max": workers}, "num_cpus": 0}
    idle = {"num_cpus": 0, "slots": 1}
    return Settings.model_validate(
        {
            "state": state,
            "pools": {"function": pool, "tool": {"kind": "tool", **idle}, "llm": {"kind": "llm", **idle}},
            "tools": {"modules": ["benchmarks.noop"]},
            "observe": {"log_level": "WARNING"},
            "keys": {} if state["url"].startswith("file:") else key_section(Path(tempfile.gettempdir())),
            **(control or {}),
        }
    )


def key_section(folder: Path) -> dict[str, str]:
    """The `keys` section for a state in a bucket, whose key somebody must choose."""
    file = folder / "state.kek"
    if not file.exists():
        file.touch(0o600)
        file.write_text(os.urandom(32).hex())
    return {"key": f"file:{file}"}


@contextmanager
def ray_session() -> Generator[None]:
    """A local Ray of our own, ended afterwards."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=False,
        namespace=NAMESPACE,
        configure_logging=False,
        log_to_driver=bool(os.environ.get("HIVE_BENCH_LOGS")),
    )
    try:
        yield
    finally:
        ray.shutdown()


class Cluster:
    """A controller and its workers over a fresh folder."""

    def __init__(self, settings: Settings, controller: Any) -> None:
        self.settings = settings
        self.controller = controller
        self._seal: Seal | None = None

    async def ask(self, *requests: Any, team: str = "") -> list[Any]:
        """Send one batch; the answers' values.

        Raises:
            RuntimeError: the controller refused.
        """
        if self._seal is None:
            self._seal = await asyncio.to_thread(seal_of, self.settings, open_keyring(self.settings))
        caller = msgspec.structs.replace(INSTALLATION, team=team) if team else INSTALLATION
        sealed = closed(self._seal, caller, list(requests), time.time_ns() // 1000)
        answers = _decode(await self.controller.ask.remote(sealed))
        refused = [answer["refused"] for answer in answers if answer["refused"]]
        if refused:
            raise RuntimeError(refused[0]["message"])
        return [answer["value"] for answer in answers]

    async def standing(self) -> dict[str, Any]:
        return _decode(await self.controller.standing.remote())

    def add_graph(self, graph: CompiledGraph) -> None:
        open_blobs(self.settings).put_graph(graph.version, encode_graph(graph))


@asynccontextmanager
async def cluster(slots: int, workers: int = 1) -> AsyncGenerator[Cluster]:
    """Start one controller with ``workers`` function workers of ``slots`` slots; end them afterwards."""
    with fresh_state() as given:
        async with started(settings_for(given, slots, workers)) as running:
            yield running


@contextmanager
def fresh_state(state: Mapping[str, Any] | None = None) -> Generator[Mapping[str, Any]]:
    """The `state` section that is given, or one of a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        yield state or {"url": Path(folder).as_uri()}


@asynccontextmanager
async def started(settings: Settings) -> AsyncGenerator[Cluster]:
    """Start a controller and its pools in the present Ray session; end them afterwards."""
    controller: Any = ControllerActor.options(  # pyright: ignore[reportAttributeAccessIssue]
        name=controller_name(0), namespace=NAMESPACE, max_concurrency=10_000, num_cpus=0, max_restarts=-1
    ).remote(0, settings.model_dump_json().encode(), f"session-{time.time_ns()}", False)
    await controller.start.remote()
    running = Cluster(settings, controller)
    await until_ready(running)
    try:
        yield running
    finally:
        await _end(running)


async def until_ready(running: Cluster) -> None:
    """The controller has recovered and all workers have attached."""
    workers = sum(pool.workers.min for pool in running.settings.pools.values())
    until = time.monotonic() + READY_S
    standing = await running.standing()
    attached: list[Any] = []
    while not standing["ready"] or len(attached) < workers:
        if time.monotonic() > until:
            raise TimeoutError(f"the cluster is not ready after {READY_S} s: {standing}")
        await asyncio.sleep(0.05)
        standing = await running.standing()
        if standing["ready"]:
            (attached,) = await running.ask(ListWorkers())


async def _end(running: Cluster) -> None:
    pools = running.settings.pools
    names = [f"hive/worker/{name}/{i}" for name, pool in pools.items() for i in range(pool.workers.min)]
    ray.kill(running.controller)
    for name in names:
        ray.kill(ray.get_actor(name, NAMESPACE))
    until = time.monotonic() + READY_S
    while any(_exists(name) for name in [controller_name(0), *names]) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _exists(name: str) -> bool:
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return False
    return True


def chain(steps: int, cost_nanousd: int = 0) -> CompiledGraph:
    """``steps`` no-op function nodes in a row, each of which is said to cost so much at most."""
    nodes = tuple(
        NodePlan(
            id=f"n{i}",
            index=i,
            kind=NodeKind.FUNCTION,
            pool="function",
            input_keys=("x",),
            output_keys=("x",),
            idempotent=True,
            function="noop",
            cost_nanousd=cost_nanousd,
            out_edges=(i,) if i < steps - 1 else (),
            reached_from=(1 << i) - 1,
        )
        for i in range(steps)
    )
    edges = tuple(
        EdgePlan(id=f"e{i}", index=i, source=i, target=i + 1, condition=EdgeCondition.ON_SUCCESS)
        for i in range(steps - 1)
    )
    return CompiledGraph(
        id="chain",
        version=f"bench-chain-{steps}-{cost_nanousd}",
        entry=0,
        nodes=nodes,
        edges=edges,
        max_steps=steps,
    )
