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
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from hive_ray.control import views
from hive_ray.control.exchanges import Session, Waiting
from hive_ray.control.io import Broke, Done, Io
from hive_ray.control.keeping import Keeper
from hive_ray.control.parking import Parking, targets
from hive_ray.control.queries import ListRuns, WatchRun
from hive_ray.control.sealing import NEVER_US
from hive_ray.control.sending import Send, Sender
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.control.timers import Backoff, Deadline, Timers
from hive_ray.control.watchers import Watchers
from hive_ray.control.withheld import Withheld
from hive_ray.core import affording, api_keys, features, sealing
from hive_ray.core import events as ev
from hive_ray.core.beginnings import beginnings
from hive_ray.core.commands import ApplyPlan, Command, Fork, Moment, RaiseLevel, Refused, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.events import Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import Worker, forget_old_submissions
from hive_ray.core.keys import NO_KEY
from hive_ray.core.messages import (
    AttachReply,
    AttachRequest,
    ExchangeReply,
    ExchangeRequest,
    Lease,
    Outcome,
    StepContent,
    decode_outcome_content,
    encode,
)
from hive_ray.core.outbox import Sent
from hive_ray.core.parked import due_us
from hive_ray.core.plan import decode_plan
from hive_ray.core.run import TERMINAL, Run, StepStatus, note_segment
from hive_ray.errors import Fenced
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


