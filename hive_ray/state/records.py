"""Events to journal rows and back: the one place that knows both."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hive_ray.core.events import EVENTS, NOTHING, Draft, Event
from hive_ray.core.keys import NO_KEY, conversation_key
from hive_ray.core.messages import ERASED, StepContent
from hive_ray.errors import Corrupt, KeyErased, TooNew
from hive_ray.state.content import ContentCodec
from hive_ray.state.segments import Columns, Row

_encode = msgspec.msgpack.Encoder().encode
_decode_content = msgspec.msgpack.Decoder(StepContent).decode
_DECODERS = {kind: msgspec.msgpack.Decoder(cls).decode for kind, cls in EVENTS.items()}


class Recorded(NamedTuple):
    """An event as read from the journal."""

    seq: int
    time_us: int
    event: Event
    content: StepContent
    """``ERASED`` if its key was erased."""


class Rows:
    """Events that wait for the next segment.

    ``cut`` marks a place where a segment may end: all events of one decision stay together.
    """

    def __init__(self, codec: ContentCodec) -> None:
        self._codec = codec
        self._rows: list[_Waiting] = []
        self._bytes = 0
        self._cuts: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, seq: int, time_us: int, drafted: Draft, key: bytes = NO_KEY) -> None:
        """Take an event in.

        Args:
            key: reference to the key of its run, or of the state.
        """
        content = drafted.content
        if content:
            if drafted.conversation:
                key = conversation_key(key)
            self._bytes += len(content)
        self._rows.append((seq, time_us, drafted.event, content, key))

    def cut(self) -> None:
        """A decision is complete."""
        size = self._bytes + ROW_BYTES * len(self._rows)
        if size - (self._cuts[-1][1] if self._cuts else 0) >= SEGMENT_BYTES:
            self._cuts.append((len(self._rows), size))

    def take(self) -> Columns:
        """The rows of the next segment, at most about ``SEGMENT_BYTES``; the rest stay."""
        if not self._cuts:
            rows, self._rows = self._rows, []
            self._bytes, self._cuts = 0, []
            return self._columns(rows)
        count, size = self._cuts.pop(0)
        rows, self._rows = self._rows[:count], self._rows[count:]
        self._bytes -= size - ROW_BYTES * count
        self._cuts = [(later - count, total - size) for later, total in self._cuts]
        return self._columns(rows)

    def _columns(self, rows: list[_Waiting]) -> Columns:
        """Encode the events of a segment and seal their content, all at once: one by one costs twice."""
        seqs, times_us, events, contents, keys = zip(*rows, strict=True)
        names = [event.run for event in events]
        kinds = [event.__class__.__name__ for event in events]
        seal = self._codec.seal
        sealed = [
            seal(content, (name, str(seq)), key) if content else b""
            for seq, name, content, key in zip(seqs, names, contents, keys, strict=True)
        ]
        return Columns(seqs, times_us, names, kinds, list(map(_encode, events)), sealed)


_Waiting = tuple[int, int, Event, bytes, bytes]
"""Sequence number, time, event, content, reference to its key."""
ROW_BYTES = 256
"""What a row weighs besides its content, about: it is encoded when its segment is."""
SEGMENT_BYTES = 4 * 1024 * 1024


def decode_event(name: str, row: Row) -> Event | None:
    """The event of one row, its content left sealed; None for rows that are not events (epoch records).

    Raises:
        Corrupt: a kind that this release does not know, or a body that does not decode.
    """
    decode = _DECODERS.get(row.kind)
    if decode is None:
        if row.kind == "EpochClaimed":
            return None
        raise TooNew(name, f"holds an event of kind {row.kind}, which this release does not know")
    try:
        return decode(row.body)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"row {row.seq} ({row.kind}) does not decode: {error}") from error


def read_row(name: str, row: Row, codec: ContentCodec) -> Recorded | None:
    """Decode one row; None for rows that are not events (epoch records).

    Raises:
        Corrupt: as ``decode_event``, or content that does not decode.
    """
    event = decode_event(name, row)
    if event is None:
        return None
    content = NOTHING
    try:
        if row.content:
            content = _decode_content(codec.open(row.content, (row.run, str(row.seq))))
    except KeyErased:
        content = ERASED
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"row {row.seq} ({row.kind}) does not decode: {error}") from error
    return Recorded(row.seq, row.time_us, event, content)
