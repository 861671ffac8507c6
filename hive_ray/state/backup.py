"""A consistent copy of a state while it is at work, and the way back from one.

What is read first and what last decides whether the copy fits together:

1. Keys: whatever older objects need is in them; a key that is erased meanwhile is still there.
2. The history's newest manifest, then the newest snapshot, then the journal's end. A snapshot is written
   when its newest event is durable, so the journal's end lies behind it. Segments behind the manifest and
   up to the end are copied; one that compaction deletes meanwhile is in a newer manifest: begin again.
3. Blobs and graphs: they are written before the events that name them.
4. Pages of keys that came meanwhile: made before they are used.

Objects are never changed once written, but for keys, so a backup into the folder of an earlier one copies
only what is new. The copy lacks the lineage's anchor: it opens read-only wherever it is restored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import msgspec

from hive_ray.errors import Conflict, Corrupt, NotFound, ObjectMissing, TooNew
from hive_ray.state import history, lineage, snapshots
from hive_ray.state.segments import segment_folder, segment_name, segment_number
from hive_ray.state.store import Store

HEAD = "backup"
FORMAT = 1
TRIES = 10
COPIERS = 8

_APART = ("keys/", "journal/", "snapshots/", "manifests/", "history/", "runs/", "probe/")
"""Folders that are not copied as they are listed."""


class Head(msgspec.Struct, frozen=True):
    """The object ``backup`` of a copy; it is complete when ``finished_us`` is set.

    Attributes:
        lineage: id of the state that was copied.
        begun_us, finished_us: wall clock, Unix microseconds; all that was acknowledged before
            ``begun_us`` is in the copy.
        last: newest segment of each partition.
        objects: how many the copy has, without this one.
    """

    lineage: str
    environment: str
    url: str
    begun_us: int
    finished_us: int = 0
    last: dict[int, int] = {}
    objects: int = 0
    format: int = FORMAT


class Copied(NamedTuple):
    """What one backup or restore did. ``objects`` and ``bytes`` are those that had to be copied."""

    head: Head
    objects: int
    bytes: int
    seconds: float


class _Moved(Exception):
    """The state changed under the copy: begin again, with what is there now."""


def backup(source: Store, target: Store, environment: str, now_us: Callable[[], int]) -> Copied:
    """Copy a state, which may be at work, to an empty place or over an earlier backup of it.

    Args:
        environment: of the state, if it is from before states knew theirs.

    Raises:
        Conflict: the target holds something else.
        Corrupt: the state cannot be copied whole; names what is missing.
        StoreError: one of the stores failed; the copy is incomplete, back up again.
    """
    begun_s = time.monotonic()
    # A state of before lineages gets one in its copy, so that the copy is read-only too.
    state = lineage.read_lineage(source) or lineage.unanchored(source, environment, now_us())
    _check_target(target, state)
    head = Head(state.identity.id, state.identity.environment, state.identity.url, now_us())
    target.put(HEAD, msgspec.json.encode(head))
    copying = _Copying(source, target)
    last = _copy_whole(copying)
    copying.put(lineage.LINEAGE, msgspec.json.encode(state))
    copying.prune()
    head = msgspec.structs.replace(head, finished_us=now_us(), last=last, objects=len(copying.names))
    target.put(HEAD, msgspec.json.encode(head))
    return Copied(head, copying.objects, copying.bytes, time.monotonic() - begun_s)


def restore(source: Store, target: Store) -> Copied:
    """Copy a complete backup to an empty place, where it opens read-only until it is adopted.

    Raises:
        NotFound: the source is no complete backup.
        Conflict: the target is not empty.
        Corrupt: an object of the backup is missing.
    """
    begun_s = time.monotonic()
    head = read_head(source)
    if head is None:
        raise NotFound(f"{source.url} is no backup: it has no object {HEAD!r}")
    if not head.finished_us:
        raise NotFound(f"{source.url} is a backup that did not come to its end: back up again")
    found = target.list("")
    if found:
        raise Conflict(f"{target.url} is not empty (it holds {found[0]}): restore to an empty place")
    names = [name for name in source.list("") if name != HEAD]
    copying = _Copying(source, target)
    copying.copy(names)
    if len(names) != head.objects:
        why = f"tells of {head.objects} objects, and {len(names)} are there"
        raise Corrupt(HEAD, why, "use another backup")
    return Copied(head, copying.objects, copying.bytes, time.monotonic() - begun_s)


def read_head(store: Store) -> Head | None:
    """What a backup says of itself; None if there is none."""
    try:
        data = store.get(HEAD)
        version = msgspec.json.decode(data, type=_Version).format
        if version > FORMAT:
            raise TooNew(HEAD, f"written by a newer release (format {version}, this one reads {FORMAT})")
        return msgspec.json.decode(data, type=Head)
    except ObjectMissing:
        return None
    except msgspec.MsgspecError as error:
        raise Corrupt(HEAD, f"no head of a backup ({error})") from error


def _check_target(target: Store, state: lineage.Lineage) -> None:
    found = target.list("")
    if not found:
        return
    head = None if lineage.ANCHOR in found else read_head(target)
    if head is None:
        raise Conflict(f"{target.url} is not empty and no backup (it holds {found[0]}): name an empty place")
    if head.url != state.identity.url or head.lineage not in ("", *_lives(state)):
        raise Conflict(f"{target.url} is a backup of another state, {head.url}: name another place")


def _lives(state: lineage.Lineage) -> list[str]:
    return [life.id for life in (*state.ancestors, state.identity)]


def _copy_whole(copying: _Copying) -> dict[int, int]:
    for _ in range(TRIES):
        copying.names.clear()
        copying.copy_keys(copying.source.list("keys/"))
        try:
            last = {p: _copy_partition(copying, p) for p in _partitions(copying.source)}
        except _Moved:
            continue
        rest = [name for name in copying.source.list("") if _is_plain(name)]
        copying.copy(rest, may_vanish=True)
        copying.copy_new_keys()
        return last
    raise Corrupt("journal/", f"changed {TRIES} times while it was copied, or a segment of it is missing",
                  "run `hive-ray state verify`, then back up again")  # fmt: skip


def _is_plain(name: str) -> bool:
    return not name.startswith(_APART) and name not in (lineage.LINEAGE, lineage.ANCHOR, HEAD)


def _partitions(source: Store) -> list[int]:
    found = {name.split("/")[1] for name in source.list("journal/")}
    return sorted(int(part) for part in found if part.isdigit())


def _copy_partition(copying: _Copying, partition: int) -> int:
    """Copy history, snapshot and journal of one partition; returns its newest segment."""
    source = copying.source
    manifest = history.newest_manifest(source, partition)
    try:
        copying.copy([file.name for file in manifest.files])
        if manifest.number:
            copying.copy([history.manifest_name(partition, manifest.number)])
        snapshot = snapshots.load_latest_manifest(source, partition)
        if snapshot is not None:
            copying.copy(list(snapshot.parts))
            copying.copy([snapshot.name])
        numbers = [n for n in map(segment_number, source.list(segment_folder(partition))) if n is not None]
        last = max(numbers, default=0)
        needed = [*manifest.epochs, *range(manifest.covered + 1, last + 1)]
        copying.copy([segment_name(partition, number) for number in needed])
    except (ObjectMissing, Corrupt) as error:
        raise _Moved from error
    if snapshot is not None and snapshot.header.segment_number > last:
        raise _Moved
    return last


class _Copying:
    """Objects on their way from one store to another; what is there already stays."""

    def __init__(self, source: Store, target: Store) -> None:
        self.source = source
        self.target = target
        self.names: set[str] = set()
        """What belongs to the copy."""
        self.objects = 0
        self.bytes = 0
        self._present = set(target.list(""))
        self._lock = threading.Lock()

    def copy(self, names: Iterable[str], may_vanish: bool = False) -> None:
        """Copy objects that never change.

        Raises:
            ObjectMissing: one is gone, unless it ``may_vanish``.
        """
        wanted = list(names)
        new = [name for name in wanted if name not in self._present]
        with ThreadPoolExecutor(COPIERS) as pool:
            there = list(pool.map(self._copy_one, new, repeat(may_vanish)))
        gone = {name for name, copied in zip(new, there, strict=True) if not copied}
        self.names.update(name for name in wanted if name not in gone)

    def _copy_one(self, name: str, may_vanish: bool) -> bool:
        try:
            data = self.source.get(name)
        except ObjectMissing:
            if may_vanish:
                return False
            raise
        self._write(name, data)
        return True

    def _write(self, name: str, data: bytes) -> None:
        # Not create-if-absent: a place for copies may lack it.
        self.target.put(name, data)
        with self._lock:
            self._present.add(name)
            self.objects += 1
            self.bytes += len(data)

    def put(self, name: str, data: bytes) -> None:
        """Write an object that may change."""
        self._write(name, data)
        self.names.add(name)

    def copy_keys(self, names: Iterable[str]) -> None:
        """Keys change: an older version is emptied when a key was erased, and so it is in the copy."""
        for name in names:
            data = self.source.get(name)
            self.names.add(name)
            if name not in self._present or self.target.get(name) != data:
                self.put(name, data)

    def copy_new_keys(self) -> None:
        """Pages that were made since; never a newer version of one that is there.

        The newer one lacks a key that was erased meanwhile, which what was copied may still need.
        """
        folders = {name.rpartition("/")[0] for name in self.names}
        found = self.source.list("keys/")
        self.copy_keys([name for name in found if name.rpartition("/")[0] not in folders])

    def prune(self) -> None:
        """Take out of the copy what does not belong to it any more."""
        self.target.delete(*sorted(self._present - self.names - {HEAD}))


class _Version(msgspec.Struct):
    format: int
