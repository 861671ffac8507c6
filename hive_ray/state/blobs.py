"""Content too large for a journal row, addressed by a keyed digest of itself; and graphs by their hash.

Writing the same content twice is writing it once, so a blob may be written before the report that
refers to it, and again after a crash.
"""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress

import msgspec

from hive_ray.errors import AlreadyExists, Corrupt
from hive_ray.state.content import ContentCodec
from hive_ray.state.store import Store


class BlobRef(msgspec.Struct, frozen=True):
    """Where a blob lies and how many bytes its content has."""

    name: str
    size: int


def blob_name(run: str, digest: str) -> str:
    """The object that holds a run's blob; runs share none, so that one can be forgotten alone."""
    return f"blobs/{run}/{digest}"


def graph_name(graph_hash: str) -> str:
    """The object that holds a graph."""
    return f"graphs/{graph_hash}"


class Blobs:
    """Blobs and graphs in a store.

    Digests are keyed, so that a name does not betray a content that somebody guesses.
    """

    def __init__(self, store: Store, codec: ContentCodec, digest_key: bytes) -> None:
        self._store = store
        self._codec = codec
        self._key = digest_key

    def put(self, run: str, data: bytes) -> BlobRef:
        """Write a blob, durable on return, unless it is there already."""
        digest = self._digest(data)
        name = blob_name(run, digest)
        self._create(name, self._codec.seal(data, (run, "blob", digest)))
        return BlobRef(name, len(data))

    def get(self, ref: BlobRef) -> bytes:
        """Read a blob; raises ``Corrupt`` if it is not what was written, ``ObjectMissing`` if it is gone."""
        _, run, digest = ref.name.split("/")
        data = self._codec.open(self._store.get(ref.name), (run, "blob", digest))
        if len(data) != ref.size or not hmac.compare_digest(self._digest(data), digest):
            raise Corrupt(ref.name, "its content does not have the digest in its name")
        return data

    def put_graph(self, graph_hash: str, data: bytes) -> None:
        """Write a graph under the hash of its content, unless it is there already."""
        self._create(graph_name(graph_hash), self._codec.seal(data, ("graph", graph_hash)))

    def get_graph(self, graph_hash: str) -> bytes:
        """Read a graph; raises ``ObjectMissing``."""
        return self._codec.open(self._store.get(graph_name(graph_hash)), ("graph", graph_hash))

    def _create(self, name: str, data: bytes) -> None:
        with suppress(AlreadyExists):
            self._store.create(name, data)

    def _digest(self, data: bytes) -> str:
        return hashlib.blake2b(data, digest_size=32, key=self._key).hexdigest()
