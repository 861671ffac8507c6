"""Fencing, lost acknowledgements and reading back, on every kind of store."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from hive_ray.errors import AlreadyExists, Corrupt, Fenced, ObjectMissing, StoreError
from hive_ray.state.journal import (
    EPOCH_KIND,
    Committed,
    FencedBy,
    Journal,
    Outcome,
    Retry,
    judge,
    write_pending,
)
from hive_ray.state.owner import Owner, OwnerState, process_is_gone, this_process
from hive_ray.state.segments import encode_segment, segment_folder, segment_name
from hive_ray.state.store import Store
from tests.state.faults import Faulty, once, rows

NOW_US = 1_700_000_100_000_000


def append(journal: Journal, store: Store, count: int = 3) -> Outcome:
    """Write one segment of rows and settle it."""
    pending = journal.prepare(rows(journal.next_seq, count))
    return journal.settle(pending, write_pending(store, pending))


def claimed(store: Store, owner: Owner, nonce: str) -> Journal:
    """A journal that its owner has claimed."""
    journal = Journal(store, 0)
    journal.claim(owner, nonce, NOW_US)
    return journal


def test_first_claim_begins_epoch_1_at_segment_1(store: Store, owner: Owner):
    """An empty state begins with an epoch record that names its owner."""
    claim = Journal(store, 0).claim(owner, "a", NOW_US)

    assert (claim.epoch, claim.number, claim.next_seq) == (1, 1, 1)
    (record,) = Journal(store, 0).read_segments()
    assert record.header.kind == "epoch"
    assert record.columns.kind == [EPOCH_KIND]
    assert msgspec.msgpack.decode(record.columns.body[0], type=Owner) == owner


def test_an_incarnation_that_claims_again_keeps_its_claim(store: Store, owner: Owner):
    """A recovery that fails behind its claim is tried again: the journal does not grow by it. Once others
    have claimed, or it has written, the claim is a new one."""
    first = claimed(store, owner, "mine")
    again = claimed(store, owner, "mine")
    assert (again.number, again.next_seq) == (first.number, first.next_seq) == (1, 1)
    assert isinstance(append(again, store), Committed)

    assert claimed(store, owner, "mine").number == 3
    claimed(store, owner, "other")
    assert claimed(store, owner, "mine").number == 5


def test_what_is_committed_is_read_back_in_order(store: Store, owner: Owner):
    """Segments and seqs are contiguous over several epochs."""
    for epoch in (1, 2):
        journal = claimed(store, owner, f"nonce-{epoch}")
        for count in (1, 40, 2):
            assert isinstance(append(journal, store, count), Committed)

    segments = list(Journal(store, 0).read_segments())
    assert [segment.header.number for segment in segments] == list(range(1, 9))
    assert [segment.header.epoch for segment in segments] == [1] * 4 + [2] * 4
    events = [seq for segment in segments if segment.header.kind == "events" for seq in segment.columns.seq]
    assert events == list(range(1, 87))
    assert [s.header.number for s in Journal(store, 0).read_segments(6)] == [6, 7, 8]


def test_old_writer_is_fenced_by_a_claim_and_its_rows_are_nowhere(store: Store, owner: Owner):
    """After a takeover the old incarnation's next number is taken."""
    old = claimed(store, owner, "old")
    append(old, store)
    new = claimed(store, owner, "new")

    outcome = append(old, store)

    assert isinstance(outcome, FencedBy)
    assert outcome == FencedBy(3, 2, "new")
    assert "epoch 2" in str(outcome.error())
    assert isinstance(append(new, store), Committed)
    assert [s.header.nonce for s in Journal(store, 0).read_segments()] == ["old", "old", "new", "new"]
    with pytest.raises(ValueError, match="in flight"):
        old.prepare(rows(old.next_seq))


