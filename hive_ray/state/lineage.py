"""Whose state this is: its identity, the environment it serves, and the place it was made for.

The object ``lineage`` is written when a state is first opened. A copy of a state would do again what the
original does: send the same mail, spend the same budget. So a controller works only where it finds the
state at the place that its lineage names; anywhere else the state is read-only until somebody adopts it,
which gives it an identity of its own with the old one as its parent.

A place is told from a copy by the object ``lineage.anchor``, a random token whose value the lineage
repeats. Backups leave it out. In a folder the anchor's file also has a time of birth and an inode number,
which a copy of the file does not share, and which stay when the folder is moved or mounted elsewhere; where
the filesystem keeps none, and in object stores, the store's URL must be the same.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import struct
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from hive_ray.errors import AlreadyExists, Corrupt, ObjectMissing, StateRefused, TooNew
from hive_ray.state.store import Store

LINEAGE = "lineage"
ANCHOR = "lineage.anchor"
FORMAT = 1

_AT_FDCWD = -100
_STATX_INO = 0x100
_STATX_BTIME = 0x800
_STATX_SIZE = 256
_STATX_FIELDS = "=I28xQ40xqI"
"""``stx_mask``, ``stx_ino`` and ``stx_btime`` in ``struct statx``; see statx(2)."""


class Identity(msgspec.Struct, frozen=True):
    """One life of a state, from its creation or adoption on.

    Attributes:
        id: random, shared with no other state.
        url: where its store was.
        since_us: wall clock, Unix microseconds.
    """

    id: str
    environment: str
    url: str
    since_us: int


class Lineage(msgspec.Struct, frozen=True):
    """The object ``lineage``.

    Attributes:
        anchor: the token in ``lineage.anchor``.
        file: time of birth and inode of the anchor's file; empty where there is none.
        ancestors: the lives before this one, oldest first.
    """

    identity: Identity
    anchor: str
    file: str = ""
    ancestors: tuple[Identity, ...] = ()
    format: int = FORMAT


class Standing(NamedTuple):
    """A state's lineage, and why it is read-only here (empty: it is not)."""

    lineage: Lineage
    read_only: str


def read_lineage(store: Store) -> Lineage | None:
    """The lineage of a state; None before its first opening by a release that writes one.

    Raises:
        Corrupt: it cannot be read, or a newer release wrote it.
    """
    try:
        data = store.get(LINEAGE)
    except ObjectMissing:
        return None
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version > FORMAT:
            raise TooNew(LINEAGE, f"written by a newer release (format {version}, this one reads {FORMAT})")
        return msgspec.json.decode(data, type=Lineage)
    except msgspec.MsgspecError as error:
        raise Corrupt(LINEAGE, f"no lineage ({error})") from error


def standing(store: Store) -> Standing | None:
    """Whether a state may be worked on at this place; None if nothing is known of it."""
    lineage = read_lineage(store)
    return None if lineage is None else Standing(lineage, _why_read_only(store, lineage))


def open_for_work(store: Store, environment: str, now_us: int) -> Lineage:
    """The lineage of a state that a controller is about to claim, made if the state has none.

    Raises:
        StateRefused: it serves another environment, or is a copy; says what to do.
    """
    lineage = read_lineage(store) or _create(store, environment, now_us)
    found = lineage.identity.environment
    if found != environment:
        raise StateRefused(
            f"{store.url} is the state of environment {found!r}, and this installation's is {environment!r}: "
            "set `environment` or `state.url` in hive.yaml so that they belong together; to make a copy of "
            "it yours, run `hive-ray state adopt`"
        )
    why = _why_read_only(store, lineage)
    if why:
        raise StateRefused(
            f"{store.url} is read-only: {why}. Its original may still be at work and would do the same steps "
            "again; end the original, then run `hive-ray state adopt`"
        )
    return lineage


def adopt(store: Store, environment: str, now_us: int) -> Lineage:
    """Give a state an identity of its own at this place; the one it had becomes its parent.

    The anchor comes first: a crash in between leaves the state read-only, never open in two places.
    """
    before = read_lineage(store)
    ancestors = (*before.ancestors, before.identity) if before else ()
    token = secrets.token_hex(16)
    # Written anew, not over the old one, so that its file is born here.
    store.delete(ANCHOR)
    store.put(ANCHOR, token.encode())
    lineage = Lineage(_identity(store, environment, now_us), token, _file_of(store), ancestors)
    store.put(LINEAGE, msgspec.json.encode(lineage))
    return lineage


def unanchored(store: Store, environment: str, now_us: int) -> Lineage:
    """A lineage for the copy of a state that has none: it opens nowhere for work until it is adopted.

    Its id is empty: nothing tells the state from others but its place.
    """
    nobody = msgspec.structs.replace(_identity(store, environment, now_us), id="")
    return Lineage(nobody, secrets.token_hex(16))


def _create(store: Store, environment: str, now_us: int) -> Lineage:
    """Two controllers may come here at once; the first ``lineage`` stands for both."""
    with suppress(AlreadyExists):
        store.create(ANCHOR, secrets.token_hex(16).encode())
    token = store.get(ANCHOR).decode()
    lineage = Lineage(_identity(store, environment, now_us), token, _file_of(store))
    try:
        store.create(LINEAGE, msgspec.json.encode(lineage))
    except AlreadyExists:
        return read_lineage(store) or lineage
    return lineage


def _identity(store: Store, environment: str, now_us: int) -> Identity:
    return Identity(secrets.token_hex(16), environment, store.url.rstrip("/"), now_us)


def _why_read_only(store: Store, lineage: Lineage) -> str:
    try:
        token = store.get(ANCHOR).decode("utf-8", "replace")
    except ObjectMissing:
        return f"it was restored from a backup of {lineage.identity.url}"
    if token != lineage.anchor:
        return f"its {ANCHOR} belongs to another state than its {LINEAGE}"
    return "" if _is_same_place(store, lineage) else f"it is a copy of {lineage.identity.url}"


def _is_same_place(store: Store, lineage: Lineage) -> bool:
    file = _file_of(store)
    if file and lineage.file:
        return file == lineage.file
    return store.url.rstrip("/") == lineage.identity.url


def _file_of(store: Store) -> str:
    """The anchor's file, whatever folder it is in; empty if it is no file or nobody can tell."""
    parts = urlsplit(store.url)
    return file_identity(f"{unquote(parts.path)}/{ANCHOR}") if parts.scheme == "file" else ""


def file_identity(path: str) -> str:
    """``stx_btime`` and ``stx_ino`` of statx(2); empty where libc or the filesystem lack a time of birth.

    The number alone would not do, since numbers are used again; nor would the time, which is coarse.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "statx"):
        return ""
    found = ctypes.create_string_buffer(_STATX_SIZE)
    if libc.statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME | _STATX_INO, found) != 0:
        return ""
    mask, inode, seconds, nanoseconds = struct.unpack_from(_STATX_FIELDS, found.raw)
    return f"{seconds}.{nanoseconds:09d}:{inode}" if mask & _STATX_BTIME else ""


class _Version(msgspec.Struct):
    format: int
