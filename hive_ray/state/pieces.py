"""One piece of compaction: what it begins with, and the work from the kept snapshots to the newest manifest.

Whoever asks for it (``control.keeping``) has it done on a thread, or in another process; so what it begins
with is data, and its result the manifest.
"""

from __future__ import annotations

from functools import partial

import msgspec

from hive_ray.state import compaction
from hive_ray.state.compaction import Compactor, Stamp
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.merging import merge
from hive_ray.state.snapshots import covered_by_kept
from hive_ray.state.store import Store
from hive_ray.state.summaries import summarise


class Piece(msgspec.Struct, frozen=True):
    """What is asked for.

    Attributes:
        manifest: the newest one that is known.
        in_doubt: the piece before this one broke: its manifest may stand all the same, its segments be gone.
        tidies: earlier incarnations may have left covered segments behind.
    """

    manifest: HistoryManifest
    stamp: Stamp
    in_doubt: bool = False
    tidies: bool = False


class Pieces:
    """Compacts one partition's journal piece by piece; blocks."""

    def __init__(self, store: Store, compactor: Compactor) -> None:
        self._store = store
        self._compactor = compactor

    def compact(self, piece: Piece) -> HistoryManifest:
        """Cover more segments, delete what is covered, join small files; returns the newest manifest.

        Raises:
            StoreError: the store failed; ask again, with another stamp, and in doubt.
        """
        before = piece.manifest
        if piece.in_doubt:
            before = newest_manifest(self._store, before.partition, before)
        until = covered_by_kept(self._store, before.partition)
        manifest = before
        if until > before.covered:
            manifest = self._compactor.compact(before, until, piece.stamp)
        if manifest.covered > before.covered or piece.in_doubt or piece.tidies:
            compaction.remove_covered(self._store, manifest)
        return merge(self._store, manifest, piece.stamp)


def pieces_of(store: Store, partition: int, codec: ContentCodec) -> Pieces:
    """The work over one partition of a store."""
    return Pieces(store, Compactor(store, partition, partial(summarise, store, partition, codec)))
