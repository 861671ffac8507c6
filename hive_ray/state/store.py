"""What the state plane asks of an object store, and how a URL becomes one.

Names are relative and slash-separated (``journal/0000/000000000001.arrow.zst``). ``create`` is the one
operation that everything rests on: create-if-absent, durable on return. Nothing here knows what the
objects mean.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import unquote, urlsplit

from hive_ray.errors import AlreadyExists, ConfigError, Fault, ObjectMissing, StoreError, StoreRefused

SCHEMES = ("file", "s3", "gs", "az", "memory")

_NAME = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")


class Store(Protocol):
    """A flat space of named byte objects; every method blocks and is safe to call from any thread."""

    @property
    def url(self) -> str:
        """Where the objects lie, without credentials."""
        ...

    @property
    def inline(self) -> bool:
        """Whether a write takes well below a millisecond, so that an event loop may wait for it."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet; durable on return.

        Raises:
            AlreadyExists: there is an object of that name, perhaps from an earlier try of this call.
            StoreError: unknown whether it was written; read back.
        """
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object atomically; durable on return."""
        ...

    def get(self, name: str) -> bytes:
        """Read a whole object; raises ``ObjectMissing``."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Read ``length`` bytes from ``offset``; raises ``StoreError`` if the object is shorter."""
        ...

    def list(self, prefix: str, after: str = "") -> list[str]:
        """Name the objects below a folder that sort behind ``after``, sorted.

        Args:
            prefix: a folder with its trailing slash, or empty for everything.
        """
        ...

    def delete(self, *names: str) -> None:
        """Remove objects, in order; one that is absent is no error. Many at once are much cheaper."""
        ...

    def probe(self) -> None:
        """Raise ``StoreRefused`` if create-if-absent is ignored; leaves nothing behind."""
        ...

    def close(self) -> None:
        """Let go of handles; the store is not used afterwards."""
        ...


def open_store(url: str, *, options: Mapping[str, str] | None = None) -> Store:
    """Make the store that a state URL names; touches neither disk nor network.

    Args:
        options: the object store's settings (``endpoint``, ``region``, ``access_key_id``, …).

    Raises:
        ConfigError: an unknown scheme, a URL that lacks something, or an unknown option.
    """
    scheme = urlsplit(url).scheme
    opener = _OPENERS.get(scheme)
    if opener is None:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise url_fault(f"{url!r} has no scheme that is known", f"use one of {known}")
    return opener(url, options or {})


def url_fault(problem: str, remedy: str) -> ConfigError:
    """The error about the key ``state.url``."""
    return ConfigError("configuration", [Fault("state.url", problem, remedy)])


def checked_name(name: str) -> str:
    """Return an object's name if it can neither leave the store's root nor hide in it."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no object name: letters, digits, . _ = - in parts joined by /")
    return name


PROBE_FOLDER = "probe"


def probe_create_if_absent(store: Store) -> None:
    """Create one object twice and see that the first one stays.

    Raises:
        StoreRefused: the second creation was let through, or what was written cannot be read back.
    """
    name = f"{PROBE_FOLDER}/{secrets.token_hex(16)}"
    try:
        _probe(store, name)
    except StoreRefused:
        raise
    except StoreError as error:
        raise StoreRefused(f"{store.url}: the start-up probe failed: {error}") from error
    finally:
        store.delete(name)


def _probe(store: Store, name: str) -> None:
    store.create(name, b"first")
    try:
        store.create(name, b"second")
    except AlreadyExists:
        pass
    else:
        raise StoreRefused(
            f"{store.url}: creates an object that exists already (create-if-absent is ignored), so two "
            "controllers could overwrite each other's journal; use a store with conditional writes"
        )
    try:
        found = store.get(name)
    except ObjectMissing as error:
        raise StoreRefused(f"{store.url}: an object is gone right after it was written") from error
    if found != b"first":
        raise StoreRefused(f"{store.url}: an object changed right after it was written")


# Imported by scheme: a machine that keeps its state in a folder never loads the object-store client.
def _open_file(url: str, options: Mapping[str, str]) -> Store:
    from hive_ray.state.file_store import FileStore

    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or len(path) < 2:
        raise url_fault(f"{url!r} names no absolute folder", "write file:///absolute/folder")
    _refuse_options(options)
    return FileStore(path)


def _open_object(url: str, options: Mapping[str, str]) -> Store:
    from hive_ray.state.object_store import open_object_store

    if not urlsplit(url).netloc:
        raise url_fault(f"{url!r} names no bucket", "write SCHEME://bucket/prefix")
    return open_object_store(url, options)


def _open_memory(url: str, options: Mapping[str, str]) -> Store:
    from hive_ray.state.memory_store import MemoryStore

    name = urlsplit(url).netloc
    if not name:
        raise url_fault(f"{url!r} has no name", "write memory://NAME")
    _refuse_options(options)
    return MemoryStore(name)


def _refuse_options(options: Mapping[str, str]) -> None:
    faults = [Fault(f"state.{key}", "has no meaning for this kind of store", "remove it") for key in options]
    if faults:
        raise ConfigError("configuration", faults)


_OPENERS: Mapping[str, Callable[[str, Mapping[str, str]], Store]] = {
    "file": _open_file,
    "s3": _open_object,
    "gs": _open_object,
    "az": _open_object,
    "memory": _open_memory,
}
