"""Drives a shell by hand: performs its actions, holds its writes back, crashes it between any two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hive_ray.control.actions import Action, Clock, End, Limits, Reply, Write
from hive_ray.control.assembly import StateParts, Upkeep, shell_of
from hive_ray.control.io import Io, attempt
from hive_ray.control.queries import WatchRun
from hive_ray.control.recovery import recover
from hive_ray.control.sealing import Sealing
from hive_ray.control.sending import Send
from hive_ray.control.shell import Shell
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.core.commands import Command
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.keys import NO_KEY, STATE_KEY
from hive_ray.core.messages import (
    AttachReply,
    AttachRequest,
    ExchangeReply,
    ExchangeRequest,
    Outcome,
    WorkerInfo,
)
from hive_ray.core.outbox import Sent
from hive_ray.graph.compiled import CompiledGraph, encode_graph
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import PlainCodec, SealingCodec
from hive_ray.state.journal import write_pending
from hive_ray.state.keyring import Keyring
from hive_ray.state.owner import Owner
from hive_ray.state.retention import Retention
from hive_ray.state.store import Store
from tests.core import invariants
from tests.core.graphs import Facts

OWNER = Owner(4242, "node-1", "elsewhere", "boot-1", 777, "cluster-1", 1_700_000_000_000_000)


START = Clock(2_000_000_000, 1_000_000)


class Crash(Exception):
    """The controller's process ended here."""


class Driver:
    """One incarnation of the controller over a store."""

    holds_sends: bool = False
    performed: int = 0
    _calls: int = 0

    def __init__(
        self,
        store: Store,
        graphs: Iterable[CompiledGraph],
        crash_at: int = -1,
        *,
        park_after_us: int = -1,
        retention: Retention | None = None,
        clock: Clock = START,
        keys: Keyring | None = None,
        **limits: Any,
    ) -> None:
        """``park_after_us``: runs leave memory and history is kept; below 0 neither."""
        self.store = store
        self.codec = SealingCodec(keys) if keys else PlainCodec()
        self.blobs = blobs = Blobs(store, self.codec, b"k" * 32, keys.digest_key if keys else None)
        for graph in graphs:
            blobs.put_graph(graph.version, encode_graph(graph), STATE_KEY if keys else NO_KEY)
        parks = park_after_us >= 0
        recovered = recover(store, blobs, self.codec, Facts(), 0, OWNER, 1_000_000, parks=parks)
        self.engine = recovered.engine
        for graph in graphs:
            self.engine.add_graph(graph)
        self.clock = clock
        if parks:
            parts = StateParts(store, blobs, self.codec, keyring=keys)
            upkeep = Upkeep(park_after_us, retention or Retention())
            self.shell = shell_of(recovered, parts, Limits(**limits), upkeep)
        else:
            sealing = Sealing(self.codec, keys, blobs, recovered.doomed)
            snapshots = Snapshotter(store, 0, recovered.manifest, sealing)
            self.shell = Shell(recovered.engine, recovered.journal, self.codec, Limits(**limits), snapshots)
        self.shell.begin(self.clock)
        self.replies: dict[int, Any] = {}
        self.ended: End | None = None
        self.writes: list[Write] = []
        """Every write that was asked for, in order."""
        self.holds_writes = False
        self.sends: list[Send] = []
        """Every attempt to deliver a notification, in order."""
        self.receiver: Callable[[Send], Sent] = lambda _: Sent()
        self._held: list[Write] = []
        self._crash_at = crash_at

    def crash_at(self, action: int) -> None:
        """Die before the n-th action from now."""
        self._crash_at = self.performed + action

    # --- time and actions

    def pass_time(self, us: int) -> None:
        self.clock = Clock(self.clock.wall_us + us, self.clock.mono_us + us)
        self.shell.tick(self.clock)
        self.perform()

    def perform(self) -> None:
        """One turn of the loop: flush, then do what the shell asks for until it asks for nothing."""
        self.shell.flush(self.clock)
        while actions := self.shell.take_actions():
            for action in actions:
                self._do(action)
        invariants.check(self.engine)

    def _do(self, action: Action) -> None:
        self._boundary()
        match action:
            case Reply(call, payload):
                assert call not in self.replies, "a call is answered once"
                self.replies[call] = payload
            case Write():
                self.writes.append(action)
                if self.holds_writes or action.again:
                    self._held.append(action)
                else:
                    self._write(action)
            case Io():
                ended = attempt(action)
                self._boundary()
                self.shell.io_ended(action, ended, self.clock)
                self.shell.flush(self.clock)
            case Send():
                self.sends.append(action)
                if not self.holds_sends:
                    self.sent(action)
            case End():
                self.ended = action

    def sent(self, send: Send, result: Sent | None = None) -> None:
        """An attempt to deliver a notification ends: as its receiver has it, or so."""
        result = result or self.receiver(send)
        self._boundary()
        self.shell.sent(send.notification, result, self.clock)
        self.shell.flush(self.clock)

    def _boundary(self) -> None:
        """Between any two actions the process may end; also between a write and the word of it."""
        self.performed += 1
        if self.performed == self._crash_at:
            raise Crash

    def _write(self, action: Write) -> None:
        outcome = write_pending(self.store, action.pending)
        self._boundary()
        self.shell.written(outcome, self.clock)
        self.shell.flush(self.clock)

    def release_one(self) -> None:
        """Let the oldest held write go; the next one is held again."""
        self._write(self._held.pop(0))
        self.perform()

    def release(self) -> None:
        """Let the writes go that were held back, and those that are tried again."""
        self.holds_writes = False
        held, self._held = self._held, []
        for action in held:
            self._write(action)
        self.perform()

    # --- calls; each returns the number under which the answer comes

    def call(self) -> int:
        self._calls += 1
        return self._calls

    def command(self, command: Command) -> int:
        call = self.call()
        self.shell.command(call, command, self.clock)
        self.perform()
        return call

    def watch(self, run: str, after_seq: int = 0, until_end: bool = False) -> int:
        call = self.call()
        self.shell.watch(call, WatchRun(run, after_seq, until_end), self.clock)
        self.perform()
        return call

    def attach(
        self,
        worker: str = "w",
        running: tuple[AttemptRef, ...] = (),
        outcomes: tuple[Outcome, ...] = (),
        slots: int = 8,
    ) -> int:
        info = WorkerInfo(worker, "function", slots, "host", "boot", 1, 1)
        call = self.call()
        self.shell.attach(call, AttachRequest(info, running, outcomes), self.clock)
        self.perform()
        return call

    def attached(self, worker: str = "w", **fields: Any) -> AttachReply:
        return self.replies[self.attach(worker, **fields)]

    def exchange(self, session: str, n: int, *outcomes: Outcome, seen: int = 0) -> int:
        call = self.call()
        self.shell.exchange(call, ExchangeRequest(session, n, seen or n - 1, outcomes), self.clock)
        self.perform()
        return call

    def exchanged(self, session: str, n: int, *outcomes: Outcome) -> ExchangeReply:
        return self.replies[self.exchange(session, n, *outcomes)]
