"""The one door through which content enters and leaves the store.

Content is what a run is about (inputs, outputs, memory, arguments, error texts, forms, graphs), as opposed
to facts about it (kinds, times, costs), which stay readable. Every sealed value begins with a version
byte; empty content stays empty. Version 0 is plain. Version 1 is AES-256-GCM (NIST SP 800-38D): the key's
reference (10 bytes), a random nonce (12 bytes), the ciphertext with its tag (16 bytes longer than the
content). Version 2 is the same of a zstd frame of the content: what is sealed does not get smaller any more.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Protocol

import zstandard
from cryptography.exceptions import InvalidTag

from hive_ray.core.keys import NO_KEY, REF_BYTES
from hive_ray.errors import StoreError
from hive_ray.state.compressing import CONTEXTS
from hive_ray.state.keyring import Keyring

PLAIN = b"\x00"
SEALED = b"\x01"
PACKED = b"\x02"
"""Compressed, then sealed."""
PACKED_FROM_BYTES = 4096
"""Less than this is not worth the controller's time."""
MOST_BYTES = 1 << 30
"""No content is as long as this."""
NONCE_BYTES = 12
NONCES_AT_ONCE = 256
_HEAD = 1 + REF_BYTES
_BODY = _HEAD + NONCE_BYTES


class ContentCodec(Protocol):
    """Seals content before it is written and opens it after it is read.

    ``aad`` names the place the content belongs to: run, node, visit, attempt, field. A sealed value
    that turns up in another place does not open.
    """

    def seal(self, data: bytes, aad: tuple[str, ...], key: bytes = NO_KEY) -> bytes:
        """Return the stored form of ``data``, under the key of that reference (``hive_ray.core.keys``)."""
        ...

    def open(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return what was sealed for this place.

        Raises:
            KeyErased: its key was erased: the content is gone on purpose.
            StoreError: it cannot be opened for another reason.
        """
        ...


class PlainCodec:
    """Content as it is, behind version byte 0."""

    def seal(self, data: bytes, aad: tuple[str, ...], key: bytes = NO_KEY) -> bytes:
        """Return the stored form of ``data``."""
        return PLAIN + data if data else b""

    def open(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return what was sealed."""
        if data[:1] > PLAIN:
            raise _unknown(data, aad)
        return data[1:]


_nonces: deque[bytes] = deque()
# A process that was forked must not use what its parent will.
os.register_at_fork(after_in_child=_nonces.clear)


def next_nonce() -> bytes:
    """A random nonce that nobody else gets, on whatever thread.

    Taken from the system many at a time: asked for each, it would take a third as long as the encryption.
    """
    try:
        return _nonces.popleft()
    except IndexError:
        fresh = os.urandom(NONCE_BYTES * NONCES_AT_ONCE)
        _nonces.extend(fresh[at : at + NONCE_BYTES] for at in range(NONCE_BYTES, len(fresh), NONCE_BYTES))
        return fresh[:NONCE_BYTES]


class SealingCodec:
    """Content sealed with the keys of a keyring; without a key it stays plain."""

    def __init__(self, keyring: Keyring) -> None:
        self._cipher = keyring.cipher

    def seal(self, data: bytes, aad: tuple[str, ...], key: bytes = NO_KEY) -> bytes:
        """Return the stored form of ``data``."""
        if not data:
            return b""
        if not key:
            return PLAIN + data
        form = SEALED
        if len(data) >= PACKED_FROM_BYTES and data[:4] != zstandard.FRAME_HEADER:
            packed = CONTEXTS.bare.compress(data)
            if len(packed) < len(data):
                form, data = PACKED, packed
        nonce = next_nonce()
        return b"".join((form, key, nonce, self._cipher(key).encrypt(nonce, data, "\0".join(aad).encode())))

    def open(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return what was sealed for this place."""
        version = data[:1]
        if version == SEALED:
            return self._opened(data, aad)
        if version == PACKED:
            return _unpacked(self._opened(data, aad), aad)
        if version > PACKED:
            raise _unknown(data, aad)
        return data[1:]

    def _opened(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        cipher = self._cipher(data[1:_HEAD])
        try:
            return cipher.decrypt(data[_HEAD:_BODY], data[_BODY:], "\0".join(aad).encode())
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"content of {'/'.join(aad)} does not open: it was changed, or belongs to another place"
            ) from error


def key_of(data: bytes) -> bytes:
    """The reference to the key under which a stored value lies; empty for plain ones."""
    return data[1:_HEAD] if is_sealed(data) else NO_KEY


def is_sealed(data: bytes) -> bool:
    """Whether a stored value lies under a key."""
    return data[:1] in (SEALED, PACKED)


def _unpacked(packed: bytes, aad: tuple[str, ...]) -> bytes:
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= MOST_BYTES:
            raise StoreError(f"content of {'/'.join(aad)} does not open: its frame names no possible size")
        return CONTEXTS.reader.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise StoreError(f"content of {'/'.join(aad)} does not open: {error}") from error


def _unknown(data: bytes, aad: tuple[str, ...]) -> StoreError:
    return StoreError(
        f"content of {'/'.join(aad)} is sealed in form {data[0]}, which this release cannot open; "
        "start the release that wrote it, or a newer one"
    )
