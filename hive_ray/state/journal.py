"""One partition's journal: who may write it, what a write's outcome means, and reading it back.

The whole of fencing: segments have contiguous numbers and are created if absent. A new incarnation takes
the next number with an epoch record, which is never deleted; so the number that an older incarnation
will write next is always taken, and its read-back tells it so. No asyncio: ``write_pending`` blocks and
may run inline or on an executor; everything else is decided without I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from hive_ray.core import features
from hive_ray.errors import Corrupt, Fenced, ObjectMissing, StoreError
from hive_ray.state.owner import Owner, OwnerState
from hive_ray.state.reading import read_in_order, read_listed
from hive_ray.state.segments import (
    Columns,
    Segment,
    SegmentHeader,
    decode_segment,
    encode_segment,
    segment_folder,
    segment_name,
    segment_number,
)
from hive_ray.state.store import Store

EPOCH_KIND = "EpochClaimed"

_CLAIM_TRIES = 100


class PendingWrite(NamedTuple):
    """A segment on its way; the same bytes are written until the outcome is known."""

    header: SegmentHeader
    name: str
    data: bytes
    next_seq: int


class Committed(NamedTuple):
    """The segment is durable; everything decided below ``next_seq`` may take effect."""

    number: int
    next_seq: int


class Retry(NamedTuple):
    """The segment is not known to be there: write the same bytes again, after a pause."""

    error: StoreError


class FencedBy(NamedTuple):
    """The number belongs to somebody else; this incarnation must end."""

    number: int
    epoch: int
    nonce: str

    def error(self) -> Fenced:
        """The exception that ends this incarnation."""
        return Fenced(f"segment {self.number} belongs to epoch {self.epoch}; this controller is replaced")


Outcome = Committed | Retry | FencedBy


class Claim(NamedTuple):
    """An incarnation's right to write, until a newer one claims.

    Attributes:
        number: the epoch record's place; segments up to it are the past.
        next_seq: the seq that the first event will have.
    """

    epoch: int
    nonce: str
    number: int
    next_seq: int
    owner: Owner


class Heartbeat(msgspec.Struct, frozen=True):
    """The owner's sign of life, overwritten every ``HEARTBEAT_S``; ``number`` is its newest segment."""

    epoch: int
    number: int
    time_us: int
    owner: Owner


