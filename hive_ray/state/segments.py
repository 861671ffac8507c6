"""The codec of journal segments: rows of facts to bytes and back.

A segment is an Arrow IPC stream of one batch in one zstd frame with checksum. One row is one event, ordered
by seq; the columns are ``seq`` and ``time_us`` (int64), ``run`` and ``kind`` (string), ``body`` (msgpack)
and ``content`` (sealed, see ``content``). The schema's metadata holds the header. Columns are looked up by
name: one that this release does not know is ignored, one that the file lacks is empty, so that a release
may add nullable columns and the release before it still reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import pyarrow as pa

from hive_ray.core import features
from hive_ray.errors import Corrupt, TooNew
from hive_ray.state import frames

FORMAT = features.LATEST
"""The newest form that is read. A segment's form is the feature level of the state when it was written, so
that a release that does not know the level refuses the newest segment before it claims the journal."""
SegmentKind = Literal["events", "epoch"]

_SCHEMA = pa.schema(
    [
        ("seq", pa.int64()),
        ("time_us", pa.int64()),
        ("run", pa.string()),
        ("kind", pa.string()),
        ("body", pa.binary()),
        ("content", pa.binary()),
    ]
)
_STRUCT = pa.struct(list(_SCHEMA))
_TYPES = [field.type for field in _SCHEMA]
_DEFAULTS: tuple[object, ...] = (0, 0, "", "", b"", b"")
_KEY = b"hive"

# One conversion of all columns at once is twice as fast for a few rows, and no faster from here on.
_FEW_ROWS = 32


class Row(NamedTuple):
    """One event as the journal keeps it."""

    seq: int
    time_us: int
    run: str
    kind: str
    body: bytes
    content: bytes = b""


class Columns(NamedTuple):
    """Rows by column, all of one length; what the hot path hands over."""

    seq: Sequence[int]
    time_us: Sequence[int]
    run: Sequence[str]
    kind: Sequence[str]
    body: Sequence[bytes]
    content: Sequence[bytes]

    def rows(self) -> Iterator[Row]:
        """The same, row by row."""
        return map(Row._make, zip(*self, strict=True))


class SegmentHeader(msgspec.Struct, frozen=True):
    """Where a segment belongs and who wrote it.

    Attributes:
        number: its place in the partition's sequence, from 1 without gaps.
        epoch: which incarnation of the controller wrote it, from 1.
        nonce: that incarnation's random name, by which it knows its own writes.
        claim: number of the epoch record that began this epoch.
        first_seq: seq of its first row; in an epoch record, the seq that the next event will have.
    """

    partition: int
    number: int
    epoch: int
    nonce: str
    claim: int
    first_seq: int
    kind: SegmentKind = "events"
    format: int = features.FIRST


class Segment(NamedTuple):
    """A segment as read back."""

    name: str
    header: SegmentHeader
    columns: Columns

    @property
    def next_seq(self) -> int:
        """The seq behind this segment's last event."""
        if self.header.kind == "epoch":
            return self.header.first_seq
        return self.header.first_seq + len(self.columns.seq)


def segment_folder(partition: int) -> str:
    """The folder of one partition's segments, with its slash."""
    return f"journal/{partition:04d}/"


def segment_name(partition: int, number: int) -> str:
    """The object that holds segment ``number``."""
    return f"journal/{partition:04d}/{number:012d}.arrow.zst"


def segment_number(name: str) -> int | None:
    """The number in a segment's name, or None if the object is no segment."""
    digits, dot, suffix = name.rpartition("/")[2].partition(".")
    return int(digits) if dot and suffix == "arrow.zst" and len(digits) == 12 and digits.isdigit() else None


def encode_segment(header: SegmentHeader, columns: Columns) -> bytes:
    """Return a segment's bytes; equal input gives equal bytes."""
    schema = _SCHEMA.with_metadata({_KEY: _HEADERS.encode(header)})
    parts = (schema.serialize(), _batch(columns).serialize(), frames.END_OF_STREAM)
    return frames.compress(b"".join(parts))


def decode_segment(name: str, data: bytes) -> Segment:
    """Read a segment back.

    Raises:
        Corrupt: it is damaged, cut short, not what its name says, or written by a newer release.
    """
    metadata, batch = frames.read_stream(name, frames.decompress(name, data))
    header = _header(name, metadata)
    segment = Segment(name, header, _columns(name, batch))
    _check_seqs(segment)
    return segment


def _batch(columns: Columns) -> frames.Batch:
    if len(columns.seq) < _FEW_ROWS:
        return pa.RecordBatch.from_struct_array(pa.array(list(zip(*columns, strict=True)), _STRUCT))
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _TYPES, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _header(name: str, metadata: Any) -> SegmentHeader:
    raw = metadata.get(_KEY)
    if raw is None:
        raise Corrupt(name, "no segment of a journal (it has no header)")
    try:
        version = _VERSIONS.decode(raw).format
        if version > FORMAT:
            raise TooNew(name, f"written by a newer release (format {version}, this one reads {FORMAT})")
        header = _HEADER_READER.decode(raw)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"header cannot be read ({error})") from error
    if segment_name(header.partition, header.number) != name:
        raise Corrupt(name, f"is a copy of segment {header.number} of partition {header.partition}")
    return header


def _columns(name: str, batch: frames.Batch) -> Columns:
    read: list[Any] = []
    for field, default in zip(_SCHEMA, _DEFAULTS, strict=True):
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            read.append([default] * batch.num_rows)
        elif batch.schema.field(index).type != field.type:
            raise Corrupt(name, f"column {field.name} holds {batch.schema.field(index).type}")
        else:
            column = batch.column(index)
            # Filling copies the column, and no release so far writes a null.
            read.append((column.fill_null(default) if column.null_count else column).to_pylist())
    return Columns(*read)


def _check_seqs(segment: Segment) -> None:
    seqs = segment.columns.seq
    first = segment.header.first_seq
    if not seqs or list(seqs) != list(range(first, first + len(seqs))):
        raise Corrupt(segment.name, f"its rows are not numbered from {first} without gaps")


class _Version(msgspec.Struct):
    """The one header field that every release understands."""

    format: int = FORMAT


_HEADERS = msgspec.json.Encoder()
_HEADER_READER = msgspec.json.Decoder(SegmentHeader)
_VERSIONS = msgspec.json.Decoder(_Version)
