"""References to content keys: which key seals a value. Never the key itself, so they may be read by all.

Every root run takes a pair of keys from a page of the keyring: the *run key*, and the *conversation key*,
under which lies what must not outlive the run. A reference is the page (8 bytes) and the slot (2 bytes,
big-endian); run keys have even slots, and the conversation key is the odd one behind.
"""

from __future__ import annotations

PAGE_BYTES = 8
REF_BYTES = PAGE_BYTES + 2

NO_KEY = b""
"""Of a run that began before its state could be sealed: its content stays plain to its end."""
STATE_KEY = bytes(REF_BYTES)
"""Seals what belongs to no run: graphs, the fleet."""
DIGEST_KEY = STATE_KEY[:-1] + b"\x01"
"""Keys the digests of values and of requests; seals nothing."""


def key_ref(page: bytes, slot: int) -> bytes:
    return page + slot.to_bytes(2, "big")


def page_of(ref: bytes) -> bytes:
    return ref[:PAGE_BYTES]


def slot_of(ref: bytes) -> int:
    return int.from_bytes(ref[PAGE_BYTES:], "big")


def is_run_key(ref: bytes) -> bool:
    """Whether a run may take this key: no other reference may come in with a submission."""
    return len(ref) == REF_BYTES and not ref[-1] & 1 and page_of(ref) != page_of(STATE_KEY)


def conversation_key(ref: bytes) -> bytes:
    """The key beside a run's key, under which its conversation is sealed."""
    return ref[:-1] + bytes((ref[-1] | 1,)) if ref else NO_KEY


def is_conversation_key(ref: bytes) -> bool:
    return bool(ref) and bool(ref[-1] & 1)
