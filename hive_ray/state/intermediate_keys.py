"""Intermediate keys: they seal the pages, and a provider's key-encryption key wraps them.

There is one, unless somebody adds more. It lies in the store wrapped, with the name of the key that wraps
it, and is unwrapped once in each process. Rotation wraps it anew; nothing else is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from hive_ray.errors import Corrupt, KeysRefused, StoreError
from hive_ray.state import versions
from hive_ray.state.key_pages import KEY_BYTES
from hive_ray.state.store import Store

FOLDER = "keys/intermediate/"
FIRST = 1
FORMAT = 1


class KeyProvider(Protocol):
    """Holds a key-encryption key, or knows who does; both calls may block."""

    @property
    def id(self) -> str:
        """Names the key without telling it; stands beside everything that it wraps."""
        ...

    def wrap(self, key: bytes, aad: bytes) -> bytes:
        """Encrypt a key; raises ``KeysUnavailable``."""
        ...

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Decrypt what this key wrapped; raises ``KeysRefused``, ``KeysUnavailable``."""
        ...


class Wrapped(msgspec.Struct, frozen=True):
    """An intermediate key as it is stored (JSON); ``kek`` is the id of the key that wraps it."""

    id: int
    kek: str
    wrapped: bytes
    format: int = FORMAT


def exist(store: Store) -> bool:
    """Whether this state has keys: content may be sealed."""
    return bool(store.list(FOLDER))


def create_first(store: Store, provider: KeyProvider) -> None:
    """Make the first intermediate key; if somebody else makes one at the same time, that one counts."""
    key = Wrapped(FIRST, provider.id, provider.wrap(os.urandom(KEY_BYTES), _aad(FIRST)))
    versions.replace(store, _folder(FIRST), 1, msgspec.json.encode(key))


def load(store: Store) -> dict[int, Wrapped]:
    """Read all intermediate keys, still wrapped; raises ``Corrupt``."""
    ids = sorted({int(name.split("/")[2]) for name in store.list(FOLDER)})
    return {number: _read(store, number)[1] for number in ids}


def unwrap_all(
    wrapped: Mapping[int, Wrapped], provider: KeyProvider, old: Sequence[KeyProvider]
) -> dict[int, bytes]:
    """Unwrap with the present key or an old one.

    Raises:
        KeysRefused: none of them wraps what is here; names what would be right.
        KeysUnavailable: the holder of a key does not answer.
    """
    return {number: _unwrap(key, provider, old) for number, key in wrapped.items()}


def rewrap_all(store: Store, provider: KeyProvider, old: Sequence[KeyProvider]) -> int:
    """Wrap with the present key whatever an old one wraps; returns how many there were.

    May be repeated after a crash at any point; content stays readable with the old key until it is done.
    """
    done = 0
    for number in load(store):
        folder = _folder(number)
        version, key = _read(store, number)
        if key.kek != provider.id:
            raw = _unwrap(key, provider, old)
            fresh = Wrapped(number, provider.id, provider.wrap(raw, _aad(number)))
            if not versions.replace(store, folder, version + 1, msgspec.json.encode(fresh)):
                raise StoreError(f"{store.url}/{folder} was changed at the same time; rotate again")
            done += 1
        versions.empty_older(store, folder)
    return done


def _read(store: Store, number: int) -> tuple[int, Wrapped]:
    folder = _folder(number)
    found = versions.newest(store, folder)
    if found is None:
        raise Corrupt(folder, "missing, though it was listed")
    name = versions.version_name(folder, found.number)
    try:
        key = msgspec.json.decode(found.data, type=Wrapped)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"no wrapped key ({error})") from error
    if key.format != FORMAT:
        raise Corrupt(name, f"has format {key.format}, and this release reads {FORMAT}")
    return found.number, key


def _unwrap(key: Wrapped, provider: KeyProvider, old: Sequence[KeyProvider]) -> bytes:
    for candidate in (provider, *old):
        if candidate.id == key.kek:
            return candidate.unwrap(key.wrapped, _aad(key.id))
    listed = ", ".join(candidate.id for candidate in old)
    have = f"keys: {provider.id}" + (f", old keys: {listed}" if listed else "")
    raise KeysRefused(
        f"this state's content is sealed with key {key.kek}, and the configured one is another ({have}); "
        "configure that key again under keys, or list it under keys.old_keys. Nothing was written"
    )


def _folder(number: int) -> str:
    return f"{FOLDER}{number:06d}/"


def _aad(number: int) -> bytes:
    return b"hive_ray intermediate key %d" % number
