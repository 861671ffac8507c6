"""What a parked run costs in memory, how fast parked runs wake, and what snapshots add to each write.

``python -m benchmarks.parked --runs N --json`` prints one JSON line. The controller's shell works on a file
store with fdatasync, without Ray: its actions are performed one after the other in this process, loads and
snapshots too. Every run waits for a person with 1 KiB of input; ``--keys`` gives each an idempotency key.
Memory is the growth of this process's resident set from the first tenth of the runs to the last, by run.
Waking is from the first approval until the last of the woken steps is leased, durable.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.loop import POOL, Loop, clock, counting
from hive_ray.core.commands import Resolve
from hive_ray.core.messages import StepContent
from hive_ray.graph.compiled import (
    CompiledGraph,
    EdgeCondition,
    EdgePlan,
    HumanPlan,
    NodeKind,
    NodePlan,
)
from serve.backend import new_run_id

PAYLOAD = "x" * 1024
BATCH = 200
HOUR_US = 3_600_000_000


def waiting_graph() -> CompiledGraph:
    """A person, then a step."""
    person = HumanPlan("may it go on?", b"{}", 72 * HOUR_US, "", False)
    nodes = (
        NodePlan(id="ask", index=0, kind=NodeKind.HUMAN_INPUT, pool="", human=person, out_edges=(0,)),
        NodePlan(
            id="go",
            index=1,
            kind=NodeKind.FUNCTION,
            pool=POOL,
            input_keys=("x",),
            output_keys=("x",),
            idempotent=True,
            function="noop",
            reached_from=1,
            terminal=True,
        ),
    )
    edge = EdgePlan(id="e", index=0, source=0, target=1, condition=EdgeCondition.ON_SUCCESS)
    return CompiledGraph(id="waits", version="bench-waits", entry=0, nodes=nodes, edges=(edge,), max_steps=9)


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def fill(loop: Loop, runs: list[str], keys: bool) -> int:
    """Begin runs and have them parked; returns the resident bytes then."""
    for begin in range(0, len(runs), BATCH):
        loop.submit(runs[begin : begin + BATCH], PAYLOAD, keys)
        loop.tick()
    while loop.shell.engine.runs and any(run in loop.shell.engine.runs for run in runs):
        _more(loop)
    return resident_bytes()


def _more(loop: Loop) -> None:
    """A snapshot comes when enough has happened: runs that fill up the last one."""
    loop.submit([new_run_id() for _ in range(BATCH)], PAYLOAD)
    loop.tick()


def wake(loop: Loop, runs: list[str]) -> float:
    """Approve runs at once; seconds until all their steps are leased."""
    session = loop.attach(2 * len(runs))
    begun = time.perf_counter()
    for run in runs:
        command = Resolve(run, f"{run}.1", "approve", StepContent(), digest="yes")
        loop.shell.command(loop.call(), command, clock())
    leases = n = 0
    while leases < len(runs):
        n += 1
        leases += len(loop.exchange(session, n))
    return time.perf_counter() - begun


def measure(runs: int, woken: int, keys: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        store = counting(Path(folder).as_uri())
        loop = Loop(store, waiting_graph())
        names = [new_run_id() for _ in range(runs)]
        first = fill(loop, names[: runs // 10], keys)
        parked = len(loop.shell.engine.parked)
        begun = time.perf_counter()
        last = fill(loop, names[runs // 10 :], keys)
        filled_s = time.perf_counter() - begun
        added = len(loop.shell.engine.parked) - parked
        chosen = random.Random(1).sample(names, woken)
        seconds = wake(loop, chosen)
        return {
            "parked_runs": len(loop.shell.engine.parked),
            "keys": keys,
            "bytes_per_parked_run": round((last - first) / added, 1),
            "parked_per_s": round(added / filled_s, 1),
            "woken": woken,
            "wake_s": round(seconds, 3),
            "events": loop.shell.engine.seq,
            "written_bytes": dict(store.written),
            "written_to_journal": round(store.written.total() / store.written["journal"], 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--wake", type=int, default=1_000)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.runs, options.wake, options.keys)
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
