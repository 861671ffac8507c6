"""From SIGKILL of the controller to its first lease afterwards, with many live runs, on a real Ray cluster.

``python -m benchmarks.recovery --runs N --json`` prints one JSON line a repeat. N runs of 50 no-op steps with
1 KiB in and out are live, all of them with a step that is ready or leased. Times are seconds after the kill:
when the new process has recovered, and the segment with its first lease.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from typing import Any

from benchmarks.cluster import Cluster, chain, cluster, ray_session
from benchmarks.throughput import submission
from hive_ray.state.access import open_state
from hive_ray.state.journal import Journal

STEPS = 50
BATCH = 1_000
PATIENCE_S = 120.0


async def submit_all(running: Cluster, graph: str, runs: int) -> None:
    for begun in range(0, runs, BATCH):
        await running.ask(*(submission(graph) for _ in range(min(BATCH, runs - begun))))


async def measure(runs: int, slots: int) -> dict[str, Any]:
    async with cluster(slots) as running:
        graph = chain(STEPS)
        running.add_graph(graph)
        await submit_all(running, graph.version, runs)
        before = await running.standing()
        os.kill(before["pid"], signal.SIGKILL)
        killed = time.time()
        after = await _recovered(running, before["epoch"])
        ready_s = time.time() - killed
        leased_us = await _first_lease_us(running, after["epoch"])
        return {
            "live_runs": before["live_runs"],
            "ready_s": round(ready_s, 3),
            "first_lease_s": round(leased_us / 1e6 - killed, 3),
        }


async def _recovered(running: Cluster, epoch: int) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            standing = await asyncio.wait_for(_ask(running), 5.0)
            if standing["ready"] and standing["epoch"] > epoch:
                return standing
        except Exception:  # noqa: BLE001 - Ray says in many ways that an actor is not back yet
            pass
        await asyncio.sleep(0.01)
    raise TimeoutError(f"the controller is not back after {PATIENCE_S} s")


async def _ask(running: Cluster) -> dict[str, Any]:
    # A restarted actor begins its recovery with the first call.
    await running.controller.start.remote()
    return await running.standing()


async def _first_lease_us(running: Cluster, epoch: int) -> int:
    """The time of the first segment of an epoch with a lease."""
    store = open_state(running.settings)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        owner = Journal(store, 0).read_owner()
        assert owner is not None
        for segment in Journal(store, 0).read_segments(max(owner.number - 200, 1)):
            if segment.header.epoch != epoch:
                continue
            for row in segment.columns.rows():
                if row.kind == "StepStarted":
                    return row.time_us
        await asyncio.sleep(0.02)
    raise TimeoutError(f"nothing was leased within {PATIENCE_S} s")


async def repeat(options: argparse.Namespace) -> None:
    for number in range(options.repeats):
        result = await measure(options.runs, options.slots)
        print(json.dumps({"repeat": number, **result}) if options.json else result, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ray_session():
        asyncio.run(repeat(options))


if __name__ == "__main__":
    main()
