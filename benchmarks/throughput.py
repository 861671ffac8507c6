"""Durable steps per second on a real Ray cluster and the file store.

``python -m benchmarks.throughput --in-flight N --runs M --steps K --json`` prints one JSON line a repeat.
Runs are submitted in waves of N, the next when all of the last have ended.
A step is a no-op function with 1 KiB in and out; every run has a budget; a step counts when its outcome
is durable. Gaps are between the journal times of a run's consecutive steps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.cluster import Cluster, chain, fresh_state, ray_session, settings_for, started
from benchmarks.compare import Progress, progress
from hive_ray.config import Settings
from hive_ray.control.queries import WatchRun
from hive_ray.core.commands import Submit
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from hive_ray.state.access import content_codec, open_state
from hive_ray.state.records import read_row
from hive_ray.state.run_events import every_row
from serve.backend import new_run_id

PAYLOAD = "x" * 1024


def submission(graph: str) -> Submit:
    content = StepContent(outputs={"x": inline(PAYLOAD)})
    return Submit(new_run_id(), "bench", "default", "bench", graph, content, budget_nanousd=1_000_000_000)


async def wave(running: Cluster, graph: str, runs: int) -> None:
    """Submit ``runs`` at once, as a replica would in one batch, and see all of them to their end."""
    commands = [submission(graph) for _ in range(runs)]
    await running.ask(*commands)
    waiting = [command.run for command in commands]
    while waiting:
        views = await running.ask(*(WatchRun(run, until_end=True) for run in waiting))
        failed = [view["message"] for view in views if view["status"] == "failed"]
        if failed:
            raise RuntimeError(f"a run failed: {failed[0]}")
        waiting = [view["run_id"] for view in views if view["status"] != "succeeded"]


class Load(NamedTuple):
    """How much of what is run at a time."""

    in_flight: int
    runs: int
    steps: int
    slots: int
    workers: int
    controlled: bool = False
    """Steps cost something, under budgets on four levels, a rate and three policies."""


CONTROL = {
    "budgets": {
        "team/default": {"usd": 1_000_000},
        "agent/default/bench": {"usd": 1_000_000},
        "workflow/default/chain": {"usd": 1_000_000},
        "pool/function": {"usd": 1_000_000},
    },
    "rates": {"pool/function": {"requests_per_minute": 50_000_000}},
    "policies": {
        "rules": [
            {
                "id": "money",
                "tags": ["moves_money"],
                "when": "args.amount > 100.0",
                "then": "require_approval",
            },
            {"id": "mail", "tools": ["send_mail"], "then": "require_approval"},
            {"id": "large", "models": ["large"], "when": "cost_usd > 5.0", "then": "deny"},
        ]
    },
}
COST_NANOUSD = 1_000


async def measure(
    load: Load, state: Mapping[str, Any] | None = None, on_warm: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """One repeat on a fresh store: a temporary folder, or the one of a `state` section.

    Args:
        on_warm: called when the first runs are through and the measured ones begin.
    """
    in_flight, runs, _, slots, workers, controlled = load
    with fresh_state(state) as given:
        settings = settings_for(given, slots, workers, CONTROL if controlled else None)
        done = await run_load(settings, load, on_warm)
        gaps = step_gaps_ms(settings)
    return {
        "in_flight": in_flight,
        "runs": runs,
        "steps": done.counters["steps"],
        "steps_per_s": round(done.steps_per_s, 1),
        "step_gap_ms_p50": round(statistics.median(gaps), 3),
        "step_gap_ms_p99": round(statistics.quantiles(gaps, n=100)[98], 3),
        **{name: done.counters[name] for name in ("commits", "exchanges", "bytes")},
        "controller_cpu_us_per_step": round(done.cpu_us, 1),
    }


async def run_load(settings: Settings, load: Load, on_warm: Callable[[], object]) -> Progress:
    """What the controller did during the measured runs."""
    in_flight, runs, steps, _, _, controlled = load
    async with started(settings) as running:
        graph = chain(steps, COST_NANOUSD if controlled else 0)
        running.add_graph(graph)
        await wave(running, graph.version, 2)
        sizes = (min(in_flight, runs - begun) for begun in range(0, runs, in_flight))
        return await progress(running, (wave(running, graph.version, size) for size in sizes), on_warm)


def step_gaps_ms(settings: Settings) -> list[float]:
    """Milliseconds between the durable ends of consecutive steps of a run; nobody may compact meanwhile."""
    codec = content_codec(settings)
    last: dict[str, int] = {}
    gaps: dict[str, list[float]] = defaultdict(list)
    for row in every_row(open_state(settings), 0):
        if row.kind != "StepSucceeded" or read_row("journal", row, codec) is None:
            continue
        if row.run in last:
            gaps[row.run].append((row.time_us - last[row.run]) / 1000)
        last[row.run] = row.time_us
    return [gap for of_run in gaps.values() for gap in of_run]


async def repeat(options: argparse.Namespace) -> None:
    for number in range(options.repeats):
        slots = max(options.slots or options.in_flight, 1)
        load = Load(
            options.in_flight, options.runs, options.steps, slots, options.workers, options.controlled
        )
        result = await measure(load)
        print(json.dumps({"repeat": number, **result}) if options.json else result, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--runs", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=0, help="of a worker; by default as many as in flight")
    parser.add_argument("--controlled", action="store_true", help="with budgets, a rate and policies")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ray_session():
        asyncio.run(repeat(options))


if __name__ == "__main__":
    main()