class Limits(msgspec.Struct, frozen=True):
    """Times and bounds of the shell, from configuration."""

    poll_us: int = 10_000_000
    attach_grace_us: int = 20_000_000
    idempotency_us: int = 24 * 3600 * 1_000_000
    term_us: int = 30_000_000
    queue_limits: dict[str, int] = {}
    """Steps that may wait, by pool."""
    live_runs: int = 50_000
    heartbeat_us: int = 5_000_000
    erase_us: int = 60_000_000
    """A conversation's key is erased at latest so long after the end of its run."""
    public_url: str = ""
    """With which links in notifications begin."""

    @property
    def wait_us(self) -> int:
        """How long a call may wait for news: an answer that takes as long as the grace gives no leases."""
        return min(self.poll_us, self.attach_grace_us // 2)


class Clock(NamedTuple):
    """The time that an input brings with it."""

    wall_us: int
    mono_us: int
    chance: float = 0.5


class Reply(NamedTuple):
    """Answer a call."""

    call: int
    payload: Any


class Write(NamedTuple):
    """Write a segment, then report by ``written``."""

    pending: PendingWrite
    again: bool = False


class End(NamedTuple):
    """This incarnation is fenced: leave at once."""

    reason: Fenced


Action = Reply | Write | Io | Send | End


Let = Callable[[Engine], Refused | None]
"""Says whether a caller may do what it asks."""


def anybody(_engine: Engine) -> None:
    """Whoever drives the shell by hand."""


class Held(NamedTuple):
    """A reply that may leave once ``seq`` is durable."""

    seq: int
    reply: Reply


class Counters(msgspec.Struct):
    """Plain integers; whoever exposes them reads them."""

    steps: int = 0
    failures: int = 0
    retries: int = 0
    runs_submitted: int = 0
    runs_succeeded: int = 0
    runs_failed: int = 0
    runs_cancelled: int = 0
    commits: int = 0
    bytes: int = 0
    exchanges: int = 0
    leases: int = 0
    cost_nanousd: int = 0
    late_outcomes: int = 0
    reservations_exceeded: int = 0
    claims_disbelieved: int = 0
    notifications_delivered: int = 0
    notifications_failed: int = 0
    outcomes_refused: int = 0


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
    session_tail: Callable[[], str] = staticmethod(str)
    """Makes what nobody can guess of a session's name; chance is not the shell's own."""
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
        self.sessions: dict[str, Session] = {}
        self.durable_seq = engine.seq
        self.dirty: dict[str, None] = {}
        """Runs that changed since the last snapshot took them; the empty name is the fleet."""
        self.live_runs = sum(not run.terminal for run in engine.runs.values())
        self.blocked_since_us = 0
        """Monotonic time since which commits fail; 0 when they do not."""
        engine.sink = self.record
        self._rows = Rows(codec)
        self._in_flight: PendingWrite | None = None
        self._held: deque[Held] = deque()
        self._actions: list[Action] = []
        self._timers = Timers()
        self._to_arm: dict[str, None] = {}
        self._watchers = Watchers()
        self._runs_in_flight: list[str] = []
        self._now = Moment(0)
        self._clock = Clock(0, 0)
        self._attach_by_us: dict[str, int] = {}
        self._session_count = 0
        self._prune_again_us = 0
        self._snapshots = snapshots
        self._parking = parking
        self._withheld = Withheld()
        self._keeper = keeper
        self._sender = Sender(limits.public_url)

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
        for name in self.engine.fleet.workers:
            self._attach_by_us[name] = clock.mono_us + self.limits.attach_grace_us
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
        self._rows.add(seq, self._clock.wall_us, drafted, key)
        note = _NOTES.get(event.__class__)
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
        self._now = Moment(clock.wall_us, clock.chance, clock.mono_us, asks)
        return self._now

    # --- workers ---------------------------------------------------------------------------------

    def attach(self, call: int, request: AttachRequest, clock: Clock) -> None:
        """A worker presents itself with what it holds: take its outcomes, give it a session.

        What it was leased and does not name has never reached it, if this call is its latest word: one that
        was late or came twice says what was. So that is believed when the worker uses the session.
        """
        now = self._at(clock)
        named = [key[0] for key in request.running] + [outcome.run for outcome in request.outcomes]
        named = self._loadable(named)
        if self._away(named, lambda _: self.attach(call, request, self._clock), must=True):
            return
        engine = self.engine
        name = request.info.worker
        self._end_session_of(name)
        engine.attach(request.info, now)
        self._attach_by_us.pop(name, None)
        outcomes = self._of_loaded(request.outcomes)
        for outcome in outcomes:
            self._report_of(name, outcome, now)
        running = set(request.running)
        held = engine.fleet.workers[name].leases
        missing = [attempt for attempt in held if attempt not in running]
        drop = tuple(
            attempt
            for attempt in request.running
            # The end of one that a person is asked about is the answer.
            if attempt not in held and not engine.is_unknown(attempt) and self._loadable([attempt[0]])
        )
        session = self._new_session(name)
        session.missing = missing
        session.cancel = [attempt for attempt in request.running if engine.is_orphan(attempt)]
        acknowledged = tuple(outcome.key for outcome in outcomes)
        patience_s = self.limits.attach_grace_us / 1e6
        poll_s = self.limits.wait_us / 1e6
        reply = AttachReply(session.id, engine.fleet.epoch, acknowledged, drop, poll_s, patience_s)
        self._hold(call, reply)

    def _new_session(self, worker: str) -> Session:
        self._session_count += 1
        name = f"{self.engine.fleet.epoch}.{self._session_count}{self.session_tail()}"
        session = Session(name, worker, self._clock.mono_us)
        self.sessions[session.id] = session
        return session

    def _end_session_of(self, worker: str) -> None:
        for session in [s for s in self.sessions.values() if s.worker == worker]:
            self._cancel_waiting(session)
            del self.sessions[session.id]

    def exchange(self, call: int, request: ExchangeRequest, clock: Clock) -> None:
        """Outcomes in, leases out; see ``core.messages`` for when the answer leaves."""
        now = self._at(clock)
        self.counters.exchanges += 1
        session = self.sessions.get(request.session)
        if session is None:
            reply = ExchangeReply(request.n, self.engine.fleet.epoch, reattach=True)
            self._actions.append(Reply(call, reply))
            return
        session.seen_us = clock.mono_us
        named = self._loadable(outcome.run for outcome in request.outcomes)
        # What is not loaded yet is waited for: a worker's outcomes are in nobody else's hands.
        if named and self._away(named, lambda _: self.exchange(call, request, self._clock), must=True):
            return
        session.confirm(request.seen)
        if session.missing:
            self._take_back(session, now)
        repeated = session.replies.get(request.n)
        if repeated is not None:
            self._hold(call, repeated)
            return
        outcomes = self._of_loaded(request.outcomes)
        for outcome in outcomes:
            self._report_of(session.worker, outcome, now)
        acknowledges = [outcome.key for outcome in outcomes]
        if request.n < session.newest:
            self._hold(call, ExchangeReply(request.n, self.engine.fleet.epoch, (), tuple(acknowledges)))
            return
        self._cancel_waiting(session)
        session.newest = request.n
        session.waiting = Waiting(call, request.n, clock.mono_us, acknowledges)

    def _loadable(self, runs: Iterable[str]) -> list[str]:
        """Those of some runs that are not known to be damaged."""
        if self._parking is None or not self._parking.damaged:
            return list(runs)
        return [run for run in runs if run not in self._parking.damaged]

    def _of_loaded(self, outcomes: tuple[Outcome, ...]) -> list[Outcome]:
        """The outcomes of runs that are there; those of damaged ones are withheld, and stop no other."""
        if self._parking is None or not self._parking.damaged:
            return list(outcomes)
        loaded: list[Outcome] = []
        for outcome in outcomes:
            if self._loadable([outcome.run]):
                loaded.append(outcome)
            else:
                self._withheld.keep(outcome, self._clock.mono_us)
        return loaded

    def _try_withheld(self) -> None:
        """Somebody may have mended a run meanwhile."""
        for outcome in self._withheld.take_due(self._clock.mono_us):
            assert self._parking is not None
            self._parking.damaged.pop(outcome.run, None)
            then = partial(self._report_withheld, outcome)
            if not self._away([outcome.run], then, must=True):
                then(None)

    def _report_withheld(self, outcome: Outcome, refused: Refused | None) -> None:
        if refused is not None:
            self._withheld.keep(outcome, self._clock.mono_us)
        else:
            self._report(outcome, self._now)

    def _take_back(self, session: Session, now: Moment) -> None:
        """The leases that never reached their worker are ready again."""
        held = self.engine.fleet.workers[session.worker].leases
        missing, session.missing = session.missing, []
        for attempt in missing:
            if attempt in held:
                self.engine.return_lease(attempt, now)

    def _cancel_waiting(self, session: Session) -> None:
        """A newer call overtakes one that waits, before it can be granted anything."""
        waiting = session.waiting
        if waiting is None:
            return
        session.waiting = None
        reply = ExchangeReply(waiting.n, self.engine.fleet.epoch, (), tuple(waiting.acknowledges))
        self._hold(waiting.call, reply)

    def _report_of(self, worker: str, outcome: Outcome, now: Moment) -> None:
        """A worker speaks for its own leases only: another's end is not its to tell."""
        holder = self.engine.holder(outcome.key)
        if holder and holder != worker:
            self.counters.outcomes_refused += 1
            facts = {"run_id": outcome.run, "serial": outcome.serial, "call": outcome.call}
            log.warning("%s reported an attempt of %s: refused", worker, holder, extra=facts)
            return
        self._report(outcome, now)

    def _report(self, outcome: Outcome, now: Moment) -> None:
        try:
            content = decode_outcome_content(outcome.content)
            if outcome.failure:
                FailureKind(outcome.failure)
        except (msgspec.MsgspecError, ValueError) as error:
            # One that cannot be read must not strand the others that came with it.
            content = StepContent(message=f"the worker's outcome cannot be read: {error}")
            outcome = Outcome(*outcome.key, FailureKind.OUTCOME_UNKNOWN, encode(content))
        if not 0 <= outcome.cost_nanousd <= MOST_NANOUSD:
            outcome = _bounded(outcome)
        self.engine.report(outcome, now, content)
        self._rows.cut()

    def lose_worker(self, name: str, reason: str, clock: Clock) -> None:
        """A worker's process is certainly gone."""
        now = self._at(clock)
        self._end_session_of(name)
        self._attach_by_us.pop(name, None)
        self.engine.lose_worker(name, reason, now)

    def unattached(self) -> list[Worker]:
        """Workers known from before that have not come back; somebody may find out about them."""
        return [self.engine.fleet.workers[name] for name in self._attach_by_us]

    # --- people and programs ---------------------------------------------------------------------

    def command(self, call: int, command: Command, clock: Clock, let: Let = anybody) -> None:
        """Decide a command; its answer leaves when what it rests on is durable.

        Args:
            let: asked when the runs that it is about are in memory.
        """
        self._at(clock)

        def decide(refused: Refused | None) -> None:
            if refused is not None or not self._away(targets(self.engine, command), decide):
                self._command(call, command, refused or let(self.engine))

        decide(None)

    def key_used(self, key: str, clock: Clock) -> None:
        """An API key has let somebody in."""
        now = self._at(clock)
        self.engine.record(api_keys.used(self.engine.fleet.api_keys, key, now), now)

    def _command(self, call: int, command: Command, refused: Refused | None) -> None:
        refused = refused or features.refuse(command, self.engine.fleet.feature_level)
        refused = refused or self._too_busy(command) or self._too_dear(command)
        answer = refused or self.engine.command(command, self._now)
        if isinstance(command, RaiseLevel):
            self._apply_plan(self._now)
        self._rows.cut()
        self._hold(call, views.answer(self.engine, answer))

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

        def answer(refused: Refused | None) -> None:
            if refused is None and self._away(runs, answer):
                return
            refused = refused or let(self.engine)
            self._hold(call, views.Answer(refused=refused) if refused is not None else look(self.engine))

        answer(None)

    def list_runs(self, call: int, query: ListRuns, clock: Clock) -> None:
        """A page of runs: live, parked, and those that only the history knows."""
        self._at(clock)
        if self._parking is None or not self._parking.has_history():
            self._hold(call, query.look(self.engine))
            return

        known = query.known(self.engine)

        def listed(older: list[views.RunLine] | Refused) -> None:
            if isinstance(older, Refused):
                self._hold(call, views.Answer(refused=older))
            else:
                self._hold(call, query.page(self.engine, known, older))

        self.do(self._parking.old_lines(query, self.engine, listed))

    def watch(self, call: int, query: WatchRun, clock: Clock, let: Let = anybody) -> None:
        """Answer with the run's view as soon as it has a durable event behind ``after_seq`` (or its end)."""
        self._at(clock)
        run_id, after_seq, until_end = query.run, query.after_seq, query.until_end

        def look(refused: Refused | None) -> None:
            run = self.engine.runs.get(run_id)
            refused = refused or let(self.engine)
            if refused is not None:
                self._hold(call, views.Answer(refused=refused))
            elif run is None or run.terminal or (run.told > after_seq and not until_end):
                self._hold(call, views.run_answer(self.engine, run_id))
            else:
                self._watchers.add(run_id, call, until_end, self._clock.mono_us)

        if not self._away([run_id], look):
            look(None)

    # --- runs that are not in memory ---------------------------------------------------------------

    @property
    def mono_us(self) -> int:
        return self._clock.mono_us

    @property
    def wall_us(self) -> int:
        return self._clock.wall_us

    def _away(self, runs: Sequence[str], then: Callable[[Refused | None], None], must: bool = False) -> bool:
        """Whether some runs must be loaded first; ``then`` is called when they are.

        Whoever waits for several looks again then: one may have left before the last has come.
        """
        if self._parking is None or all(run in self.engine.runs for run in runs):
            return False
        absent = self._parking.absent(self.engine, runs)
        if absent:
            self._parking.fetch(absent, then, must)
        return bool(absent)

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
        self._try_withheld()
        self._answer_old_polls(clock.mono_us)
        if not self.blocked_since_us:
            self._end_silent_sessions(clock.mono_us)
        for name in [name for name, due in self._attach_by_us.items() if due <= clock.mono_us]:
            self.lose_worker(name, "it did not attach again within the grace time", clock)
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
        if not self._away([run_id], lambda refused: self._fire_loaded(run_id, refused)):
            self._fire_loaded(run_id, None)

    def _fire_loaded(self, run_id: str, refused: Refused | None) -> None:
        if refused is not None:
            self._timers.add_deadline(Deadline(self._clock.wall_us + FIRE_AGAIN_US, run_id))
            return
        self.engine.fire_deadlines(run_id, self._now)
        self.rearm(run_id)
        self._rows.cut()

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

    def _end_silent_sessions(self, mono_us: int) -> None:
        """A worker without contact for a lease term must attach again, or is given up."""
        old = mono_us - self.limits.term_us
        for session in [s for s in self.sessions.values() if s.seen_us < old]:
            self._end_session_of(session.worker)
            self._attach_by_us[session.worker] = mono_us + self.limits.attach_grace_us

    def _answer_old_polls(self, mono_us: int) -> None:
        old = mono_us - self.limits.wait_us
        for session in self.sessions.values():
            if session.waiting is not None and session.waiting.since_us <= old:
                self._cancel_waiting(session)
        for run_id, call in self._watchers.take_since(old):
            self._hold(call, views.run_answer(self.engine, run_id))

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
        self._rows.cut()
        self._sender.ended(self, notification)
        self._sender.advance(self)

    # --- committing ------------------------------------------------------------------------------

    def flush(self, clock: Clock) -> None:
        """Admit what can be admitted, then write what was decided if no write is in flight."""
        now = self._at(clock)
        if self._parking is not None:
            self._parking.load(self)
        if self._in_flight is not None:
            return
        self._admit(now)
        if len(self._rows):
            self._write_next()
        else:
            self._release()

    def _admit(self, now: Moment) -> None:
        """Work goes first to the workers that just reported: their answer leaves anyway."""
        queues = self.engine.fleet.queues
        waiting = [s for s in self.sessions.values() if s.waiting is not None]
        if len(waiting) > 1:
            waiting.sort(key=_idle_last)
        for position, session in enumerate(waiting):
            worker = self.engine.fleet.workers[session.worker]
            queue = queues.get(worker.pool)
            leases: list[Lease] = []
            if queue is not None and queue.ready:
                others = sum(
                    self.engine.fleet.workers[s.worker].pool == worker.pool for s in waiting[position:]
                )
                leases = self.engine.dispatch.admit(worker, now, -(-queue.ready // others))
                self._rows.cut()
            assert session.waiting is not None
            if leases or session.waiting.acknowledges or session.cancel:
                self.counters.leases += len(leases)
                call, reply = session.reply(self.engine.fleet.epoch, leases)
                self._hold(call, reply)

    def _write_next(self) -> None:
        columns = self._rows.take()
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
                self._hold(call, views.run_answer(self.engine, run_id))
        self._release()
        self._sender.advance(self)

    def _hold(self, call: int, payload: Any) -> None:
        self._held.append(Held(self.engine.seq, Reply(call, payload)))

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
            for session in self.sessions.values():
                if session.worker == orphan.worker:
                    session.cancel.append((run.id, serial, call, attempt))

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


MOST_NANOUSD = 10**15
"""No attempt costs more than a million dollars; sums stay within what a message can carry."""


def _bounded(outcome: Outcome) -> Outcome:
    cost = min(max(outcome.cost_nanousd, 0), MOST_NANOUSD)
    return msgspec.structs.replace(outcome, cost_nanousd=cost)


def _idle_last(session: Session) -> bool:
    return session.waiting is not None and not session.waiting.acknowledges


def _succeeded(shell: Shell, event: ev.StepSucceeded) -> None:
    shell.counters.steps += 1
    shell.counters.cost_nanousd += event.cost_nanousd
    if event.usage is not None or event.overrun_nanousd:
        _settled(shell, event)


def _failed(shell: Shell, event: ev.StepFailed) -> None:
    shell.counters.failures += 1
    shell.counters.cost_nanousd += event.cost_nanousd
    _settled(shell, event)


def _settled(shell: Shell, event: ev.StepSucceeded | ev.StepFailed | ev.LateOutcome) -> None:
    """Say that an endpoint billed more than was held for it, or claimed what cannot be."""
    usage = None if isinstance(event, ev.LateOutcome) else event.usage
    if usage is not None and usage.disbelieved:
        shell.counters.claims_disbelieved += 1
    if event.overrun_nanousd:
        shell.counters.reservations_exceeded += 1
        facts = {"run_id": event.run, "serial": event.serial, "call": event.call}
        over = {"cost_nanousd": event.cost_nanousd, "overrun_nanousd": event.overrun_nanousd}
        log.warning("a step cost more than was reserved for it", extra=facts | over)


def _retried(shell: Shell, event: ev.RetryScheduled) -> None:
    shell.counters.retries += 1
    shell.note_backoff(event)


def _late(shell: Shell, event: ev.LateOutcome) -> None:
    shell.counters.late_outcomes += 1
    shell.counters.cost_nanousd += event.cost_nanousd
    _settled(shell, event)


def _corrected(shell: Shell, event: ev.CostCorrected) -> None:
    shell.counters.cost_nanousd += event.cost_nanousd


def _submitted(shell: Shell, event: ev.RunSubmitted | ev.RunForked) -> None:
    shell.counters.runs_submitted += 1
    shell.live_runs += 1
    shell.rearm(event.run)


def _asked(shell: Shell, event: ev.ApprovalRequested | ev.ApprovalResolved) -> None:
    shell.rearm_family(event.run)


def _escalated(shell: Shell, event: ev.ApprovalEscalated) -> None:
    shell.rearm(event.run)


def _node_failed(shell: Shell, event: ev.NodeFailed) -> None:
    shell.stop_orphans(event)


def _run_succeeded(shell: Shell, event: ev.RunSucceeded) -> None:
    shell.counters.runs_succeeded += 1
    shell.run_ended(event.run)


def _run_failed(shell: Shell, event: ev.RunFailed) -> None:
    shell.counters.runs_failed += 1
    shell.run_ended(event.run)
    shell.stop_orphans(event)


def _run_cancelled(shell: Shell, event: ev.RunCancelled) -> None:
    shell.counters.runs_cancelled += 1
    shell.run_ended(event.run)
    shell.stop_orphans(event)


def _queued(shell: Shell, event: ev.NotificationQueued) -> None:
    shell.note_notification(event)


def _delivered(shell: Shell, event: ev.NotificationDelivered) -> None:
    shell.counters.notifications_delivered += 1


def _given_up(shell: Shell, event: ev.NotificationFailed) -> None:
    shell.counters.notifications_failed += 1
    facts = {"notification": event.notification, "attempts": event.attempt}
    log.warning("a notification was given up: %s", event.error, extra=facts)


def _forgotten(shell: Shell, event: ev.RunForgotten) -> None:
    shell.note_erasure(shell.engine.runs[event.run])


_NOTES: dict[type[ev.Event], Callable[[Shell, Any], None]] = {
    ev.StepSucceeded: _succeeded,
    ev.StepFailed: _failed,
    ev.RetryScheduled: _retried,
    ev.LateOutcome: _late,
    ev.CostCorrected: _corrected,
    ev.RunSubmitted: _submitted,
    ev.RunForked: _submitted,
    ev.ApprovalRequested: _asked,
    ev.ApprovalResolved: _asked,
    ev.ApprovalEscalated: _escalated,
    ev.NodeFailed: _node_failed,
    ev.RunSucceeded: _run_succeeded,
    ev.RunFailed: _run_failed,
    ev.RunCancelled: _run_cancelled,
    ev.RunForgotten: _forgotten,
    ev.NotificationQueued: _queued,
    ev.NotificationDelivered: _delivered,
    ev.NotificationFailed: _given_up,
}