def test_writer_whose_segment_precedes_the_claim_is_committed(store: Store, owner: Owner):
    """A claim that finds its number taken by the old writer goes behind it and keeps its events."""
    old = claimed(store, owner, "old")
    late: list[Outcome] = []

    def old_writes(operation: str, name: str) -> None:
        if operation == "create" and not late:
            late.append(append(old, store))

    claim = Journal(Faulty(store, before=old_writes), 0).claim(owner, "new", NOW_US)

    assert isinstance(late[0], Committed)
    assert (claim.number, claim.epoch, claim.next_seq) == (3, 2, 4)
    assert isinstance(append(old, store), FencedBy)


def test_two_racing_claimers_get_two_epochs_and_one_can_write(opener: Callable[[], Store], owner: Owner):
    """The higher epoch wins; the other is fenced at its first write."""
    gate = threading.Barrier(2)

    def run(nonce: str) -> tuple[int, Journal]:
        store = opener()
        waited: list[bool] = []

        def wait(operation: str, name: str) -> None:
            if operation == "create" and not waited:
                waited.append(True)
                gate.wait(10)

        journal = Journal(Faulty(store, before=wait), 0)
        return journal.claim(owner, nonce, NOW_US).epoch, journal

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(run, ["a", "b"]), key=lambda result: result[0])

    assert [epoch for epoch, _ in results] == [1, 2]
    assert isinstance(append(results[0][1], opener()), FencedBy)
    assert isinstance(append(results[1][1], opener()), Committed)


def test_lost_acknowledgement_is_committed_by_reading_back(store: Store, owner: Owner):
    """The write happened, its answer did not arrive: own bytes stand there."""
    journal = claimed(store, owner, "a")
    faulty = Faulty(store, after=once("create", StoreError("connection reset")))

    assert append(journal, faulty) == Committed(2, 4)


def test_lost_acknowledgement_of_a_claim_is_a_claim(store: Store, owner: Owner):
    """A claim whose answer is lost does not fence itself."""
    journal = Journal(Faulty(store, after=once("create", StoreError("connection reset"))), 0)

    assert journal.claim(owner, "a", NOW_US).epoch == 1
    assert isinstance(append(journal, store), Committed)


def test_own_object_found_by_a_repeated_write_is_committed(store: Store, owner: Owner):
    """A retried create that meets its own first try is no fence."""
    journal = claimed(store, owner, "a")
    pending = journal.prepare(rows(1))
    store.create(pending.name, pending.data)

    assert journal.settle(pending, write_pending(store, pending)) == Committed(2, 4)


@pytest.mark.parametrize("error", [StoreError("503"), AlreadyExists("409 in conflict with another request")])
def test_write_that_did_not_happen_is_retried_with_the_same_bytes(
    store: Store, owner: Owner, error: StoreError
):
    """Nothing stands there: the same pending write is offered again, then succeeds."""
    journal = claimed(store, owner, "a")
    pending = journal.prepare(rows(1))
    faulty = Faulty(store, before=once("create", error))

    assert journal.settle(pending, write_pending(faulty, pending)) == Retry(error)
    assert store.list(segment_folder(0)) == [segment_name(0, 1)]
    assert journal.settle(pending, write_pending(faulty, pending)) == Committed(2, 4)


def test_unknown_write_whose_read_back_fails_is_retried_and_then_known(store: Store, owner: Owner):
    """The store goes away right after the write: still unknown, then committed."""
    journal = claimed(store, owner, "a")
    pending = journal.prepare(rows(1))
    gone = StoreError("gone")
    faulty = Faulty(store, before=once("get", gone), after=once("create", StoreError("reset")))

    assert journal.settle(pending, write_pending(faulty, pending)) == Retry(gone)
    assert journal.settle(pending, write_pending(faulty, pending)) == Committed(2, 4)


def test_unknown_write_that_somebody_overtook_is_fenced(store: Store, owner: Owner):
    """The write failed, and a newer claim took its number before the retry."""
    journal = claimed(store, owner, "old")
    pending = journal.prepare(rows(1))
    faulty = Faulty(store, before=once("create", StoreError("timeout")))
    journal.settle(pending, write_pending(faulty, pending))
    claimed(store, owner, "new")

    assert journal.settle(pending, write_pending(faulty, pending)) == FencedBy(2, 2, "new")


