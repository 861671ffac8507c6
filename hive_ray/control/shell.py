"""The controller without Ray and without asyncio: inputs in, actions out.

Everything that waits is data here: rows for the next segment, the write in flight, replies that may not
leave before a seq is durable, exchanges without work, timers. Whoever drives the shell performs its
actions and reports back; a crash may come between any two actions.

Nothing that was decided leaves before it is durable. One write is in flight at a time, and what is
decided meanwhile goes into the next.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hive_ray.control import views
from hive_ray.control.actions import Action, Clock, End, Held, Let, Limits, Reply, Write, anybody
from hive_ray.control.counting import NOTES, Counters
from hive_ray.control.io import Broke, Done, Io
from hive_ray.control.keeping import Keeper
from hive_ray.control.parking import Parking, targets
from hive_ray.control.queries import ListRuns, WatchRun
from hive_ray.control.reception import Reception
from hive_ray.control.sealing import NEVER_US
from hive_ray.control.sending import Send, Sender
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.control.timers import Backoff, Deadline, Timers
from hive_ray.control.watchers import Watchers
from hive_ray.core import affording, api_keys, features, sealing
from hive_ray.core import events as ev
from hive_ray.core.beginnings import beginnings
from hive_ray.core.commands import ApplyPlan, Command, Fork, Moment, RaiseLevel, Refused, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.events import Draft
from hive_ray.core.fleet import forget_old_submissions
from hive_ray.core.keys import NO_KEY
from hive_ray.core.messages import AttachRequest, ExchangeRequest
from hive_ray.core.outbox import Sent
from hive_ray.core.parked import due_us
from hive_ray.core.plan import decode_plan
from hive_ray.core.run import TERMINAL, Run, StepStatus, note_segment
from hive_ray.errors import Corrupt, Fenced
from hive_ray.state import journal
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import HistoryManifest
from hive_ray.state.journal import Journal, PendingWrite
from hive_ray.state.records import Rows
from hive_ray.state.snapshots import Manifest

log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
PRUNE_EVERY_US = 1_000_000
SWEEP_EVERY_US = 1_000_000
FIRE_AGAIN_US = 1_000_000
"""After a run that is due could not be loaded."""
DUE_AT_ONCE = 500
"""Timers that fire in one tick: a backlog is worked off in parts."""


class Shell:
    """One partition's controller as a synchronous machine.

    Args:
        engine: the core, recovered.
        journal: claimed.
        snapshots: takes them on the way; without it there are none.
        parking: has runs leave memory and come back; without it all of them stay.
        keeper: makes history of what lies behind the snapshots.
    """

    _sweep_again_us: int = 0
    _beat_again_us: int = 0
    _plan: ApplyPlan | None = None
    """What the configuration says about control, while the state cannot keep it."""
    erase_by_us: int = NEVER_US
    """Monotonic time at which a snapshot is due, so that keys can be erased after it."""
    _beating = False
    """Whether a heartbeat is being written."""

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        codec: ContentCodec,
        limits: Limits,
        snapshots: Snapshotter | None = None,
        parking: Parking | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.limits = limits
        self.counters = Counters()
        self.durable_seq = engine.seq
        self.dirty: dict[str, None] = {}
        """Runs that changed since the last snapshot took them; the empty name is the fleet."""
        self.live_runs = sum(not run.terminal for run in engine.runs.values())
        self.blocked_since_us = 0
        """Monotonic time since which commits fail; 0 when they do not."""
        engine.sink = self.record
        self.rows = Rows(codec)
        """What was decided and is in no segment yet; whoever has completed a decision cuts here."""
        self._in_flight: PendingWrite | None = None
        self._held: deque[Held] = deque()
        self._actions: list[Action] = []
        self._timers = Timers()
        self._to_arm: dict[str, None] = {}
        self._watchers = Watchers()
        self._runs_in_flight: list[str] = []
        self.now = Moment(0)
        """When the present input came in."""
        self._clock = Clock(0, 0)
        self._prune_again_us = 0
        self._snapshots = snapshots
        self._parking = parking
        self._keeper = keeper
        self._sender = Sender(limits.public_url)
        self.reception = Reception(self)

    # --- life ------------------------------------------------------------------------------------

    def begin(self, clock: Clock, plan: ApplyPlan | None = None) -> None:
        """After recovery: arm all timers, and give the workers of old time to attach.

        Args:
            plan: what the configuration says about control.
        """
        now = self._at(clock)
        if self.engine.seq == 0:
            self.engine.raise_level(RaiseLevel(features.LATEST), now)
        else:
            self.engine.rates.begin_empty(clock.mono_us)
        self._plan = plan
        self._apply_plan(now)
        for run in self.engine.runs.values():
            if not run.terminal:
                self._arm(run)
        for run_id, row in self.engine.parked.items():
            if row.due_us:
                self._timers.add_deadline(Deadline(row.due_us, run_id))
        if self._parking is not None:
            self._parking.begin(self)
        for name in self.engine.charged:
            if name in self.engine.runs:
                self.note_erasure(self.engine.runs[name])
        self.reception.begin()
        self._sender.begin(self)

    def _apply_plan(self, now: Moment) -> None:
        """What the configuration says about control holds from here on, once the state can keep it."""
        if self._plan is not None and self.engine.fleet.feature_level >= features.CONTROLLED:
            self.engine.steer(self._plan, now)
            self._plan = None

    def take_actions(self) -> list[Action]:
        """What is to be done now, in order."""
        actions = self._actions
        self._actions = []
        return actions

    def record(self, seq: int, drafted: Draft) -> None:
        """The engine's sink: an event was decided."""
        event = drafted.event
        key = self._key_of(event) if drafted.content else NO_KEY
        self.rows.add(seq, self._clock.wall_us, drafted, key)
        note = NOTES.get(event.__class__)
        if note is not None:
            note(self, event)
        self.dirty[event.run] = None

    def _key_of(self, event: ev.Event) -> bytes:
        if event.run:
            return self.engine.runs[event.run].key
        if isinstance(event, ev.NotificationQueued) and event.about:
            # The address came with the run, and is forgotten with it.
            return self.engine.runs[event.about].key
        return sealing.fleet_key(self.engine.fleet.feature_level)

    def _at(self, clock: Clock) -> Moment:
        self._clock = clock
        asks = self.engine.force.plan.approvals.asks
        self.now = Moment(clock.wall_us, clock.chance, clock.mono_us, asks)
        return self.now

    # --- workers ---------------------------------------------------------------------------------

    def attach(self, call: int, request: AttachRequest, clock: Clock) -> None:
        """A worker presents itself with what it holds; see ``Reception.attach``."""
        self._at(clock)
        self.reception.attach(call, request)

    def exchange(self, call: int, request: ExchangeRequest, clock: Clock) -> None:
        """Outcomes in, leases out; see ``core.messages`` for when the answer leaves."""
        self._at(clock)
        self.counters.exchanges += 1
        self.reception.exchange(call, request)

    def lose_worker(self, name: str, reason: str, clock: Clock) -> None:
        """A worker's process is certainly gone."""
        self._at(clock)
        self.reception.lose(name, reason)

    # --- people and programs ---------------------------------------------------------------------

    def command(self, call: int, command: Command, clock: Clock, let: Let = anybody) -> None:
        """Decide a command; its answer leaves when what it rests on is durable.

        Args:
            let: asked when the runs that it is about are in memory.
        """
        self._at(clock)
        self._decide(call, command, let, None)

    # Not a function that hands itself on: each would be a cycle with its command, left to the collector.
    def _decide(self, call: int, command: Command, let: Let, refused: Refused | None) -> None:
        again = partial(self._decide, call, command, let)
        if refused is not None or not self.away(targets(self.engine, command), again):
            self._command(call, command, refused or let(self.engine))

    def key_used(self, key: str, clock: Clock) -> None:
        """An API key has let somebody in."""
        now = self._at(clock)
        self.engine.record(api_keys.used(self.engine.fleet.api_keys, key, now), now)

    def _command(self, call: int, command: Command, refused: Refused | None) -> None:
        refused = refused or features.refuse(command, self.engine.fleet.feature_level)
        refused = refused or self._too_busy(command) or self._too_dear(command)
        answer = refused or self.engine.command(command, self.now)
        if isinstance(command, RaiseLevel):
            self._apply_plan(self.now)
        self.rows.cut()
        self.hold(call, views.answer(self.engine, answer))

    def _too_busy(self, command: Command) -> Refused | None:
        """New runs are refused at a bound; a repeat of an accepted one is not new."""
        if not isinstance(command, (Submit, Fork)) or self.engine.accepted(command):
            return None
        keeper = self._keeper
        if keeper is not None and keeper.may_have_dropped(command.run, command.team, self.wall_us):
            why = f"run {command.run} is older than what is kept of its team, and nobody knows whether it ran"
            return Refused("conflict", f"{why}: look for what it did, then submit it anew")
        if self._plan is not None and decode_plan(self._plan.plan).restricts:
            why = "the budgets and limits of the configuration"
            return features.needs(features.CONTROLLED, self.engine.fleet.feature_level, why)
        if self.live_runs >= self.limits.live_runs:
            return Refused("overloaded", f"{self.live_runs} runs are live (limits.live_runs)", 5.0)
        for first in beginnings(command, self.engine.graphs[command.graph]):
            pool = first.pool
            limit = self.limits.queue_limits.get(pool, QUEUE_LIMIT)
            if self._queued(pool, limit) >= limit:
                why = f"{limit} steps wait for pool {pool} (pools.{pool}.queue_limit)"
                return Refused("overloaded", why, 1.0)
        return None

    def _too_dear(self, command: Command) -> Refused | None:
        """A run of which a first step can never be carried by all accounts is not begun."""
        if not isinstance(command, (Submit, Fork)) or self.engine.accepted(command):
            return None
        return affording.refuse(command, self.engine.graphs[command.graph], self.engine.force)

    def _queued(self, pool: str, limit: int) -> int:
        """Steps that wait for a pool; at the limit, entries of runs that have ended are taken out first."""
        queue = self.engine.fleet.queues.get(pool, ())
        if len(queue) >= limit and self._clock.mono_us >= self._prune_again_us:
            self._prune_again_us = self._clock.mono_us + PRUNE_EVERY_US
            self.engine.dispatch.prune(pool)
            queue = self.engine.fleet.queues.get(pool, ())
        return len(queue)

    def query(
        self,
        call: int,
        look: Callable[[Engine], Any],
        clock: Clock,
        runs: Sequence[str] = (),
        let: Let = anybody,
    ) -> None:
        """Look at the state; the answer leaves when what it shows is durable.

        Args:
            runs: those that must be in memory for it.
            let: as in ``command``.
        """
        self._at(clock)
        self._look(call, look, runs, let, None)

    def _look(
        self,
        call: int,
        look: Callable[[Engine], Any],
        runs: Sequence[str],
        let: Let,
        refused: Refused | None,
    ) -> None:
        if refused is None and self.away(runs, partial(self._look, call, look, runs, let)):
            return
        refused = refused or let(self.engine)
        self.hold(call, views.Answer(refused=refused) if refused is not None else look(self.engine))

    def list_runs(self, call: int, query: ListRuns, clock: Clock) -> None:
        """A page of runs: live, parked, and those that only the history knows."""
        self._at(clock)
        if self._parking is None or not self._parking.has_history():
            self.hold(call, query.look(self.engine))
            return

        known = query.known(self.engine)

        def listed(older: list[views.RunLine] | Refused) -> None:
            if isinstance(older, Refused):
                self.hold(call, views.Answer(refused=older))
            else:
                self.hold(call, query.page(self.engine, known, older))

        self.do(self._parking.old_lines(query, self.engine, listed))

    def watch(self, call: int, query: WatchRun, clock: Clock, let: Let = anybody) -> None:
        """Answer with the run's view as soon as it has a durable event behind ``after_seq`` (or its end)."""
        self._at(clock)
        run_id, after_seq, until_end = query.run, query.after_seq, query.until_end

        def look(refused: Refused | None) -> None:
            run = self.engine.runs.get(run_id)
            refused = refused or let(self.engine)
            if refused is not None:
                self.hold(call, views.Answer(refused=refused))
            elif run is None or run.terminal or (run.told > after_seq and not until_end):
                self.hold(call, views.run_answer(self.engine, run_id))
            else:
                self._watchers.add(run_id, call, until_end, self._clock.mono_us)

        if not self.away([run_id], look):
            look(None)

    # --- runs that are not in memory ---------------------------------------------------------------

    @property
    def mono_us(self) -> int:
        return self._clock.mono_us

    @property
    def wall_us(self) -> int:
        return self._clock.wall_us

    def away(self, runs: Sequence[str], then: Callable[[Refused | None], None], must: bool = False) -> bool:
        """Whether some runs must be loaded first; ``then`` is called when they are.

        Whoever waits for several looks again then: one may have left before the last has come.
        """
        if self._parking is None or all(run in self.engine.runs for run in runs):
            return False
        absent = self._parking.absent(self.engine, runs)
        if absent:
            self._parking.fetch(absent, then, must)
        return bool(absent)

    @property
    def damaged(self) -> dict[str, Corrupt]:
        """Runs that could not be loaded when that was tried last."""
        return self._parking.damaged if self._parking is not None else {}

    def is_busy(self, run_id: str) -> bool:
        """Whether a run must stay in memory: it changed since the last snapshot, or somebody watches it."""
        return run_id in self.dirty or run_id in self.engine.charged or self._watchers.has(run_id)

    def snapshot_taken(self, manifest: Manifest, runs: list[str]) -> None:
        """A snapshot is durable, with new items for some runs."""
        if self._parking is not None:
            self._parking.snapshot_taken(manifest, runs)
        if self._keeper is not None:
            self._keeper.snapshot_taken()

    def history_grew(self, manifest: HistoryManifest) -> None:
        """More of the journal is history, or there is less of it."""
        self.engine.compacted = manifest.covered
        if self._parking is not None:
            self._parking.compacted(manifest)

    def runs_left(self) -> dict[str, None]:
        """Runs that left for good since this was asked last: no snapshot needs to show them."""
        return self._parking.take_left() if self._parking is not None else {}

    def put_back_left(self, left: dict[str, None]) -> None:
        """No snapshot was written that does without these runs."""
        if self._parking is not None:
            self._parking.left.update(left)

    def live_run_ids(self) -> list[str]:
        """Runs that have not ended, as far as that is durable."""
        runs = self.engine.runs.values()
        live = [run.id for run in runs if not run.terminal or run.told > self.durable_seq]
        return [*live, *self.engine.parked.ids_of(lambda kind: kind.status not in TERMINAL)]

    # --- time ------------------------------------------------------------------------------------

    def tick(self, clock: Clock) -> None:
        """Fire what is due, answer polls that waited long enough, give up on absent workers."""
        now = self._at(clock)
        self._arm_noted()
        for backoff in self._timers.due_backoffs(clock.mono_us, DUE_AT_ONCE):
            self.engine.fire_backoff(backoff.run, backoff.serial, backoff.call, now)
        for deadline in self._timers.due_deadlines(clock.wall_us, DUE_AT_ONCE):
            self._fire(deadline.run)
        self.engine.dispatch.fire(clock.mono_us)
        if clock.mono_us >= self._sweep_again_us:
            self._sweep_again_us = clock.mono_us + SWEEP_EVERY_US
            self.engine.dispatch.sweep()
            self.engine.breaking.sweep(now)
            self.engine.lowering.sweep(now)
            if self.engine.entrance:
                self.engine.let_in_waiting(now)
        forget_old_submissions(self.engine.fleet, clock.wall_us - self.limits.idempotency_us)
        self.reception.advance()
        self._answer_old_watchers()
        self._keep_state()
        self._sender.advance(self)
        self._beat(clock)

    def _fire(self, run_id: str) -> None:
        """End what is overdue in a run; one that is parked is loaded only if something is."""
        row = self.engine.parked.get(run_id)
        if row is not None and not 0 < row.due_us <= self._clock.wall_us:
            if row.due_us:
                self._timers.add_deadline(Deadline(row.due_us, run_id))
            return
        if not self.away([run_id], lambda refused: self._fire_loaded(run_id, refused)):
            self._fire_loaded(run_id, None)

    def _fire_loaded(self, run_id: str, refused: Refused | None) -> None:
        if refused is not None:
            self._timers.add_deadline(Deadline(self._clock.wall_us + FIRE_AGAIN_US, run_id))
            return
        self.engine.fire_deadlines(run_id, self.now)
        self.rearm(run_id)
        self.rows.cut()

    def _keep_state(self) -> None:
        """Snapshots, parking and history, a little at a time."""
        taking = False
        if self._snapshots is not None:
            self._snapshots.advance(self)
            taking = self._snapshots.taking
        if self._parking is not None and not taking:
            # A snapshot that is being taken looks for its runs in memory.
            self._parking.advance(self)
        if self._keeper is not None:
            self._keeper.advance(self)

    def _beat(self, clock: Clock) -> None:
        """Give the owner's sign of life, one at a time."""
        if self._beating or clock.mono_us < self._beat_again_us:
            return
        self._beating = True
        self._beat_again_us = clock.mono_us + self.limits.heartbeat_us
        self.do(Io("heartbeat", lambda: self.journal.beat(clock.wall_us), self._beaten))

    def _beaten(self, ended: Done | Broke) -> None:
        self._beating = False
        match ended:
            case Broke(Fenced() as reason):
                self._actions.append(End(reason))
            case Broke(error):
                log.warning("heartbeat not written: %s", error)
            case Done():
                pass

    def _answer_old_watchers(self) -> None:
        for run_id, call in self._watchers.take_since(self._clock.mono_us - self.limits.wait_us):
            self.hold(call, views.run_answer(self.engine, run_id))

    def _arm(self, run: Run) -> None:
        self.rearm(run.id)
        for visit in run.visits.values():
            for step in visit.steps.values():
                if step.status is StepStatus.BACKOFF:
                    due = self._clock.mono_us + step.delay_us
                    self._timers.add_backoff(Backoff(due, run.id, visit.serial, step.call))

    def rearm(self, run_id: str) -> None:
        """Note at the next tick when the next thing in a run is due by the wall clock."""
        self._to_arm[run_id] = None

    def _arm_noted(self) -> None:
        """Once for all that a decision changed: a run that begins with a wait gets one timer, not two."""
        noted, self._to_arm = self._to_arm, {}
        for run_id in noted:
            run = self.engine.runs.get(run_id)
            if run is None:
                continue
            due = due_us(run)
            if due:
                self._timers.add_deadline(Deadline(due, run_id))
            else:
                self._timers.drop_deadline(run_id)

    def rearm_family(self, run_id: str) -> None:
        """Also for its ancestors, whose own deadlines stand still while a child waits."""
        while run_id:
            self.rearm(run_id)
            run_id = self.engine.runs[run_id].parent

    def note_backoff(self, event: ev.RetryScheduled) -> None:
        if event.delay_us:
            due = self._clock.mono_us + event.delay_us
            self._timers.add_backoff(Backoff(due, event.run, event.serial, event.call))

    # --- work beside the loop ----------------------------------------------------------------------

    def do(self, io: Io) -> None:
        """Have blocking work done."""
        self._actions.append(io)

    def io_ended(self, io: Io, ended: Done | Broke, clock: Clock) -> None:
        """The work is done, or broke."""
        self._at(clock)
        io.then(ended)

    # --- telling others ----------------------------------------------------------------------------

    def send(self, send: Send) -> None:
        """Have a notification delivered."""
        self._actions.append(send)

    def note_notification(self, event: ev.NotificationQueued) -> None:
        self._sender.queued(self.engine.seq, event.notification)

    def sent(self, notification: str, result: Sent, clock: Clock) -> None:
        """An attempt to deliver a notification is over."""
        now = self._at(clock)
        self.engine.sent(notification, result, now)
        self.rows.cut()
        self._sender.ended(self, notification)
        self._sender.advance(self)

    # --- committing ------------------------------------------------------------------------------

    def flush(self, clock: Clock) -> None:
        """Admit what can be admitted, then write what was decided if no write is in flight."""
        self._at(clock)
        if self._parking is not None:
            self._parking.load(self)
        if self._in_flight is not None:
            return
        self.reception.admit()
        if len(self.rows):
            self._write_next()
        else:
            self._release()

    def _write_next(self) -> None:
        columns = self.rows.take()
        self.journal.format = self.engine.fleet.feature_level
        pending = self.journal.prepare(columns)
        number = pending.header.number
        self._runs_in_flight = list(dict.fromkeys(columns.run))
        for run_id in self._runs_in_flight:
            if run_id:
                note_segment(self.engine.runs[run_id], number, self.engine.compacted)
                # It may have been taken by a snapshot between the decision and this segment.
                self.dirty[run_id] = None
        self._in_flight = pending
        self._actions.append(Write(pending))

    def written(self, outcome: journal.Outcome, clock: Clock) -> None:
        """The write in flight came to an end."""
        self._at(clock)
        pending = self._in_flight
        assert pending is not None
        self.journal.settle(pending, outcome)
        match outcome:
            case journal.Committed():
                self._committed(pending)
            case journal.Retry():
                self.blocked_since_us = self.blocked_since_us or clock.mono_us
                self._actions.append(Write(pending, again=True))
            case journal.FencedBy():
                self._actions.append(End(outcome.error()))

    def _committed(self, pending: PendingWrite) -> None:
        self._in_flight = None
        self.blocked_since_us = 0
        self.durable_seq = pending.next_seq - 1
        self.counters.commits += 1
        self.counters.bytes += len(pending.data)
        for run_id in self._runs_in_flight:
            ended = bool(run_id) and self.engine.runs[run_id].terminal
            for call in self._watchers.take(run_id, ended):
                self.hold(call, views.run_answer(self.engine, run_id))
        self._release()
        self._sender.advance(self)

    def hold(self, call: int, payload: Any) -> None:
        """Answer a call when all that was decided by now is durable."""
        self._held.append(Held(self.engine.seq, Reply(call, payload)))

    def answer(self, call: int, payload: Any) -> None:
        """Answer a call at once, with what rests on no decision."""
        self._actions.append(Reply(call, payload))

    def _release(self) -> None:
        held = self._held
        while held and held[0].seq <= self.durable_seq:
            self._actions.append(held.popleft().reply)

    # --- counting --------------------------------------------------------------------------------

    def stop_orphans(self, event: ev.RunCancelled | ev.RunFailed | ev.NodeFailed) -> None:
        """Tell the workers about attempts whose node or run has ended."""
        run = self.engine.runs[event.run]
        for key, orphan in run.orphans.items():
            serial, call, attempt = (int(part) for part in key.split("."))
            self.reception.stop(orphan.worker, (run.id, serial, call, attempt))

    def run_ended(self, run_id: str) -> None:
        """One live run less; its waits, if it had any, no longer hold its ancestors' deadlines."""
        self.live_runs -= 1
        run = self.engine.runs[run_id]
        self.rearm_family(run_id)
        self.note_erasure(run)

    def note_erasure(self, run: Run) -> None:
        """A run ended or was forgotten: its keys go soon, or at once."""
        if sealing.keys_to_erase(run, self.engine.graphs.get(run.graph)):
            by_us = self._clock.mono_us + (0 if run.forgotten else self.limits.erase_us)
            self.erase_by_us = min(self.erase_by_us, by_us)
