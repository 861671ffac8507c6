"""Values as they travel and rest: small ones inline, large ones as a reference to a blob."""

from __future__ import annotations

from typing import Any

import msgspec

INLINE_LIMIT_BYTES = 4096
"""A value longer than this (msgpack) is a blob, written by the worker before it reports."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One JSON value. Either ``data`` (msgpack bytes) or ``blob`` (object name in the store) is set."""

    data: bytes = b""
    blob: str = ""
    size: int = 0
    """Bytes of the msgpack form, inline or not; of the whole blob."""
    items: int = -1
    """How many items the blob's list has: a map counts them without reading it."""
    item: int = -1
    """The value is this item of the blob's list."""
    json_bytes: int = -1
    """Bytes of the whole blob as JSON, which can be six times ``size``; -1: nobody measured it."""

    def whole_or_item(self, decoded: Any) -> Any:
        """What the value stands for, out of the decoded blob."""
        return decoded if self.item < 0 else decoded[self.item]


def stored(value: Any, blob: str, size: int) -> Value:
    """The reference to a value that was written as a blob."""
    items = len(value) if isinstance(value, list) else -1
    return Value(b"", blob, size, items, json_bytes=len(msgspec.json.encode(value)))


def inline(value: Any) -> Value:
    """Encode a JSON value without regard to its size; the caller decides about blobs.

    Raises:
        TypeError: the value is not made of JSON types.
    """
    data = _encode(value)
    return Value(data, "", len(data))


def decode(value: Value) -> Any:
    """The JSON value behind inline data.

    Raises:
        ValueError: the value is a blob; only workers and the HTTP face load those.
    """
    if value.blob:
        raise ValueError(f"value is in blob {value.blob}")
    return _decode(value.data)


NULL = inline(None)
