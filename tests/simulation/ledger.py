"""What the durable journal says, counted event by event by an observer who shares no code with the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.fleet import AttemptRef, StepRef
from tests.simulation.purses import Purses
from tests.simulation.receivers import Receivers

KEY_KEPT_US = 22 * 3600 * 1_000_000
"""How long a key gives the same run: a day, less what the wall clock may have jumped."""


class Attempt:
    """One attempt that was given out."""

    __slots__ = ("charged", "epoch", "open", "reserved", "seq")

    def __init__(self, event: ev.StepStarted, seq: int) -> None:
        self.reserved = event.reserved_nanousd
        self.epoch = event.epoch
        self.seq = seq
        self.open = True
        self.charged = 0
        """What the journal says that it cost, corrections included."""


class Keys:
    """API keys, as the journal tells of them."""

    def __init__(self) -> None:
        self.secrets: dict[str, list[bytes]] = {}
        """Hashes of all that each ever had."""
        self.teams: dict[str, str] = {}
        self.admins: dict[str, None] = {}
        self.revoked: dict[str, None] = {}

    def note(self, event: ev.ApiKeyCreated | ev.ApiKeyRolled | ev.ApiKeyRevoked) -> None:
        """An event is durable."""
        assert event.key not in self.revoked, f"{event.key} had ended"
        match event:
            case ev.ApiKeyCreated():
                assert event.key not in self.secrets, f"{event.key} was made twice"
                self.secrets[event.key] = [event.digest]
                self.teams[event.key] = event.team
                if "admin" in event.scopes:
                    self.admins[event.key] = None
            case ev.ApiKeyRolled():
                self.secrets[event.key].append(event.digest)
            case _:
                self.revoked[event.key] = None


class Ledger(msgspec.Struct):
    """Attempts, approvals, runs and their ends, as of the last durable event."""

    purses: Purses
    """What accounts were charged."""
    receivers: Receivers
    """What is told outside."""
    keys: Keys = msgspec.field(default_factory=Keys)
    seq: int = 0
    at_us: int = 0
    events: int = 0
    moves: int = 0
    """Events of runs: something goes on."""
    started: int = 0
    """Attempts given out."""
    unpaid: int = 0
    """Nodes that failed because an account was empty, or asked whether they may spend more."""
    attempts: dict[AttemptRef, Attempt] = {}
    given: set[tuple[str, int, int, int, int]] = set()
    """Every attempt that was ever given out, with the epoch that gave it."""
    seen: dict[AttemptRef, bool] = {}
    """Attempts that ended in the journal; whether anybody saw the end."""
    asked_about: dict[str, StepRef] = {}
    """Open questions about unknown outcomes to the call that they are about."""
    answers: dict[str, str] = {}
    questions: dict[str, None] = {}
    runs: dict[str, str] = {}
    """Run to its parent."""
    names: list[str] = []
    """Every run, oldest first."""
    live: dict[str, None] = {}
    ended: dict[str, str] = {}
    """Run to the kind of its end."""
    used_keys: dict[str, tuple[str, int]] = {}
    """Idempotency key to the run that it made last, and when."""
    forks: dict[str, str] = {}
    """Forked run to its parent."""
    successors: dict[str, str] = {}
    """Ended run to the one that was resumed in its place."""
    forgotten: dict[str, None] = {}
    corrected: dict[str, int] = {}
    """Runs to the sum of the corrections of their cost."""
    shelves: dict[str, int] = {}
    """Long-term memory to its newest version."""
    unknown: dict[StepRef, None] = {}
    """Calls of which it was said that their outcome is unknown."""

    def reserved(self, key: AttemptRef) -> int:
        return self.attempts[key].reserved

    def apply(self, seq: int, event: ev.Event, at_us: int) -> None:
        """An event became durable."""
        self.at_us = at_us
        assert seq == self.seq + 1, f"event {seq} follows event {self.seq}"
        self.seq = seq
        self.events += 1
        self.moves += bool(event.run)
        note = _NOTES.get(event.__class__)
        if note is not None:
            note(self, event)

    def _started(self, event: ev.StepStarted) -> None:
        key = (event.run, event.serial, event.call, event.attempt)
        known = self.attempts.get(key)
        assert known is None or not known.open, f"{key} was given out twice"
        assert event.run not in self.ended, f"{key} was given out after its run ended"
        self.attempts[key] = Attempt(event, self.seq)
        self.purses.started(key, event.hold)
        self.given.add((*key, event.epoch))
        self.started += 1

    def _returned(self, event: ev.LeaseReturned) -> None:
        key = (event.run, event.serial, event.call, event.attempt)
        del self.attempts[key]
        self.purses.returned(key)

    def _succeeded(self, event: ev.StepSucceeded) -> None:
        if not event.resolved_by:
            self._settle(event, unseen=False)

    def _failed(self, event: ev.StepFailed | ev.LateOutcome) -> None:
        if isinstance(event, ev.StepFailed) and event.kind == "OUTCOME_UNKNOWN":
            self.unknown[(event.run, event.serial, event.call)] = None
        self._settle(event, event.unseen)

    def _settle(self, event: ev.StepSucceeded | ev.StepFailed | ev.LateOutcome, unseen: bool) -> None:
        key = (event.run, event.serial, event.call, event.attempt)
        assert not self.seen.get(key), f"{key} was settled twice"
        attempt = self.attempts[key]
        self.purses.settled(key, attempt.open, event.cost_nanousd)
        attempt.open = False
        attempt.charged += event.cost_nanousd
        self.seen[key] = not unseen

    def _node_failed(self, event: ev.NodeFailed) -> None:
        self.unpaid += event.kind == "BUDGET_EXCEEDED"

    def _asked(self, event: ev.ApprovalRequested) -> None:
        assert event.approval not in self.questions, f"{event.approval} was asked twice"
        self.questions[event.approval] = None
        self.unpaid += event.reason == "budget"
        if event.reason == "outcome_unknown":
            self.asked_about[event.approval] = (event.run, event.serial, event.call)

    def _answered(self, event: ev.ApprovalResolved) -> None:
        assert event.approval in self.questions and event.approval not in self.answers, event.approval
        self.answers[event.approval] = event.decision

    def _forked(self, event: ev.RunForked) -> None:
        self.forks[event.run] = event.origin.run
        if event.origin.resumes:
            before = self.successors.setdefault(event.origin.run, event.run)
            assert before == event.run, f"{event.origin.run} was resumed as {before} and as {event.run}"
            assert event.origin.run in self.ended, f"{event.origin.run} was resumed and has not ended"
        self._submitted(event)

    def _forgotten(self, event: ev.RunForgotten) -> None:
        assert event.run in self.ended, f"{event.run} was forgotten and has not ended"
        self.forgotten[event.run] = None

    def _corrected(self, event: ev.CostCorrected) -> None:
        key = (event.run, event.serial, event.call, event.attempt)
        self.purses.corrected(key, self.seen.get(key) is False, event.cost_nanousd, self.at_us)
        self.corrected[event.run] = self.corrected.get(event.run, 0) + event.cost_nanousd

    def _remembered(self, event: ev.MemoryWritten | ev.MemoryDeleted) -> None:
        shelf = f"{event.scope}/{event.owner}"
        if event.scope != "run":  # a fork's begins with its parent's
            expected = self.shelves.get(shelf, 0) + 1
            assert event.version == expected, f"{shelf} was written as {event.version}, not {expected}"
        self.shelves[shelf] = event.version

    def _submitted(self, event: ev.RunSubmitted | ev.RunForked) -> None:
        assert event.run not in self.runs, f"{event.run} was submitted twice"
        self.runs[event.run] = event.parent if isinstance(event, ev.RunSubmitted) else ""
        self.purses.submitted(event)
        self.names.append(event.run)
        self.live[event.run] = None
        if event.idempotency_key:
            used = self.used_keys.get(event.idempotency_key)
            assert used is None or self.at_us - used[1] > KEY_KEPT_US, f"{event.run} and {used} share a key"
            self.used_keys[event.idempotency_key] = (event.run, self.at_us)

    def _limited(self, event: ev.BudgetChanged) -> None:
        self.purses.limit(event.account, event.plan)

    def _let_beyond(self, event: ev.AllowanceGranted) -> None:
        self.purses.let_beyond(event.account)

    def _ended(self, event: ev.Event) -> None:
        assert event.run not in self.ended, f"{event.run} ended twice"
        self.ended[event.run] = event.__class__.__name__
        del self.live[event.run]

    def _keyed(self, event: ev.ApiKeyCreated | ev.ApiKeyRolled | ev.ApiKeyRevoked) -> None:
        self.keys.note(event)

    def _told(self, event: ev.Event) -> None:
        self.receivers.note(event)


_NOTES: dict[type[ev.Event], Callable[[Ledger, Any], None]] = {
    ev.StepStarted: Ledger._started,
    ev.LeaseReturned: Ledger._returned,
    ev.StepSucceeded: Ledger._succeeded,
    ev.StepFailed: Ledger._failed,
    ev.LateOutcome: Ledger._failed,
    ev.NodeFailed: Ledger._node_failed,
    ev.ApprovalRequested: Ledger._asked,
    ev.ApprovalResolved: Ledger._answered,
    ev.NotificationQueued: Ledger._told,
    ev.NotificationDelivered: Ledger._told,
    ev.NotificationFailed: Ledger._told,
    ev.ApiKeyCreated: Ledger._keyed,
    ev.ApiKeyRolled: Ledger._keyed,
    ev.ApiKeyRevoked: Ledger._keyed,
    ev.RunSubmitted: Ledger._submitted,
    ev.RunForked: Ledger._forked,
    ev.RunForgotten: Ledger._forgotten,
    ev.CostCorrected: Ledger._corrected,
    ev.BudgetChanged: Ledger._limited,
    ev.AllowanceGranted: Ledger._let_beyond,
    ev.MemoryWritten: Ledger._remembered,
    ev.MemoryDeleted: Ledger._remembered,
    ev.RunSucceeded: Ledger._ended,
    ev.RunFailed: Ledger._ended,
    ev.RunCancelled: Ledger._ended,
}
