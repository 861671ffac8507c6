"""Content too large for a journal row, addressed by a keyed digest of itself; and graphs by their hash.

Writing the same content twice is writing it once, so a blob may be written before the report that
refers to it, and again after a crash. Blobs of a run's conversation are ``c-…``, its others ``r-…``; those
without either are plain. Blobs under the state's own key (``m-…``) are values of long-term memory, which are
overwritten and then deleted: each has a name of its own, so that none comes back to life. It begins with the
second at which it was written, so that one that nobody reported is known to be left over (see ``retention``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from hive_ray.core.keys import NO_KEY, STATE_KEY, is_conversation_key
from hive_ray.errors import AlreadyExists, Corrupt
from hive_ray.state.content import ContentCodec, key_of
from hive_ray.state.store import Store

BLOBS = "blobs/"
_MEMORY = re.compile(r"m-([0-9a-f]{10})-[0-9a-f]+")


class BlobRef(msgspec.Struct, frozen=True):
    """Where a blob lies and how many bytes its content has."""

    name: str
    size: int


def blob_folder(run: str) -> str:
    """Where a run's blobs lie; runs share none, so that one can be forgotten alone."""
    return f"{BLOBS}{run}/"


def blob_name(run: str, digest: str) -> str:
    """The object that holds a run's blob."""
    return f"{blob_folder(run)}{digest}"


def graph_name(graph_hash: str) -> str:
    """The object that holds a graph."""
    return f"graphs/{graph_hash}"


class Blobs:
    """Blobs and graphs in a store.

    Digests are keyed, so that a name does not betray a content that somebody guesses.

    Args:
        plain_key: keys the digests of plain blobs.
        secret: the secret that keys those of sealed ones.
        older_keys: asked for more plain keys when one does not fit: those of the environments that the
            state served before.
    """

    def __init__(
        self,
        store: Store,
        codec: ContentCodec,
        plain_key: bytes,
        secret: Callable[[], bytes] | None = None,
        older_keys: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        self._store = store
        self._codec = codec
        self._plain_key = plain_key
        self._older_keys = older_keys
        self._secret = secret or (lambda: plain_key)

    def put(self, run: str, data: bytes, key: bytes = NO_KEY) -> BlobRef:
        """Write a blob under a key of its run, durable on return, unless it is there already."""
        digest = self._sealed_digest(run, data, key) if key else self._plain_digest(data)
        name = blob_name(run, digest)
        self._create(name, self._codec.seal(data, (run, "blob", digest), key))
        return BlobRef(name, len(data))

    def get(self, ref: BlobRef) -> bytes:
        """Read a blob.

        Raises:
            Corrupt: it is not what was written.
            ObjectMissing, KeyErased: it is gone.
        """
        _, run, digest = ref.name.split("/")
        found = self._store.get(ref.name)
        data = self._codec.open(found, (run, "blob", digest))
        # A sealed one is authentic if it opens: its name is part of what was sealed.
        if len(data) != ref.size or not (key_of(found) or self._is_plain_digest(digest, data)):
            raise Corrupt(ref.name, "its content does not have the digest in its name")
        return data

    def delete_of(self, run: str) -> int:
        """Remove all blobs of a run; returns how many there were."""
        names = self._store.list(blob_folder(run))
        self._store.delete(*names)
        return len(names)

    def put_graph(self, graph_hash: str, data: bytes, key: bytes = NO_KEY) -> None:
        """Write a graph under the hash of its content, unless it is there already."""
        self._create(graph_name(graph_hash), self._codec.seal(data, ("graph", graph_hash), key))

    def get_graph(self, graph_hash: str) -> bytes:
        """Read a graph; raises ``ObjectMissing``."""
        return self._codec.open(self._store.get(graph_name(graph_hash)), ("graph", graph_hash))

    def _create(self, name: str, data: bytes) -> None:
        with suppress(AlreadyExists):
            self._store.create(name, data)

    def _is_plain_digest(self, digest: str, data: bytes) -> bool:
        if hmac.compare_digest(self._plain_digest(data), digest):
            return True
        return any(hmac.compare_digest(_digest(data, key), digest) for key in self._older_keys())

    def _plain_digest(self, data: bytes) -> str:
        return _digest(data, self._plain_key)

    def _sealed_digest(self, run: str, data: bytes, key: bytes) -> str:
        # The run and the kind count too: equal contents of two runs, or of one run under both of its keys,
        # must neither share an object nor be seen to be equal.
        kind = "m" if key == STATE_KEY else "c" if is_conversation_key(key) else "r"
        digest = hashlib.blake2b(f"{run}/{kind}/".encode(), digest_size=32, key=self._secret())
        digest.update(data)
        if key == STATE_KEY:
            digest.update(secrets.token_bytes(16))
            return f"m-{int(time.time()):010x}-{digest.hexdigest()}"
        return f"{kind}-{digest.hexdigest()}"


def memory_written_us(name: str) -> int:
    """When a blob of long-term memory was written, Unix microseconds; 0 if its name does not tell."""
    found = _MEMORY.fullmatch(name.rpartition("/")[2])
    return int(found[1], 16) * 1_000_000 if found is not None else 0


def _digest(data: bytes, key: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32, key=key).hexdigest()
