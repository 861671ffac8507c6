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
import uuid
from pathlib import Path
from typing import Any

from hive_ray.control.assembly import StateParts, Upkeep, shell_of
from hive_ray.control.io import Io, attempt
from hive_ray.control.recovery import recover
from hive_ray.control.shell import Clock, End, Limits, Reply, Write
from hive_ray.core.commands import Resolve, Submit
from hive_ray.core.messages import AttachRequest, ExchangeRequest, StepContent, WorkerInfo
from hive_ray.core.values import inline
from hive_ray.graph.compiled import (
    CompiledGraph,
    EdgeCondition,
    EdgePlan,
    HumanPlan,
    NodeKind,
    NodePlan,
    encode_graph,
)
from hive_ray.graph.expressions import Evaluator
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import PlainCodec
from hive_ray.state.journal import write_pending
from hive_ray.state.owner import this_process
from hive_ray.state.store import Store, open_store

PAYLOAD = "x" * 1024
BATCH = 200
HOUR_US = 3_600_000_000
POOL = "function"


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


class Loop:
    """Drives a shell in this process, as the controller's actor does on its event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        codec = PlainCodec()
        blobs = Blobs(store, codec, b"k" * 32)
        graph = waiting_graph()
        blobs.put_graph(graph.version, encode_graph(graph))
        owner = this_process("bench", "bench", time.time_ns() // 1000)
        at_us = time.time_ns() // 1000
        recovered = recover(store, blobs, codec, Evaluator(), 0, owner, at_us, parks=True)
        recovered.engine.add_graph(graph)
        limits = Limits(live_runs=10**9)
        self.shell = shell_of(recovered, StateParts(store, blobs, codec), limits, Upkeep(0))
        self.shell.begin(clock())
        self.replies: dict[int, Any] = {}
        self.io_bytes = 0
        self._calls = 0

    def call(self) -> int:
        self._calls += 1
        return self._calls

    def turn(self) -> None:
        """Perform what there is to do, until there is nothing."""
        self.shell.flush(clock())
        while actions := self.shell.take_actions():
            for action in actions:
                match action:
                    case Reply(call, payload):
                        self.replies[call] = payload
                    case Write(pending):
                        self.shell.written(write_pending(self._store, pending), clock())
                    case Io():
                        self.shell.io_ended(action, attempt(action), clock())
                    case End(reason):
                        raise reason
            self.shell.flush(clock())

    def tick(self) -> None:
        self.shell.tick(clock())
        self.turn()

    def submit(self, runs: list[str], keys: bool) -> None:
        """Begin runs, in one segment."""
        for run in runs:
            content = StepContent(outputs={"x": inline(PAYLOAD)})
            key = f"order-{run}" if keys else ""
            command = Submit(run, "bench", "team", "agent", "bench-waits", content, "d", key)
            self.shell.command(self.call(), command, clock())
        self.turn()
        self.replies.clear()


def clock() -> Clock:
    return Clock(time.time_ns() // 1000, time.monotonic_ns() // 1000, 0.5)


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def fill(loop: Loop, runs: list[str], keys: bool) -> int:
    """Begin runs and have them parked; returns the resident bytes then."""
    for begin in range(0, len(runs), BATCH):
        loop.submit(runs[begin : begin + BATCH], keys)
        loop.tick()
    while loop.shell.engine.runs and any(run in loop.shell.engine.runs for run in runs):
        _more(loop)
    return resident_bytes()


def _more(loop: Loop) -> None:
    """A snapshot comes when enough has happened: runs that fill up the last one."""
    loop.submit([uuid.uuid4().hex for _ in range(BATCH)], False)
    loop.tick()


def wake(loop: Loop, runs: list[str]) -> float:
    """Approve runs at once; seconds until all their steps are leased."""
    info = WorkerInfo("w", POOL, 2 * len(runs), "bench", "boot", 1, 1)
    attached = loop.call()
    loop.shell.attach(attached, AttachRequest(info, (), ()), clock())
    loop.turn()
    session = loop.replies[attached].session
    begun = time.perf_counter()
    for run in runs:
        command = Resolve(run, f"{run}.1", "approve", StepContent(), digest="yes")
        loop.shell.command(loop.call(), command, clock())
    leases = n = 0
    while leases < len(runs):
        n += 1
        exchange = loop.call()
        loop.shell.exchange(exchange, ExchangeRequest(session, n, n - 1, ()), clock())
        while exchange not in loop.replies:
            loop.tick()
        leases += len(loop.replies[exchange].leases)
    return time.perf_counter() - begun


def stored_bytes(folder: str) -> dict[str, int]:
    """Bytes of the state by top folder."""
    sizes: dict[str, int] = {}
    for path in Path(folder).rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            sizes[top] = sizes.get(top, 0) + path.stat().st_size
    return sizes


def measure(runs: int, woken: int, keys: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        store = open_store(Path(folder).as_uri())
        loop = Loop(store)
        names = [uuid.uuid4().hex for _ in range(runs)]
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
            "stored_bytes": stored_bytes(folder),
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