def test_torn_object_under_the_own_number_is_corrupt_by_name(store: Store, owner: Owner):
    """Neither ours nor anybody's: the journal is damaged there and says so."""
    journal = claimed(store, owner, "a")
    pending = journal.prepare(rows(1))
    store.create(pending.name, pending.data[:-7])

    with pytest.raises(Corrupt, match=pending.name):
        write_pending(store, pending)


def test_judgement_is_a_function_of_the_bytes_alone(store: Store, owner: Owner):
    """Own bytes, nothing, or somebody else's: no I/O decides."""
    journal = claimed(store, owner, "a")
    pending, error = journal.prepare(rows(1)), StoreError("x")
    other = claimed(store, owner, "b")
    foreign = other.prepare(rows(1))

    assert judge(pending, pending.data, error) == Committed(2, 4)
    assert judge(pending, None, error) == Retry(error)
    assert judge(pending, store.get(segment_name(0, 2)), error) == FencedBy(2, 2, "b")
    assert foreign.name == segment_name(0, 3)


def test_claim_reports_a_store_that_stays_away(store: Store, owner: Owner):
    """A claim that failed may be repeated and succeeds."""
    journal = Journal(Faulty(store, before=once("create", StoreError("503"))), 0)

    with pytest.raises(StoreError, match="503"):
        journal.claim(owner, "a", NOW_US)
    assert journal.claim(owner, "a2", NOW_US).epoch == 1


def test_claim_behind_a_known_segment_needs_no_full_listing(store: Store, owner: Owner):
    """What a snapshot knows shortens the listing and changes nothing else."""
    first = claimed(store, owner, "a")
    append(first, store)
    append(first, store)
    listed: list[int] = []

    class Counting(Faulty):
        def list(self, prefix: str, after: str = "") -> list[str]:
            names = super().list(prefix, after)
            listed.append(len(names))
            return names

    claim = Journal(Counting(store), 0).claim(owner, "b", NOW_US, known=3)
    assert (claim.number, claim.epoch, claim.next_seq, listed) == (4, 2, 7, [1])
    assert Journal(store, 0).claim(owner, "c", NOW_US, known=99).number == 5


def test_one_write_is_in_flight_and_rows_continue(store: Store, owner: Owner):
    """A caller's bug is refused before anything is written."""
    journal = Journal(store, 0)
    with pytest.raises(ValueError, match="not claimed"):
        journal.prepare(rows(1))
    journal.claim(owner, "a", NOW_US)
    for columns in (rows(2), rows(1, 0)):
        with pytest.raises(ValueError, match="begin at seq 1"):
            journal.prepare(columns)
    journal.prepare(rows(1))
    with pytest.raises(ValueError, match="in flight"):
        journal.prepare(rows(1))


def test_missing_segment_stops_reading_by_name(store: Store, owner: Owner):
    """A gap is never skipped, wherever reading begins."""
    journal = claimed(store, owner, "a")
    for _ in range(30):
        append(journal, store, 1)
    store.delete(segment_name(0, 12))

    with pytest.raises(Corrupt, match=r"000000000012\.arrow\.zst: missing"):
        list(Journal(store, 0).read_segments())
    with pytest.raises(Corrupt, match=r"000000000012\.arrow\.zst: missing"):
        list(Journal(store, 0).read_segments(12))
    assert len(list(Journal(store, 0).read_segments(13))) == 19


@pytest.mark.parametrize("damage", ["cut", "flip", "copy"])
def test_damaged_segment_stops_reading_by_name(store: Store, owner: Owner, damage: str):
    """Everything before it is delivered, nothing after."""
    journal = claimed(store, owner, "a")
    for _ in range(4):
        append(journal, store)
    name = segment_name(0, 3)
    data = store.get(name)
    damaged = {"cut": data[:-1], "flip": data[:80] + bytes([data[80] ^ 4]) + data[81:]}
    store.put(name, damaged.get(damage) or store.get(segment_name(0, 4)))
    read: list[int] = []

    with pytest.raises(Corrupt, match=name):
        read.extend(segment.header.number for segment in Journal(store, 0).read_segments())
    assert read == [1, 2]