class Journal:
    """The journal of one partition, as one incarnation sees it."""

    def __init__(self, store: Store, partition: int) -> None:
        self._store = store
        self._partition = partition
        self._claim: Claim | None = None
        self._pending: PendingWrite | None = None
        self._number = 0
        self._next_seq = 0
        self.format = features.FIRST
        """Form of the segments to come: the state's feature level, which never falls."""

    @property
    def next_seq(self) -> int:
        """The seq that the next event will have."""
        return self._next_seq

    @property
    def number(self) -> int:
        """The newest segment that is committed."""
        return self._number

    def claim(self, owner: Owner, nonce: str, now_us: int, known: int = 0) -> Claim:
        """Become the writer: whoever wrote before is fenced once this returns.

        Args:
            nonce: random, the incarnation's own. One that claimed already and has written nothing since keeps
                its claim, so that a recovery which fails after it can be tried again without end.
            known: a segment number that is known to exist, to shorten the listing.

        Raises:
            StoreError: the store failed, or others kept writing; claim again with a new nonce.
        """
        last = self._last_segment(known)
        if last is not None and last.header.kind == "epoch" and last.header.nonce == nonce:
            return self._adopt(last.header, owner)
        for _ in range(_CLAIM_TRIES):
            pending = _epoch_record(self._partition, last, owner, nonce, now_us)
            match write_pending(self._store, pending):
                case Committed():
                    return self._adopt(pending.header, owner)
                case Retry(error):
                    raise error
                case FencedBy():
                    last = self._read(pending.name)
        raise StoreError(f"{self._store.url}: another controller keeps writing; stop it, then start again")

    def prepare(self, columns: Columns) -> PendingWrite:
        """Encode the next segment; one write is in flight at a time.

        Raises:
            ValueError: rows that do not continue the journal, or a write still in flight: a caller's bug.
        """
        claim = self._claimed()
        if self._pending is not None:
            raise ValueError(f"{self._pending.name} is still in flight")
        if not columns.seq or columns.seq[0] != self._next_seq:
            raise ValueError(f"rows must begin at seq {self._next_seq}")
        number = self._number + 1
        header = SegmentHeader(
            self._partition,
            number,
            claim.epoch,
            claim.nonce,
            claim.number,
            self._next_seq,
            format=self.format,
        )
        name, data = segment_name(self._partition, number), encode_segment(header, columns)
        self._pending = PendingWrite(header, name, data, self._next_seq + len(columns.seq))
        return self._pending

    def settle(self, pending: PendingWrite, outcome: Outcome) -> Outcome:
        """Take the outcome of a write into account and hand it on.

        After ``Retry`` the same ``pending`` is written again; after ``FencedBy`` nothing is ever written.
        """
        if pending is not self._pending:
            raise ValueError(f"{pending.name} is not the write in flight")
        if isinstance(outcome, Committed):
            self._pending = None
            self._number, self._next_seq = outcome
        return outcome

    def beat(self, now_us: int) -> None:
        """Overwrite the owner's heartbeat.

        Raises:
            Fenced: a newer incarnation's heartbeat stands there; it stays as it is.
        """
        claim = self._claimed()
        found = self._heartbeat()
        if found is not None and found.epoch > claim.epoch:
            raise FencedBy(found.number, found.epoch, "").error()
        beat = Heartbeat(claim.epoch, self._number, now_us, claim.owner)
        self._store.put(self._heartbeat_name, msgspec.json.encode(beat))

    def read_owner(self) -> OwnerState | None:
        """Tell who wrote last and when it gave its last sign of life; None for an empty journal."""
        beat = self._heartbeat()
        last = self._last_segment(beat.number if beat else 0)
        if last is None:
            return None
        seen_at_us = last.columns.time_us[-1]
        if beat is not None and beat.epoch == last.header.epoch:
            owner, seen_at_us = beat.owner, max(seen_at_us, beat.time_us)
        else:
            owner = self._recorded_owner(last)
        return OwnerState(last.header.epoch, owner, last.header.number, seen_at_us)

    def read_segments(self, from_number: int = 1, until: int | None = None) -> Iterator[Segment]:
        """Read every segment from a number on, in order, up to ``until`` if it is given.

        Raises:
            Corrupt: a segment is missing, unreadable, or does not continue the one before; named.
        """
        previous: Segment | None = None
        names = self._contiguous_names(from_number)
        if until is not None:
            names = names[: max(until - from_number + 1, 0)]
        for name, data in read_in_order(self._store, names):
            segment = decode_segment(name, data)
            check_continues(previous, segment)
            yield segment
            previous = segment

    @property
    def _heartbeat_name(self) -> str:
        return heartbeat_name(self._partition)

    def _claimed(self) -> Claim:
        if self._claim is None:
            raise ValueError("the journal is not claimed")
        return self._claim

    def _adopt(self, header: SegmentHeader, owner: Owner) -> Claim:
        self._number, self._next_seq = header.number, header.first_seq
        self.format = header.format
        self._pending = None
        self._claim = Claim(header.epoch, header.nonce, header.number, header.first_seq, owner)
        return self._claim

    def _heartbeat(self) -> Heartbeat | None:
        try:
            return msgspec.json.decode(self._store.get(self._heartbeat_name), type=Heartbeat)
        except ObjectMissing:
            return None
        except msgspec.MsgspecError as error:
            raise Corrupt(self._heartbeat_name, f"no heartbeat ({error})") from error

    def _recorded_owner(self, segment: Segment) -> Owner:
        name = segment_name(self._partition, segment.header.claim)
        return _owner_of(decode_segment(name, read_listed(self._store, name)))

    def _last_segment(self, known: int) -> Segment | None:
        numbers = self._numbers(known) or (self._numbers(1) if known > 1 else [])
        return self._read(segment_name(self._partition, numbers[-1])) if numbers else None

    def _read(self, name: str) -> Segment:
        return decode_segment(name, self._store.get(name))

    def _numbers(self, from_number: int) -> list[int]:
        folder = segment_folder(self._partition)
        after = segment_name(self._partition, from_number - 1) if from_number > 1 else ""
        found = map(segment_number, self._store.list(folder, after))
        return [number for number in found if number is not None]

    def _contiguous_names(self, from_number: int) -> list[str]:
        numbers = self._numbers(from_number)
        for expected, number in enumerate(numbers, from_number):
            if number != expected:
                missing = segment_name(self._partition, expected)
                raise Corrupt(missing, f"missing, though segment {number} exists")
        return [segment_name(self._partition, number) for number in numbers]


