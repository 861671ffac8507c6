"""The workers' side of the shell: they attach, report what came of their leases, and are given more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hive_ray.control.exchanges import Session, Waiting
from hive_ray.control.withheld import Withheld
from hive_ray.core.commands import Refused
from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import AttemptRef, Worker
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

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

log = logging.getLogger(__name__)

MOST_NANOUSD = 10**15
"""No attempt costs more than a million dollars; sums stay within what a message can carry."""


class Reception:
    """The sessions of one incarnation."""

    session_tail: Callable[[], str] = staticmethod(str)
    """Makes what nobody can guess of a session's name; chance is not the shell's own."""

    def __init__(self, shell: Shell) -> None:
        self.sessions: dict[str, Session] = {}
        self._shell = shell
        self._attach_by_us: dict[str, int] = {}
        """By worker that is awaited: the monotonic time at which it is given up."""
        self._session_count = 0
        self._withheld = Withheld()

    def begin(self) -> None:
        """After recovery: give the workers of old time to attach."""
        for name in self._shell.engine.fleet.workers:
            self._await(name)

    def _await(self, worker: str) -> None:
        self._attach_by_us[worker] = self._shell.mono_us + self._shell.limits.attach_grace_us

    def unattached(self) -> list[Worker]:
        """Workers known from before that have not come back; somebody may find out about them."""
        return [self._shell.engine.fleet.workers[name] for name in self._attach_by_us]

    # --- coming and going ------------------------------------------------------------------------

    def attach(self, call: int, request: AttachRequest) -> None:
        """A worker presents itself with what it holds: take its outcomes, give it a session.

        What it was leased and does not name has never reached it, if this call is its latest word: one that
        was late or came twice says what was. So that is believed when the worker uses the session.
        """
        shell, engine = self._shell, self._shell.engine
        named = [key[0] for key in request.running] + [outcome.run for outcome in request.outcomes]
        if shell.away(self._loadable(named), lambda _: self.attach(call, request), must=True):
            return
        name = request.info.worker
        self._end_session_of(name)
        engine.attach(request.info, shell.now)
        self._attach_by_us.pop(name, None)
        acknowledged = tuple(self._report_of(name, outcome) for outcome in self._of_loaded(request.outcomes))
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
        patience_s = shell.limits.attach_grace_us / 1e6
        poll_s = shell.limits.wait_us / 1e6
        reply = AttachReply(session.id, engine.fleet.epoch, acknowledged, drop, poll_s, patience_s)
        shell.hold(call, reply)

    def _new_session(self, worker: str) -> Session:
        self._session_count += 1
        name = f"{self._shell.engine.fleet.epoch}.{self._session_count}{self.session_tail()}"
        session = Session(name, worker, self._shell.mono_us)
        self.sessions[session.id] = session
        return session

    def _end_session_of(self, worker: str) -> None:
        for session in [s for s in self.sessions.values() if s.worker == worker]:
            self._cancel_waiting(session)
            del self.sessions[session.id]

    def lose(self, worker: str, reason: str) -> None:
        """A worker's process is certainly gone."""
        self._end_session_of(worker)
        self._attach_by_us.pop(worker, None)
        self._shell.engine.lose_worker(worker, reason, self._shell.now)

    def advance(self) -> None:
        """Called every tick: answer polls that waited long enough, give up on absent workers."""
        shell = self._shell
        self._try_withheld()
        old = shell.mono_us - shell.limits.wait_us
        for session in self.sessions.values():
            if session.waiting is not None and session.waiting.since_us <= old:
                self._cancel_waiting(session)
        if not shell.blocked_since_us:
            self._end_silent_sessions()
        for name in [name for name, due_us in self._attach_by_us.items() if due_us <= shell.mono_us]:
            self.lose(name, "it did not attach again within the grace time")

    def _end_silent_sessions(self) -> None:
        """A worker without contact for a lease term must attach again, or is given up."""
        old = self._shell.mono_us - self._shell.limits.term_us
        for session in [s for s in self.sessions.values() if s.seen_us < old]:
            self._end_session_of(session.worker)
            self._await(session.worker)

    # --- exchanges -------------------------------------------------------------------------------

    def exchange(self, call: int, request: ExchangeRequest) -> None:
        """Outcomes in, leases out; see ``core.messages`` for when the answer leaves."""
        shell = self._shell
        session = self.sessions.get(request.session)
        if session is None:
            shell.answer(call, ExchangeReply(request.n, shell.engine.fleet.epoch, reattach=True))
            return
        session.seen_us = shell.mono_us
        named = self._loadable(outcome.run for outcome in request.outcomes)
        # What is not loaded yet is waited for: a worker's outcomes are in nobody else's hands.
        if named and shell.away(named, lambda _: self.exchange(call, request), must=True):
            return
        session.confirm(request.seen)
        if session.missing:
            self._take_back(session)
        repeated = session.replies.get(request.n)
        if repeated is not None:
            shell.hold(call, repeated)
            return
        acknowledges = [
            self._report_of(session.worker, outcome) for outcome in self._of_loaded(request.outcomes)
        ]
        if request.n < session.newest:
            shell.hold(call, ExchangeReply(request.n, shell.engine.fleet.epoch, (), tuple(acknowledges)))
            return
        self._cancel_waiting(session)
        session.newest = request.n
        session.waiting = Waiting(call, request.n, shell.mono_us, acknowledges)

    def _loadable(self, runs: Iterable[str]) -> list[str]:
        """Those of some runs that are not known to be damaged."""
        damaged = self._shell.damaged
        return [run for run in runs if run not in damaged] if damaged else list(runs)

    def _of_loaded(self, outcomes: tuple[Outcome, ...]) -> list[Outcome]:
        """The outcomes of runs that are there; those of damaged ones are withheld, and stop no other."""
        damaged = self._shell.damaged
        if not damaged:
            return list(outcomes)
        for outcome in outcomes:
            if outcome.run in damaged:
                self._withheld.keep(outcome, self._shell.mono_us)
        return [outcome for outcome in outcomes if outcome.run not in damaged]

    def _try_withheld(self) -> None:
        """Somebody may have mended a run meanwhile."""
        for outcome in self._withheld.take_due(self._shell.mono_us):
            self._shell.damaged.pop(outcome.run, None)
            then = partial(self._report_withheld, outcome)
            if not self._shell.away([outcome.run], then, must=True):
                then(None)

    def _report_withheld(self, outcome: Outcome, refused: Refused | None) -> None:
        if refused is not None:
            self._withheld.keep(outcome, self._shell.mono_us)
        else:
            self._report(outcome)

    def _take_back(self, session: Session) -> None:
        """The leases that never reached their worker are ready again."""
        engine = self._shell.engine
        held = engine.fleet.workers[session.worker].leases
        missing, session.missing = session.missing, []
        for attempt in missing:
            if attempt in held:
                engine.return_lease(attempt, self._shell.now)

    def _cancel_waiting(self, session: Session) -> None:
        """A newer call overtakes one that waits, before it can be granted anything."""
        waiting = session.waiting
        if waiting is None:
            return
        session.waiting = None
        epoch = self._shell.engine.fleet.epoch
        self._shell.hold(waiting.call, ExchangeReply(waiting.n, epoch, (), tuple(waiting.acknowledges)))

    def _report_of(self, worker: str, outcome: Outcome) -> AttemptRef:
        """A worker speaks for its own leases only: another's end is not its to tell."""
        shell, key = self._shell, outcome.key
        holder = shell.engine.holder(key)
        if holder and holder != worker:
            shell.counters.outcomes_refused += 1
            facts = {"run_id": outcome.run, "serial": outcome.serial, "call": outcome.call}
            log.warning("%s reported an attempt of %s: refused", worker, holder, extra=facts)
        else:
            self._report(outcome)
        return key

    def _report(self, outcome: Outcome) -> None:
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
        self._shell.engine.report(outcome, self._shell.now, content)
        self._shell.rows.cut()

    # --- leases ----------------------------------------------------------------------------------

    def admit(self) -> None:
        """Work goes first to the workers that just reported: their answer leaves anyway."""
        shell = self._shell
        index = shell.engine.fleet
        waiting = [session for session in self.sessions.values() if session.waiting is not None]
        if len(waiting) > 1:
            waiting.sort(key=_idle_last)
        for position, session in enumerate(waiting):
            worker = index.workers[session.worker]
            queue = index.queues.get(worker.pool)
            leases: list[Lease] = []
            if queue is not None and queue.ready:
                others = sum(index.workers[s.worker].pool == worker.pool for s in waiting[position:])
                leases = shell.engine.dispatch.admit(worker, shell.now, -(-queue.ready // others))
                shell.rows.cut()
            assert session.waiting is not None
            if leases or session.waiting.acknowledges or session.cancel:
                shell.counters.leases += len(leases)
                call, reply = session.reply(index.epoch, leases)
                shell.hold(call, reply)

    def stop(self, worker: str, attempt: AttemptRef) -> None:
        """Tell a worker with its next reply that an attempt is no longer wanted."""
        for session in self.sessions.values():
            if session.worker == worker:
                session.cancel.append(attempt)


def _bounded(outcome: Outcome) -> Outcome:
    cost = min(max(outcome.cost_nanousd, 0), MOST_NANOUSD)
    return msgspec.structs.replace(outcome, cost_nanousd=cost)


def _idle_last(session: Session) -> bool:
    return session.waiting is not None and not session.waiting.acknowledges