def test_segment_that_does_not_continue_its_predecessor_is_refused(store: Store, owner: Owner):
    """A valid object out of another history does not fit: seq, epoch and nonce are compared."""
    ours = claimed(store, owner, "a")
    append(ours, store, 2)
    strange = msgspec.structs.replace(ours.prepare(rows(3)).header, nonce="b")
    store.create(segment_name(0, 3), encode_segment(strange, rows(3)))

    with pytest.raises(Corrupt, match=r"000000000003.*epoch 1 writes where"):
        list(Journal(store, 0).read_segments())


def test_segment_that_vanishes_while_reading_is_named(store: Store, owner: Owner):
    """A listed object that is gone is damage, not an absence."""
    append(claimed(store, owner, "a"), store)

    def vanish(operation: str, name: str) -> None:
        if operation == "get" and name == segment_name(0, 2):
            raise ObjectMissing(name)

    with pytest.raises(Corrupt, match=segment_name(0, 2)):
        list(Journal(Faulty(store, before=vanish), 0).read_segments())


def test_owner_is_read_from_heartbeat_and_newest_segment(store: Store, owner: Owner):
    """The newest sign of life counts: claim, heartbeat, or a later segment."""
    assert Journal(store, 0).read_owner() is None
    journal = claimed(store, owner, "a")
    assert Journal(store, 0).read_owner() == OwnerState(1, owner, 1, NOW_US)

    journal.beat(NOW_US + 5_000_000)
    append(journal, store)

    assert Journal(store, 0).read_owner() == OwnerState(1, owner, 2, NOW_US + 5_000_000)


def test_claim_that_has_not_beaten_yet_owns_the_journal(store: Store, owner: Owner):
    """An older incarnation's heartbeat does not hide a newer claim."""
    old = claimed(store, owner, "a")
    old.beat(NOW_US)
    newer = msgspec.structs.replace(owner, pid=99)
    Journal(store, 0).claim(newer, "b", NOW_US + 1)

    state = Journal(store, 0).read_owner()
    assert state is not None
    assert (state.epoch, state.owner.pid, state.seen_at_us) == (2, 99, NOW_US + 1)


def test_fenced_owner_does_not_overwrite_the_newer_heartbeat(store: Store, owner: Owner):
    """A continued old process learns of its end by its heartbeat, even when idle."""
    old = claimed(store, owner, "a")
    old.beat(NOW_US)
    new = claimed(store, owner, "b")
    new.beat(NOW_US + 1)

    with pytest.raises(Fenced, match="epoch 2"):
        old.beat(NOW_US + 2)
    state = Journal(store, 0).read_owner()
    assert state is not None and (state.epoch, state.seen_at_us) == (2, NOW_US + 1)


def test_remote_owner_is_replaced_only_when_silent(owner: Owner):
    """What cannot be seen from here counts as alive for 20 s."""
    state = OwnerState(1, owner, 1, NOW_US)

    assert process_is_gone(owner) is None
    assert not state.may_be_replaced(NOW_US + 20_000_000)
    assert state.may_be_replaced(NOW_US + 20_000_001)


def test_own_process_is_there_and_an_ended_one_is_gone():
    """On one host the process itself answers, and a reused pid is not mistaken for it."""
    me = this_process("node", "cluster", NOW_US)
    child = subprocess.Popen(["sleep", "60"])
    stat = f"/proc/{child.pid}/stat"
    with open(stat) as file:
        start = int(file.read().rpartition(")")[2].split()[19])
    theirs = msgspec.structs.replace(me, pid=child.pid, process_start=start)

    assert (me.pid, me.host) == (os.getpid(), socket.gethostname())
    assert process_is_gone(me) is False
    assert process_is_gone(theirs) is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_is_gone(theirs) is True  # a zombie has ended
    child.wait()
    assert process_is_gone(theirs) is True
    assert process_is_gone(msgspec.structs.replace(me, process_start=1)) is True
    assert process_is_gone(msgspec.structs.replace(me, boot_id="earlier")) is True
    assert OwnerState(1, theirs, 1, NOW_US).may_be_replaced(NOW_US)
