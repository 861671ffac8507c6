"""A controller's process: the production recovery and the production shell, without asyncio and Ray.

What ``control/actor.py`` does with an event loop is done here with simulated time. Between any two actions,
and at every operation on the store, the process may be killed, or others may run.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hive_ray.config import Settings
from hive_ray.control import queries
from hive_ray.control.actions import Action, Clock, End, Reply, Write, anybody
from hive_ray.control.assembly import StateParts, Upkeep, shell_of
from hive_ray.control.door import Door, Entered
from hive_ray.control.envelope import Asked
from hive_ray.control.io import Io, attempt
from hive_ray.control.recovery import Recovered, load_graph, may_take, recover
from hive_ray.control.sending import Send
from hive_ray.control.shell import Shell
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.control.views import Answer
from hive_ray.core.commands import Fork, Refused, Register, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.events import Draft, Event
from hive_ray.core.keys import STATE_KEY
from hive_ray.core.messages import AttachRequest, ExchangeRequest
from hive_ray.core.outbox import Sent
from hive_ray.errors import Corrupt, StoreError, Unavailable
from hive_ray.state.journal import Committed, FencedBy, Journal, PendingWrite, Retry, write_pending
from hive_ray.state.lineage import open_for_work
from hive_ray.state.owner import Owner
from hive_ray.state.retention import Retention
from hive_ray.testing import Call, Killed, SimulatedProcess
from tests.core.graphs import Facts
from tests.simulation.budgets import apply_plan
from tests.simulation.checker import Checker
from tests.simulation.receivers import with_receivers
from tests.simulation.rules import with_rules
from tests.simulation.storage import codec_over

if TYPE_CHECKING:
    from tests.simulation.world import World

ENVIRONMENT = "simulation"
TICK_US, MOST_TICK_US = 100_000, 800_000
MOST_TURN_US = 500
RETRY_WRITE_US = 200_000
RETRY_RECOVERY_US = 300_000
DOOR = Door(Settings())
FIRST_CLUSTER = "cluster-1"
UNLUCKY_TRIES = 6
"""Recoveries that fail before the store is spared: with hundreds of segments none might ever succeed."""
MOST_TRIES = 4
"""After which another cluster gives up waiting for the owner to become stale."""


class Controller:
    """One incarnation, from its start to its death."""

    def __init__(self, world: World, number: int, cluster: str, take_over: bool) -> None:
        self.world = world
        self.number = number
        self.process = SimulatedProcess(f"controller-{number}", self._died)
        # One in five stood on this host before it booted last: whoever comes sees that it is gone.
        host = "elsewhere" if number % 5 else socket.gethostname()
        self.owner = Owner(1000 + number, "node", host, "boot", number, cluster, 0)
        self.shell: Shell | None = None
        self.corrupt: Corrupt | None = None
        self.take_over = take_over
        self.epoch = 0
        self.durable_seq = 0
        """Last seq of this incarnation that stands in the store."""
        self.decided: list[tuple[int, Event, int]] = []
        """Events of this incarnation that are not durable."""
        self.busy = 0
        """Blocking work under way, in which others may run."""
        self._touched: dict[str, None] = {}
        self._store = world.storage.open_store(self._before, self._after)
        self._keyring = world.storage.open_keyring(self._store)
        self._codec, self._blobs = codec_over(self._store, self._keyring)
        self._in_flight: PendingWrite | None = None
        self._calls: dict[int, tuple[Call, object]] = {}
        self._numbers = 0
        self._flush_due = False
        self._turn_us = MOST_TURN_US * (number % 3)
        self._pause_us = TICK_US
        self._ticked_seq = 0
        self._tries = 0
        self._nonce = world.token_hex(16)

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        self._later(0, self._recover)

    def _later(self, us: int, work: Callable[[], None]) -> None:
        self.world.clock.after(us, partial(self.process.run, work))

    def _died(self) -> None:
        """Whoever waits for an answer learns of it."""
        self.shell = None
        calls, self._calls = self._calls, {}
        for call, _ in calls.values():
            call.fail()
        self.world.controller_died(self)

    def _recover(self) -> None:
        """Until it succeeds; a damaged object stops it."""
        try:
            self.busy += 1
            found = self._recover_once()
        except Corrupt as error:
            self.corrupt = error
            self.world.found_corrupt(self, error)
            return
        except (StoreError, Unavailable):
            self._tries += 1
            if self.owner.cluster != FIRST_CLUSTER and self._tries >= MOST_TRIES:
                self.process.kill()
            self._later(RETRY_RECOVERY_US, self._recover)
            return
        finally:
            self.busy -= 1
        self._begin(found)

    def _recover_once(self) -> Recovered:
        clock = self.world.clock
        self._store.probe()
        open_for_work(self._store, ENVIRONMENT, clock.wall_us)
        journal = Journal(self._store, 0)
        may_take(journal, self.owner, clock.wall_us, 20.0, self.take_over)
        if self._keyring is not None:
            self._keyring.open(create=True)
        found = recover(
            self._store,
            self._blobs,
            self._codec,
            Facts(),
            0,
            self.owner,
            clock.wall_us,
            self._nonce,
            parks=self.world.plan.parks,
        )
        if self._keyring is not None:
            live = (run.key for run in found.engine.runs.values() if run.key and not run.terminal)
            self._keyring.load_all([STATE_KEY, *live])
        return found

    def _begin(self, found: Recovered) -> None:
        world = self.world
        engine = found.engine
        shell = self._shell_of(found)
        self.shell = shell
        self._tries = 0
        self.durable_seq = engine.seq
        self.epoch = engine.fleet.epoch
        engine.sink = self._record
        self._checker = Checker(engine)
        world.recovered(self, engine)
        shell.begin(self._clock(), apply_plan(with_receivers(with_rules(world.plan), world.seed)))
        self._tick()

    def _shell_of(self, found: Recovered) -> Shell:
        """With all its upkeep, or with snapshots alone."""
        world = self.world
        if world.plan.parks:
            parts = StateParts(self._store, self._blobs, self._codec, keyring=self._keyring)
            upkeep = Upkeep(world.plan.park_after_us, Retention(world.plan.retention_days))
            return shell_of(found, parts, world.limits, upkeep)
        snapshots = Snapshotter(self._store, 0, found.manifest)
        return Shell(found.engine, found.journal, self._codec, world.limits, snapshots)

    def _record(self, seq: int, drafted: Draft) -> None:
        event = drafted.event
        self.decided.append((seq, event, self.world.clock.wall_us))
        self._touched[event.run] = None
        assert self.shell is not None
        self.shell.record(seq, drafted)

    def _clock(self) -> Clock:
        clock = self.world.clock
        return Clock(clock.wall_us, clock.mono_us, self.world.chance.random())

    # --- the store -------------------------------------------------------------------------------

    def _before(self, operation: str, name: str) -> None:
        self.process.boundary()
        if self.busy:
            self.world.let_others_run()
            self.process.boundary()
        if self._tries < UNLUCKY_TRIES:
            self.world.weather.before(operation, name)

    def _after(self, operation: str, name: str) -> None:
        pending = self._in_flight
        if operation == "create" and pending is not None and pending.name == name:
            self._became_durable(pending)
        elif operation == "create" and name.startswith("journal/"):
            self.world.claimed(name)
        self.process.boundary()
        self.world.weather.after(operation, name)

    def _became_durable(self, pending: PendingWrite) -> None:
        self.durable_seq = pending.next_seq - 1
        count = self.durable_seq - self.decided[0][0] + 1
        apply = self.world.ledger.apply
        for decided in self.decided[:count]:
            apply(*decided)
        del self.decided[:count]

    # --- driving the shell -----------------------------------------------------------------------

    def _flush_soon(self) -> None:
        """Behind what else comes in meanwhile: a loop that is at work takes several inputs at a turn."""
        if not self._flush_due:
            self._flush_due = True
            self._later(int(self.world.chance.random() * self._turn_us), self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        shell = self.shell
        if shell is not None:
            shell.flush(self._clock())
            self._check()
            self._perform(shell)

    def _check(self) -> None:
        """After every input that changed something."""
        self.world.inputs += 1
        if self._touched:
            assert self.shell is not None
            self._checker.check(self._touched)
            self._touched.clear()

    def _perform(self, shell: Shell) -> None:
        while (actions := shell.take_actions()) and self.shell is shell:
            for action in actions:
                self.process.boundary()
                self._do(shell, action)

    def _do(self, shell: Shell, action: Action) -> None:
        match action:
            case Reply(number, payload):
                waiting = self._calls.pop(number, None)
                if waiting is not None:
                    call, request = waiting
                    self.world.leaves(self, request, payload)
                    call.answer(payload)
            case Write(pending, again):
                self._in_flight = pending
                pause_us = RETRY_WRITE_US if again else self.world.write_us()
                if pause_us:
                    self._later(pause_us, partial(self._write_apart, shell, pending))
                else:
                    self._written(shell, self._try_write(pending))
            case Io():
                self._later(self.world.write_us(), partial(self._do_apart, shell, action))
            case Send():
                self._later(self.world.write_us(), partial(self._send_apart, shell, action))
            case End():
                self.end()

    def _send_apart(self, shell: Shell, send: Send) -> None:
        """The receiver hears of it, or not; whether it did is not always known here."""
        chance = self.world.chance.random()
        if chance < 0.95:
            self.world.receivers.hear(send)
        shell.sent(send.notification, Sent("no answer" if chance > 0.85 else ""), self._clock())
        self._check()
        self._flush_soon()

    def end(self) -> None:
        """Fenced: this process ends for good."""
        self.world.count("fenced")
        self.process.kill()
        raise Killed(self.process.name)

    def _try_write(self, pending: PendingWrite) -> Committed | Retry | FencedBy | None:
        try:
            return write_pending(self._store, pending)
        except Corrupt:
            return None  # somebody's unreadable object has the number

    def _write_apart(self, shell: Shell, pending: PendingWrite) -> None:
        outcome = self._try_write(pending)
        self._later(self.world.write_us(), partial(self._written_apart, shell, outcome))

    def _written_apart(self, shell: Shell, outcome: Committed | Retry | FencedBy | None) -> None:
        self._written(shell, outcome)
        self._perform(shell)

    def _written(self, shell: Shell, outcome: Committed | Retry | FencedBy | None) -> None:
        if outcome is None:
            self.end()
            return
        if isinstance(outcome, Committed):
            assert self.durable_seq == outcome.next_seq - 1, "taken for written, and it is not in the store"
        shell.written(outcome, self._clock())
        self._check()
        self._flush_soon()

    def _do_apart(self, shell: Shell, io: Io) -> None:
        self.busy += 1
        try:
            ended = attempt(io)
        finally:
            self.busy -= 1
        self._later(self.world.write_us(), partial(self._io_ended, shell, io, ended))

    def _io_ended(self, shell: Shell, io: Io, ended: Any) -> None:
        shell.io_ended(io, ended, self._clock())
        self._check()
        self._flush_soon()

    def _tick(self) -> None:
        shell = self.shell
        if shell is not None:
            shell.tick(self._clock())
            self._check()
            self._flush_soon()
            self._later(self._tick_us(), self._tick)

    def _tick_us(self) -> int:
        """While nothing is decided the ticks come less often, as on a machine that has other things to do."""
        assert self.shell is not None
        seq = self.shell.engine.seq
        self._pause_us = TICK_US if seq != self._ticked_seq else min(2 * self._pause_us, MOST_TICK_US)
        self._ticked_seq = seq
        return self._pause_us

    # --- what comes in ---------------------------------------------------------------------------

    def receive(self, call: Call, request: object) -> None:
        """A call arrives at this process."""
        if not self.process.alive:
            call.fail()
            return
        if self.process.stopped:
            call.time_out()
        self.process.run(partial(self._take, call, request))
        if not self.process.alive:
            call.fail()  # it died over it

    def _take(self, call: Call, request: object) -> None:
        shell = self.shell
        if shell is None:
            call.fail()
            return
        if isinstance(request, Asked):
            entered = DOOR.enter(request, shell.engine.fleet.api_keys, self.world.clock.wall_us)
        else:
            entered = request
        if isinstance(entered, Refused):
            call.answer(Answer(refused=entered))
            return
        if isinstance(request, Asked) and request.caller.key:
            shell.key_used(request.caller.key, self._clock())
        self._enter(shell, call, entered)

    def _enter(self, shell: Shell, call: Call, request: object) -> None:
        refused = self._know_graph(shell, request) or self._know_key(request)
        if refused is not None:
            call.answer(Answer(refused=refused))
            return
        self._numbers += 1
        self._calls[self._numbers] = (call, request)
        self._hand_over(shell, self._numbers, request)
        self._check()
        self._flush_soon()

    def _hand_over(self, shell: Shell, number: int, request: Any) -> None:
        clock = self._clock()
        let = anybody
        if isinstance(request, Entered):
            let = partial(self._let, request)
            request = request.request
        match request:
            case AttachRequest():
                shell.attach(number, request, clock)
            case ExchangeRequest():
                shell.exchange(number, request, clock)
            case queries.WatchRun():
                shell.watch(number, request, clock)
            case queries.ListRuns():
                shell.list_runs(number, request, clock)
            case _ if isinstance(request, queries.QUERIES):
                shell.query(number, request.look, clock, queries.runs_of(request, shell.engine), let)
            case _:
                shell.command(number, request, clock, let)

    def _let(self, entered: Entered, engine: Engine) -> Refused | None:
        return DOOR.let(entered, engine, self.world.clock.wall_us)

    def _know_graph(self, shell: Shell, request: Any) -> Refused | None:
        if isinstance(request, Submit | Fork | Register) and request.graph not in shell.engine.graphs:
            try:
                shell.engine.add_graph(load_graph(self._blobs, request.graph))
            except StoreError as error:
                return Refused("unavailable", str(error), 1.0)
        return None

    def _know_key(self, request: Any) -> Refused | None:
        """Have the page of a new run's key here before the shell seals with it."""
        if self._keyring is not None and isinstance(request, Submit | Fork) and request.key:
            try:
                if not self._keyring.knows(request.key):
                    self._keyring.load(request.key)
            except StoreError as error:
                return Refused("unavailable", str(error), 1.0)
        return None

    def lose_worker(self, worker: str, reason: str) -> None:
        """Ray says that a worker's process is gone."""
        self.process.run(partial(self._lose_worker, worker, reason))

    def _lose_worker(self, worker: str, reason: str) -> None:
        if self.shell is not None:
            self.shell.lose_worker(worker, reason, self._clock())
            self._check()
            self._flush_soon()