def heartbeat_name(partition: int) -> str:
    """The object that holds the sign of life of a partition's owner."""
    return f"journal/{partition:04d}.heartbeat"


def write_pending(store: Store, pending: PendingWrite) -> Outcome:
    """Try a write once and find out what became of it; blocks, and may run on any thread."""
    try:
        store.create(pending.name, pending.data)
    except StoreError as error:
        return _read_back(store, pending, error)
    return Committed(pending.header.number, pending.next_seq)


def judge(pending: PendingWrite, found: bytes | None, error: StoreError) -> Outcome:
    """Decide what a failed write means from the object that stands under its name.

    Args:
        found: the object's bytes, None if there is none.
        error: what the write said.

    Raises:
        Corrupt: the object is neither ours nor readable.
    """
    if found is None:
        return Retry(error)
    if found == pending.data:
        return Committed(pending.header.number, pending.next_seq)
    header = decode_segment(pending.name, found).header
    return FencedBy(header.number, header.epoch, header.nonce)


def _read_back(store: Store, pending: PendingWrite, error: StoreError) -> Outcome:
    try:
        found = store.get(pending.name)
    except ObjectMissing:
        found = None
    except StoreError as unreadable:
        # Still unknown. Writing the same bytes again is harmless, and asks the question again.
        return Retry(unreadable)
    return judge(pending, found, error)


def _epoch_record(
    partition: int, last: Segment | None, owner: Owner, nonce: str, now_us: int
) -> PendingWrite:
    number = last.header.number + 1 if last else 1
    epoch = last.header.epoch + 1 if last else 1
    next_seq = last.next_seq if last else 1
    form = last.header.format if last else features.FIRST
    header = SegmentHeader(partition, number, epoch, nonce, number, next_seq, "epoch", form)
    body = msgspec.msgpack.encode(owner)
    columns = Columns([next_seq], [now_us], [""], [EPOCH_KIND], [body], [b""])
    name = segment_name(partition, number)
    return PendingWrite(header, name, encode_segment(header, columns), next_seq)


def _owner_of(record: Segment) -> Owner:
    try:
        return msgspec.msgpack.decode(record.columns.body[0], type=Owner)
    except msgspec.MsgspecError as error:
        raise Corrupt(record.name, f"no epoch record ({error})") from error


def check_continues(previous: Segment | None, segment: Segment) -> None:
    """Refuse a segment that the one before it cannot have led to."""
    header = segment.header
    if previous is None:
        if header.number == 1 and header.kind != "epoch":
            raise Corrupt(segment.name, "the journal does not begin with an epoch record")
        return
    before = previous.header
    if header.first_seq != previous.next_seq:
        raise Corrupt(segment.name, f"begins at seq {header.first_seq}, not at {previous.next_seq}")
    if header.kind == "epoch":
        if header.epoch <= before.epoch:
            raise Corrupt(segment.name, f"epoch {header.epoch} follows epoch {before.epoch}")
    elif (header.epoch, header.nonce, header.claim) != (before.epoch, before.nonce, before.claim):
        raise Corrupt(segment.name, f"epoch {header.epoch} writes where epoch {before.epoch} stands")
