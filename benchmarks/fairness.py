"""How long one team waits while another has ten thousand runs in line.

``python -m benchmarks.fairness --json`` prints one line with ``p99_alone_ms`` and ``p99_beside_ms``: the time
from a run's submission to the start of its first step, as the journal has them. Blocks alternate: alone, then
beside a crowd that is submitted before and cancelled after. A step takes 50 ms; every slot is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import uuid
from typing import Any

import msgspec

from benchmarks.cluster import Cluster, chain, cluster, ray_session
from hive_ray.control.queries import WatchRun
from hive_ray.core.commands import Cancel, Submit
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.access import open_state
from hive_ray.state.run_events import every_row

SLOTS = 32
BATCH = 500


def naps() -> CompiledGraph:
    """One step that takes a while."""
    graph = chain(1)
    node = msgspec.structs.replace(graph.nodes[0], function="nap")
    return msgspec.structs.replace(graph, nodes=(node,), version="bench-nap")


def submission(graph: CompiledGraph, team: str) -> Submit:
    content = StepContent(outputs={"x": inline("x")})
    return Submit(uuid.uuid4().hex, "bench", team, "bench", graph.version, content)


async def crowd(running: Cluster, graph: CompiledGraph, runs: int) -> list[str]:
    """Have another team submit so many runs at once."""
    commands = [submission(graph, "many") for _ in range(runs)]
    for begun in range(0, runs, BATCH):
        await running.ask(*commands[begun : begun + BATCH], team="many")
    return [command.run for command in commands]


async def disperse(running: Cluster, runs: list[str]) -> None:
    """Cancel what is left of it."""
    for begun in range(0, len(runs), BATCH):
        views = await running.ask(*(WatchRun(run) for run in runs[begun : begun + BATCH]))
        live = [view["run_id"] for view in views if view["status"] in ("queued", "running")]
        if live:
            # Some have ended by now, which refuses only their own.
            with contextlib.suppress(RuntimeError):
                await running.ask(*(Cancel(run, "the block has ended") for run in live))
    for run in runs:
        await running.ask(WatchRun(run, until_end=True))


async def sample(running: Cluster, graph: CompiledGraph, samples: int) -> list[str]:
    """One run after the other."""
    done: list[str] = []
    for _ in range(samples):
        command = submission(graph, "few")
        await running.ask(command, team="few")
        await running.ask(WatchRun(command.run, until_end=True), team="few")
        done.append(command.run)
    return done


def waits_ms(running: Cluster, runs: list[str]) -> list[float]:
    """From submission to the start of the first step."""
    wanted = set(runs)
    begun: dict[str, int] = {}
    waited: list[float] = []
    for row in every_row(open_state(running.settings), 0):
        if row.run in wanted and row.kind == "RunSubmitted":
            begun[row.run] = row.time_us
        elif row.run in wanted and row.kind == "StepStarted":
            waited.append((row.time_us - begun[row.run]) / 1000)
    return waited


def p99(values: list[float]) -> float:
    return round(statistics.quantiles(values, n=100)[98], 2)


async def measure(samples: int, blocks: int, others: int) -> dict[str, Any]:
    """All samples of both kinds, in blocks that alternate."""
    graph = naps()
    alone: list[str] = []
    beside: list[str] = []
    left: list[int] = []
    async with cluster(SLOTS) as running:
        running.add_graph(graph)
        await sample(running, graph, 5)
        for _ in range(blocks):
            alone += await sample(running, graph, samples // blocks)
            runs = await crowd(running, graph, others)
            beside += await sample(running, graph, samples // blocks)
            left.append((await running.standing())["queued"]["function"])
            await disperse(running, runs)
        waited_alone, waited_beside = waits_ms(running, alone), waits_ms(running, beside)
    return {
        "samples": len(waited_alone),
        "samples_beside": len(waited_beside),
        "in_line_at_the_end_of_a_block": min(left),
        "p50_alone_ms": round(statistics.median(waited_alone), 2),
        "p50_beside_ms": round(statistics.median(waited_beside), 2),
        "p99_alone_ms": p99(waited_alone),
        "p99_beside_ms": p99(waited_beside),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--others", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ray_session():
        result = asyncio.run(measure(options.samples, options.blocks, options.others))
    print(json.dumps(result) if options.json else result, flush=True)


if __name__ == "__main__":
    main()
