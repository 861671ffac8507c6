"""Arrow tables inside zstd frames with checksums: the container of segments, snapshots and parts.

A file is one frame or several after each other, so that ``zstd -d`` gives an Arrow IPC stream that any
Arrow reader opens. Decoding refuses whatever is not exactly what was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import zstandard

from hive_ray.errors import Corrupt
from hive_ray.state.compressing import CONTEXTS

Batch = Any
"""A ``pyarrow.RecordBatch``; pyarrow ships no types."""

MAX_RAW_BYTES = 256 * 1024 * 1024
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"

_SMALL_BYTES = 16 * 1024
_UNUSED_BIT = 0x10


def compress(raw: bytes, dense: bool = False) -> bytes:
    """Return one zstd frame with content size and checksum.

    Args:
        dense: half the size for twice the time, also where much is compressed at once.
    """
    context = CONTEXTS.small if dense or len(raw) < _SMALL_BYTES else CONTEXTS.large
    return context.compress(raw)


def decompress(name: str, data: bytes) -> bytes:
    """Return what one frame holds; raises ``Corrupt`` unless it is whole and its checksum fits."""
    try:
        frame = zstandard.get_frame_parameters(data)
        if not frame.has_checksum or data[4] & _UNUSED_BIT:
            raise Corrupt(name, "damaged (the frame header is not one that is ever written)")
        if frame.content_size > MAX_RAW_BYTES:
            raise Corrupt(name, f"damaged (claims {frame.content_size} bytes)")
        return CONTEXTS.reader.decompress(data, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(name, f"damaged or cut short ({error})") from error


def read_stream(name: str, raw: bytes) -> tuple[Mapping[bytes, bytes], Batch]:
    """Return the metadata and the rows of a stream of one batch."""
    try:
        with pa.ipc.open_stream(raw) as reader:
            return reader.schema.metadata or {}, reader.read_next_batch()
    except (pa.ArrowException, StopIteration, EOFError) as error:
        raise Corrupt(name, f"no Arrow stream ({error})") from error
