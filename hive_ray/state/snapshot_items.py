"""Items of snapshots on their way in and out: compressed, then sealed; and what may be erased with one.

An item that is not sealed is the msgpack map of a struct, as release 0.1.0 wrote it; a sealed one begins
with the version byte of ``content``.
"""

from __future__ import annotations

import msgspec

from hive_ray.core.keys import NO_KEY
from hive_ray.state import frames
from hive_ray.state.content import PLAIN, ContentCodec, is_sealed
from hive_ray.state.snapshots import Item

DOOMED = "doomed"
"""Name of the item that says what may be erased once the snapshot stands."""


class Doomed(msgspec.Struct):
    """Keys that nothing needs any more, and runs whose blobs are forgotten; references and ids only."""

    keys: list[bytes] = []
    runs: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.keys or self.runs)


encode_doomed = msgspec.msgpack.Encoder().encode
decode_doomed = msgspec.msgpack.Decoder(Doomed).decode


def seal_item(codec: ContentCodec, name: str, seq: int, data: bytes, key: bytes = NO_KEY) -> bytes:
    """The stored form of an item; without a key it is the item itself."""
    if not key:
        return data
    return codec.seal(frames.compress(data), _place(name, seq), key)


def open_item(codec: ContentCodec, name: str, item: Item) -> bytes:
    """The item itself.

    Raises:
        KeyErased: a newer snapshot stands, which shows the end of the run.
        StoreError: it is damaged.
    """
    if item.data[:1] != PLAIN and not is_sealed(item.data):
        return item.data
    return frames.decompress(name, codec.open(item.data, _place(name, item.seq)))


def _place(name: str, seq: int) -> tuple[str, ...]:
    return ("item", name, str(seq))
