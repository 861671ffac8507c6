"""Many small runs, each step of which has one effect that a server outside counts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

from benchmarks.cluster import Cluster
from hive_ray.control.queries import WatchRun
from hive_ray.core.commands import Submit
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, EdgePlan, NodeKind, NodePlan

PATIENCE_S = 120.0
ENDED = ("succeeded", "failed", "cancelled")


def effects_chain(steps: int, idempotent: bool = False, function: str = "") -> CompiledGraph:
    """A chain of steps that each have one effect outside."""
    function = function or ("count_idempotent_effect" if idempotent else "count_effect")
    nodes = tuple(
        NodePlan(
            id=f"n{i}",
            index=i,
            kind=NodeKind.FUNCTION,
            pool="function",
            input_keys=("item",),
            output_keys=("item",),
            timeout_us=300_000_000,
            idempotent=idempotent,
            function=function,
            out_edges=(i,) if i < steps - 1 else (),
            reached_from=(1 << i) - 1,
        )
        for i in range(steps)
    )
    edges = tuple(
        EdgePlan(id=f"e{i}", index=i, source=i, target=i + 1, condition=EdgeCondition.ON_SUCCESS)
        for i in range(steps - 1)
    )
    version = f"{function}-{steps}-{'idempotent' if idempotent else 'once'}"
    return CompiledGraph("effects", version, 0, nodes, edges, max_steps=steps)


def function_pool(slots: int, workers: int) -> dict[str, Any]:
    """The `pools` section with that many function workers and idle others, all without CPUs."""
    idle = {"num_cpus": 0, "slots": 1}
    function = {"slots": slots, "num_cpus": 0, "workers": {"min": workers, "max": workers}}
    return {"function": function, "tool": idle, "llm": idle}


async def begin(running: Cluster, graph: CompiledGraph, count: int, item: str = "x") -> list[str]:
    """Submit ``count`` runs in one batch; repeated until the controller has answered."""
    running.add_graph(graph)
    content = StepContent(outputs={"item": inline(item)})
    runs = [f"run-{uuid.uuid4()}" for _ in range(count)]
    commands = [Submit(run, "chaos", "default", "chaos", graph.version, content) for run in runs]
    await answered(running, *commands)
    return runs


async def answered(running: Cluster, *requests: Any) -> list[Any]:
    """Ask until a controller answers."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await running.ask(*requests)
        except Exception:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.05)


async def all_ended(
    running: Cluster, runs: Sequence[str], patience_s: float = PATIENCE_S
) -> list[dict[str, Any]]:
    """Every run's last view, however often its controller dies meanwhile."""
    deadline = time.monotonic() + patience_s
    views: list[dict[str, Any]] = []
    for run in runs:
        view: dict[str, Any] = {"status": ""}
        while view["status"] not in ENDED:
            assert time.monotonic() < deadline, f"run {run} is still {view}"
            try:
                (view,) = await running.ask(WatchRun(run, until_end=True))
            except Exception:  # noqa: BLE001 - the controller is down again
                await asyncio.sleep(0.05)
        views.append(view)
    return views
