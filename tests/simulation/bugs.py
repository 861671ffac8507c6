"""Deliberate bugs, to be switched on one at a time: the simulation must find each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hive_ray.control import access, replaying
from hive_ray.control.actions import Reply
from hive_ray.control.reception import Reception
from hive_ray.control.shell import Shell
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.core import events as ev
from hive_ray.core import fleet, run, steps
from hive_ray.core.accounts import Accounts
from hive_ray.core.api_keys import ApiKey
from hive_ray.core.engine import Engine
from hive_ray.core.events import Draft
from hive_ray.core.messages import Outcome
from hive_ray.state import journal, ledger
from hive_ray.state.journal import Committed, Journal, Retry

Switch = Callable[[pytest.MonkeyPatch], None]


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    """Whoever finds its number taken goes on as if it had written it."""

    def judge(pending: Any, found: bytes | None, error: Any) -> Committed | Retry:
        return Retry(error) if found is None else Committed(pending.header.number, pending.next_seq)

    patch.setattr(journal, "judge", judge)


def commit_after_effect(patch: pytest.MonkeyPatch) -> None:
    """Leases and answers leave when they are decided."""

    def hold(shell: Shell, call: int, payload: Any) -> None:
        shell._actions.append(Reply(call, payload))

    patch.setattr(Shell, "hold", hold)


def lease_outside_the_state(patch: pytest.MonkeyPatch) -> None:
    """A worker's leases are not noted in the step that grants them."""
    patch.setattr(fleet, "grant", lambda index, worker, attempt, step=None: None)


def retry_of_what_must_not_be_repeated(patch: pytest.MonkeyPatch) -> None:
    """A lost worker's mail is sent again."""
    patch.setattr(steps, "is_idempotent", lambda node, step: True)


def settled_twice(patch: pytest.MonkeyPatch) -> None:
    """An outcome that comes a second time is charged a second time."""

    def late(of: run.Run, outcome: Outcome) -> list[Draft]:
        cost, failure = outcome.cost_nanousd, outcome.failure
        return [Draft(ev.LateOutcome(of.id, outcome.serial, outcome.call, outcome.attempt, failure, cost))]

    patch.setattr(steps, "_late", late)


def lost_wake_up(patch: pytest.MonkeyPatch) -> None:
    """After a recovery nobody remembers what was to be tried again, or when a question expires."""
    patch.setattr(Shell, "_arm", lambda shell, of: None)


def snapshot_without_a_dirty_run(patch: pytest.MonkeyPatch) -> None:
    """Every fifth run that changed is left out of the snapshot."""
    add, seen = Snapshotter._add, [0]

    def forgetful(self: Snapshotter, shell: Shell, writer: Any, run_id: str) -> int:
        seen[0] += 1
        return 0 if run_id and seen[0] % 5 == 0 else add(self, shell, writer, run_id)

    patch.setattr(Snapshotter, "_add", forgetful)


def acknowledged_before_durable(patch: pytest.MonkeyPatch) -> None:
    """Outcomes are acknowledged as soon as they are decided."""
    reply = Reception.admit

    def admit(reception: Reception) -> None:
        shell = reception._shell
        durable, shell.durable_seq = shell.durable_seq, shell.engine.seq
        reply(reception)
        shell._release()
        shell.durable_seq = durable

    patch.setattr(Reception, "admit", admit)


def last_segment_skipped(patch: pytest.MonkeyPatch) -> None:
    """Recovery leaves the newest segment of events unread."""
    read = Journal.read_segments

    def skipping(self: Journal, from_number: int = 1) -> Any:
        segments = list(read(self, from_number))
        return iter([*segments[:-2], *segments[-1:]])

    patch.setattr(Journal, "read_segments", skipping)


def forgotten_key(patch: pytest.MonkeyPatch) -> None:
    """After a recovery, idempotency keys that were used are free again."""
    patch.setattr(fleet, "note_submission", lambda index, of: None)


def forks_billed_to_nobody(patch: pytest.MonkeyPatch) -> None:
    """Bills do not read who asked for a forked run."""
    patch.setattr(ledger, "_KINDS", ledger._KINDS - {"RunForked"})


def resumed_twice(patch: pytest.MonkeyPatch) -> None:
    """Nobody remembers that a run was resumed in another's place."""
    patch.setattr(Engine, "_note_successor", lambda engine, of: None)


def every_account_has_room(patch: pytest.MonkeyPatch) -> None:
    """Steps are paid for out of accounts that have nothing left."""
    patch.setattr(Accounts, "fits", lambda accounts, root, hold: True)


def nothing_is_hidden(patch: pytest.MonkeyPatch) -> None:
    """What belongs to a team exists for everybody."""
    patch.setattr(access, "hidden", lambda principal, request, engine: None)


def ended_keys_open(patch: pytest.MonkeyPatch) -> None:
    """An API key that was revoked still lets in."""
    patch.setattr(ApiKey, "status", lambda key, wall_us: "valid")


def replay_that_compares_nothing(patch: pytest.MonkeyPatch) -> None:
    """A replay looks at nothing that others show."""
    patch.setattr(replaying, "difference", lambda derived, shown, erased: "")


BUGS: dict[Switch, int] = {
    no_fencing: 2,
    commit_after_effect: 1,
    lease_outside_the_state: 2,
    retry_of_what_must_not_be_repeated: 4,
    settled_twice: 2,
    lost_wake_up: 8,
    snapshot_without_a_dirty_run: 3,
    acknowledged_before_durable: 1,
    last_segment_skipped: 1,
    forgotten_key: 2,
    forks_billed_to_nobody: 6,
    resumed_twice: 10,
    every_account_has_room: 12,
    nothing_is_hidden: 4,
    ended_keys_open: 4,
    replay_that_compares_nothing: 10,
}
"""Each bug to the number of seeds, from 0, within which it is found."""
