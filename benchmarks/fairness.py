"""How long one team waits while another has ten thousand runs in line.

``python -m benchmarks.fairness --json`` prints one line with ``p99_alone_ms`` and ``p99_beside_ms``: the time
from the call that submits a run to the moment at which the function of its first step is called on a worker.
Blocks alternate: alone, then beside a crowd that is submitted before and cancelled after. A step takes 0.2 s;
the crowd fills every slot that it may have. ``decided`` is the part of it for which the controller alone
answers: from the decision that begins the run to the one that leases its step.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import time
from typing import Any, NamedTuple

import msgspec

from benchmarks.cluster import Cluster, chain, cluster, ray_session
from hive_ray.control.queries import WatchRun
from hive_ray.core.commands import Cancel, Submit
from hive_ray.core.messages import StepContent
from hive_ray.core.values import decode, inline
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.access import content_codec, open_state
from hive_ray.state.records import read_row
from hive_ray.state.run_events import every_row
from serve.backend import new_run_id

SLOTS = 32
WORKERS = 1
BATCH = 500


def naps() -> CompiledGraph:
    """One step that takes a while."""
    graph = chain(1)
    node = msgspec.structs.replace(graph.nodes[0], function="nap")
    return msgspec.structs.replace(graph, nodes=(node,), version="bench-nap")


def submission(graph: CompiledGraph, team: str) -> Submit:
    content = StepContent(outputs={"x": inline("x")})
    return Submit(new_run_id(), "bench", team, "bench", graph.version, content)


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


async def sample(running: Cluster, graph: CompiledGraph, samples: int) -> dict[str, int]:
    """One run after the other: when each was submitted, in nanoseconds since the epoch."""
    begun: dict[str, int] = {}
    for _ in range(samples):
        command = submission(graph, "few")
        begun[command.run] = time.time_ns()
        await running.ask(command, team="few")
        await running.ask(WatchRun(command.run, until_end=True), team="few")
    return begun


class Waits(NamedTuple):
    """Milliseconds, one of each a run."""

    called: list[float]
    """From the call that submits it until its function is called."""
    decided: list[float]
    """From the decision that begins it to the one that leases its step."""


def waits_ms(running: Cluster, begun: dict[str, int]) -> Waits:
    """How long the sampled runs waited, as the journal and their results have it."""
    codec = content_codec(running.settings)
    submitted: dict[str, int] = {}
    waits = Waits([], [])
    for row in every_row(open_state(running.settings), 0):
        if row.run not in begun:
            continue
        if row.kind == "RunSubmitted":
            submitted[row.run] = row.time_us
        elif row.kind == "StepStarted":
            waits.decided.append((row.time_us - submitted[row.run]) / 1000)
        elif row.kind == "StepSucceeded":
            recorded = read_row("journal", row, codec)
            assert recorded is not None
            called_ns = int(decode(recorded.content.outputs["x"]))
            waits.called.append((called_ns - begun[row.run]) / 1e6)
    return waits


def median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def p99(values: list[float]) -> float:
    return round(statistics.quantiles(values, n=100)[98], 2)


async def measure(samples: int, blocks: int, others: int) -> dict[str, Any]:
    """All samples of both kinds, in blocks that alternate."""
    graph = naps()
    alone: dict[str, int] = {}
    beside: dict[str, int] = {}
    left: list[int] = []
    async with cluster(SLOTS // WORKERS, WORKERS) as running:
        running.add_graph(graph)
        await sample(running, graph, 5)
        # Nothing of this process' modules is garbage, and looking for it takes 0.1 s of a client's time.
        gc.collect()
        gc.freeze()
        for _ in range(blocks):
            alone |= await sample(running, graph, samples // blocks)
            runs = await crowd(running, graph, others)
            beside |= await sample(running, graph, samples // blocks)
            left.append((await running.standing())["queued"]["function"])
            await disperse(running, runs)
        waited_alone, waited_beside = waits_ms(running, alone), waits_ms(running, beside)
    return {
        "samples": len(waited_alone.called),
        "samples_beside": len(waited_beside.called),
        "in_line_at_the_end_of_a_block": min(left),
        "p50_alone_ms": median(waited_alone.called),
        "p50_beside_ms": median(waited_beside.called),
        "p99_alone_ms": p99(waited_alone.called),
        "p99_beside_ms": p99(waited_beside.called),
        "decided_p50_alone_ms": median(waited_alone.decided),
        "decided_p50_beside_ms": median(waited_beside.decided),
        "decided_p99_alone_ms": p99(waited_alone.decided),
        "decided_p99_beside_ms": p99(waited_beside.decided),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--others", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ray_session():
        result = asyncio.run(measure(options.samples, options.blocks, options.others))
    print(json.dumps(result) if options.json else result, flush=True)


if __name__ == "__main__":
    main()
