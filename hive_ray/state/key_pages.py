"""Pages of content keys: a few hundred random 256-bit keys in one object, sealed by an intermediate key.

A page is made before any of its keys is used, so that a submission costs no write of its own. A key is
erased by writing the page's next version without it. Slots lie in pairs: see ``hive_ray.core.keys``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hive_ray.core.keys import PAGE_BYTES
from hive_ray.errors import Corrupt, KeyErased

KEY_BYTES = 32
NONCE_BYTES = 12
PAIRS = 256
"""Runs that a page serves."""
FORMAT = 1

ERASED = bytes(KEY_BYTES)
"""Stands in place of an erased key; no random key is all zero."""


class SealedPage(msgspec.Struct, frozen=True):
    """A page as it is stored. ``intermediate`` names the key that opens ``sealed``."""

    page: bytes
    version: int
    intermediate: int
    sealed: bytes
    format: int = FORMAT


class Page(msgspec.Struct, frozen=True):
    """A page's keys, one behind the other."""

    page: bytes
    version: int
    keys: bytes

    @property
    def slots(self) -> int:
        return len(self.keys) // KEY_BYTES

    def key(self, slot: int) -> bytes:
        """One key.

        Raises:
            KeyErased: it was erased.
            Corrupt: the page has no such slot.
        """
        key = self.keys[slot * KEY_BYTES : (slot + 1) * KEY_BYTES]
        if len(key) != KEY_BYTES:
            raise Corrupt(page_folder(self.page), f"has no slot {slot}")
        if key == ERASED:
            raise KeyErased(f"key {slot} of page {self.page.hex()} was erased: what it sealed is gone")
        return key

    def without(self, slots: Iterable[int]) -> Page:
        """The next version, in which these keys are erased; the page itself if they are already."""
        keys = bytearray(self.keys)
        for slot in slots:
            keys[slot * KEY_BYTES : (slot + 1) * KEY_BYTES] = ERASED
        after = bytes(keys)
        return self if after == self.keys else Page(self.page, self.version + 1, after)

    @property
    def erased(self) -> int:
        """How many of its keys are gone."""
        return sum(self.keys[at : at + KEY_BYTES] == ERASED for at in range(0, len(self.keys), KEY_BYTES))


def page_folder(page: bytes) -> str:
    """Where the versions of a page lie."""
    return f"keys/pages/{page.hex()}/"


def new_page(slots: int = 2 * PAIRS, page: bytes = b"") -> Page:
    """Fresh random keys under a fresh random name."""
    return Page(page or os.urandom(PAGE_BYTES), 1, os.urandom(slots * KEY_BYTES))


def seal_page(page: Page, intermediate: int, key: bytes) -> bytes:
    """The stored form, sealed for this name and version only."""
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + AESGCM(key).encrypt(nonce, page.keys, _aad(page.page, page.version))
    return msgspec.msgpack.encode(SealedPage(page.page, page.version, intermediate, sealed))


def read_sealed(name: str, data: bytes) -> SealedPage:
    """Parse a stored page; raises ``Corrupt``."""
    try:
        page = msgspec.msgpack.decode(data, type=SealedPage)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"no page of keys ({error})") from error
    if page.format != FORMAT:
        raise Corrupt(name, f"has format {page.format}, and this release reads {FORMAT}")
    return page


def open_page(name: str, sealed: SealedPage, key: bytes) -> Page:
    """Unseal a page; raises ``Corrupt`` if it is not what was written under that name and version."""
    nonce, data = sealed.sealed[:NONCE_BYTES], sealed.sealed[NONCE_BYTES:]
    try:
        keys = AESGCM(key).decrypt(nonce, data, _aad(sealed.page, sealed.version))
    except (InvalidTag, ValueError) as error:
        raise Corrupt(name, "its keys do not open: it was changed, or put in another one's place") from error
    return Page(sealed.page, sealed.version, keys)


def _aad(page: bytes, version: int) -> bytes:
    return b"hive_ray page %s %d" % (page.hex().encode(), version)
