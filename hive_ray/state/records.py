"""Events to journal rows and back: the one place that knows both."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hive_ray.core.events import EVENTS, NOTHING, Draft, Event
from hive_ray.core.messages import StepContent
from hive_ray.errors import Corrupt
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


class Rows:
    """Events that wait for the next segment, column by column.

    ``cut`` marks a place where a segment may end: all events of one decision stay together.
    """

    def __init__(self, codec: ContentCodec) -> None:
        self._codec = codec
        self.columns = Columns([], [], [], [], [], [])
        self.bytes = 0
        self._cuts: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.columns.seq)

    def add(self, seq: int, time_us: int, drafted: Draft) -> None:
        event, content = drafted.event, drafted.content
        body = _encode(event)
        sealed = self._codec.seal(content, (event.run, str(seq))) if content else b""
        columns = self.columns
        columns.seq.append(seq)  # type: ignore[attr-defined]
        columns.time_us.append(time_us)  # type: ignore[attr-defined]
        columns.run.append(event.run)  # type: ignore[attr-defined]
        columns.kind.append(type(event).__name__)  # type: ignore[attr-defined]
        columns.body.append(body)  # type: ignore[attr-defined]
        columns.content.append(sealed)  # type: ignore[attr-defined]
        self.bytes += len(body) + len(sealed) + 64

    def cut(self) -> None:
        """A decision is complete."""
        if self.bytes >= SEGMENT_BYTES and (not self._cuts or self._cuts[-1][0] != len(self)):
            self._cuts.append((len(self), self.bytes))

    def take(self) -> Columns:
        """The rows of the next segment, at most about ``SEGMENT_BYTES``; the rest stay."""
        if len(self._cuts) < 2:
            return self._take_all()
        rows, size = self._cuts.pop(0)
        taken = Columns(*(column[:rows] for column in self.columns))
        self.columns = Columns(*(column[rows:] for column in self.columns))
        self.bytes -= size
        self._cuts = [(count - rows, total - size) for count, total in self._cuts]
        return taken

    def _take_all(self) -> Columns:
        taken = self.columns
        self.columns = Columns([], [], [], [], [], [])
        self.bytes = 0
        self._cuts = []
        return taken


SEGMENT_BYTES = 4 * 1024 * 1024


def read_row(name: str, row: Row, codec: ContentCodec) -> Recorded | None:
    """Decode one row; None for rows that are not events (epoch records).

    Raises:
        Corrupt: a kind that this release does not know, or a body that does not decode.
    """
    decode = _DECODERS.get(row.kind)
    if decode is None:
        if row.kind == "EpochClaimed":
            return None
        raise Corrupt(name, f"holds an event of kind {row.kind}, which this release does not know")
    try:
        content = NOTHING
        if row.content:
            content = _decode_content(codec.open(row.content, (row.run, str(row.seq))))
        return Recorded(row.seq, row.time_us, decode(row.body), content)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"row {row.seq} ({row.kind}) does not decode: {error}") from error
