"""The controller's shell in this process: its actions one after the other, on a store that counts bytes."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from hive_ray.control.actions import Clock, End, Limits, Reply, Write
from hive_ray.control.assembly import StateParts, Upkeep, shell_of
from hive_ray.control.io import Io, attempt
from hive_ray.control.recovery import recover
from hive_ray.control.sending import Send
from hive_ray.core.commands import Submit
from hive_ray.core.messages import AttachRequest, ExchangeRequest, Lease, Outcome, StepContent, WorkerInfo
from hive_ray.core.values import inline
from hive_ray.graph.compiled import CompiledGraph, encode_graph
from hive_ray.graph.expressions import Evaluator
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import PlainCodec
from hive_ray.state.journal import write_pending
from hive_ray.state.owner import this_process
from hive_ray.state.store import Store, open_store

POOL = "function"


class CountingStore:
    """A store that counts the bytes written, by top folder."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.written: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, name: str, data: bytes) -> None:
        self._inner.create(name, data)
        self.written[name.partition("/")[0]] += len(data)

    def put(self, name: str, data: bytes) -> None:
        self._inner.put(name, data)
        self.written[name.partition("/")[0]] += len(data)


def counting(url: str) -> Any:
    """A counting store at a URL."""
    return CountingStore(open_store(url))


class Loop:
    """Drives a shell in this process, as the controller's actor does on its event loop."""

    def __init__(self, store: Any, graph: CompiledGraph, park_after_us: int = 0) -> None:
        self.store = store
        codec = PlainCodec()
        blobs = Blobs(store, codec, b"k" * 32)
        self._graph = graph.version
        blobs.put_graph(graph.version, encode_graph(graph))
        owner = this_process("bench", "bench", time.time_ns() // 1000)
        at_us = time.time_ns() // 1000
        recovered = recover(store, blobs, codec, Evaluator(), 0, owner, at_us, parks=True)
        recovered.engine.add_graph(graph)
        limits = Limits(live_runs=10**9)
        self.shell = shell_of(recovered, StateParts(store, blobs, codec), limits, Upkeep(park_after_us))
        self.shell.begin(clock())
        self.replies: dict[int, Any] = {}
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
                        self.shell.written(write_pending(self.store, pending), clock())
                    case Io():
                        self.shell.io_ended(action, attempt(action), clock())
                    case Send():
                        raise AssertionError("nobody is to be told of a benchmark")
                    case End(reason):
                        raise reason
            self.shell.flush(clock())

    def tick(self) -> None:
        self.shell.tick(clock())
        self.turn()

    def submit(self, runs: list[str], payload: str, keys: bool = False) -> None:
        """Begin runs, in one segment."""
        for run in runs:
            content = StepContent(outputs={"x": inline(payload)})
            key = f"order-{run}" if keys else ""
            command = Submit(run, "bench", "team", "agent", self._graph, content, "d", key)
            self.shell.command(self.call(), command, clock())
        self.turn()
        self.replies.clear()

    def attach(self, slots: int) -> str:
        """A worker; its session."""
        info = WorkerInfo("w", POOL, slots, "bench", "boot", 1, 1)
        call = self.call()
        self.shell.attach(call, AttachRequest(info, (), ()), clock())
        self.turn()
        return self.replies[call].session

    def exchange(self, session: str, n: int, *outcomes: Outcome) -> tuple[Lease, ...]:
        """One exchange; ticks until it is answered."""
        call = self.call()
        self.shell.exchange(call, ExchangeRequest(session, n, n - 1, outcomes), clock())
        self.turn()
        while call not in self.replies:
            self.tick()
        return self.replies.pop(call).leases


def clock() -> Clock:
    return Clock(time.time_ns() // 1000, time.monotonic_ns() // 1000, 0.5)
