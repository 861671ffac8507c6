"""What compaction has made of old segments: Parquet files, and the numbered manifests that name them.

Only a manifest says which files count, and up to which segment the journal is in them. A manifest is
created if absent under the number behind the newest one, so two writers never both succeed, and a reader
that keeps to one manifest sees one state of the history, whatever is compacted or deleted meanwhile: files
that a newer manifest no longer names stay for a grace time.

``history/date=YYYY-MM-DD/team=T/*.parquet``: one row an event, by the day (UTC) of the event.
``runs/date=YYYY-MM-DD/team=T/*.parquet``: one row an ended run, by the day it was submitted.
``manifests/{partition:04d}/{number:09d}.json.zst``: ``zstd -d`` gives JSON.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from hive_ray.errors import AlreadyExists, Corrupt, ObjectMissing, TooNew
from hive_ray.state import frames
from hive_ray.state.store import Store

FORMAT = 1
EVENTS_FOLDER = "history/"
RUNS_FOLDER = "runs/"
DEAD_LETTERED = "dead-lettered"
MANIFESTS_KEPT = 8
"""Older manifests are deleted once their successors are older than the grace time."""

FileKind = Literal["events", "runs"]


class HistoryFile(msgspec.Struct, frozen=True):
    """A Parquet file and what its rows span.

    Attributes:
        size: bytes of the file.
        first_run: smallest run id in it; ids begin with the time at which a run was submitted.
        newest_us: time of the newest event, or the newest end of a run, Unix microseconds.
        digest: BLAKE2b-128 of the file, hexadecimal.
        marks: of a file of runs, the statuses in it, and ``DEAD_LETTERED`` if one is; None where that was
            not noted.
    """

    name: str
    kind: FileKind
    date: str
    team: str
    rows: int
    size: int
    first_seq: int
    last_seq: int
    first_run: str
    last_run: str
    newest_us: int
    digest: str
    marks: tuple[str, ...] | None = None

    def may_hold(self, run: str) -> bool:
        """Whether rows of a run may be in it."""
        return self.first_run <= run <= self.last_run

    def is_marked(self, marks: Collection[str]) -> bool:
        """Whether a run with one of some marks may be in it; with no marks, any run."""
        return not marks or self.marks is None or any(mark in marks for mark in self.marks)


class Dropped(msgspec.Struct, frozen=True):
    """A file that counts no more; it is deleted a grace time after ``at_us``."""

    name: str
    at_us: int


class HistoryManifest(msgspec.Struct, frozen=True):
    """One state of the history of a partition.

    Attributes:
        number: from 1; 0 is the history before anything was compacted.
        covered: every event of the segments up to this one is in ``files`` (or was deleted by retention).
        covered_seq: seq of the last event of these segments.
        epochs: numbers of the epoch records up to ``covered``: they are never deleted.
    """

    partition: int
    number: int = 0
    epoch: int = 0
    written_us: int = 0
    covered: int = 0
    covered_seq: int = 0
    epochs: tuple[int, ...] = ()
    files: tuple[HistoryFile, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    format: int = FORMAT

    def of(self, kind: FileKind, run: str = "", after_seq: int = 0) -> list[HistoryFile]:
        """The files of one kind that may hold a run (or any) and a seq behind ``after_seq``."""
        return [
            file
            for file in self.files
            if file.kind == kind and file.last_seq > after_seq and (not run or file.may_hold(run))
        ]


class Spans:
    """Which runs some files may tell of, asked often: the files' ranges, joined."""

    def __init__(self, files: Iterable[HistoryFile]) -> None:
        self._firsts: list[str] = []
        self._lasts: list[str] = []
        for first, last in sorted((file.first_run, file.last_run) for file in files):
            if self._lasts and first <= self._lasts[-1]:
                self._lasts[-1] = max(last, self._lasts[-1])
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, run: str) -> bool:
        at = bisect_right(self._firsts, run) - 1
        return at >= 0 and run <= self._lasts[at]


def manifest_folder(partition: int) -> str:
    """The folder of one partition's manifests, with its slash."""
    return f"manifests/{partition:04d}/"


def manifest_name(partition: int, number: int) -> str:
    """The object that holds manifest ``number``."""
    return f"{manifest_folder(partition)}{number:09d}.json.zst"


def file_name(kind: FileKind, date: str, team: str, stamp: str) -> str:
    """The object of a Parquet file.

    Args:
        stamp: never used before, so that what a crash left behind is in nobody's way.
    """
    folder = EVENTS_FOLDER if kind == "events" else RUNS_FOLDER
    # Object names hold few characters; "=" cannot stand in one that is quoted.
    label = quote(team, safe="").replace("~", "%7E").replace("%", "=") or "_"
    return f"{folder}date={date}/team={label}/{stamp}.parquet"


def date_of(at_us: int) -> str:
    """The day (UTC) of a time."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d")


def digest_of(data: bytes) -> str:
    """By which a file is checked."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def newest_manifest(store: Store, partition: int, known: HistoryManifest | None = None) -> HistoryManifest:
    """Read the newest manifest; an empty one if nothing was compacted.

    Args:
        known: a manifest that was read before; it is returned if there is none behind it.

    Raises:
        Corrupt: it is damaged; an older one is never taken in its place.
    """
    for _ in range(_TRIES):
        after = manifest_name(partition, known.number) if known else ""
        names = store.list(manifest_folder(partition), after)
        if not names:
            return known or HistoryManifest(partition)
        try:
            return read_manifest(names[-1], store.get(names[-1]))
        except ObjectMissing:
            continue
    raise Corrupt(manifest_folder(partition), "its newest manifest vanishes whenever it is read")


_TRIES = 10


def read_manifest(name: str, data: bytes) -> HistoryManifest:
    """Decode a manifest; raises ``Corrupt``."""
    raw = frames.decompress(name, data)
    try:
        version = msgspec.json.decode(raw, type=_Version).format
        if version > FORMAT:
            raise TooNew(name, f"written by a newer release (format {version}, this one reads {FORMAT})")
        manifest = msgspec.json.decode(raw, type=HistoryManifest)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"no manifest of a history ({error})") from error
    if manifest_name(manifest.partition, manifest.number) != name:
        raise Corrupt(name, f"is a copy of manifest {manifest.number} of partition {manifest.partition}")
    return manifest


def create_manifest(store: Store, manifest: HistoryManifest) -> bool:
    """Create a manifest; False if somebody else's stands under its number.

    Raises:
        StoreError: unknown whether it was written; the same call again finds out.
    """
    name = manifest_name(manifest.partition, manifest.number)
    data = frames.compress(msgspec.json.encode(manifest))
    try:
        store.create(name, data)
    except AlreadyExists:
        return store.get(name) == data
    return True


def stale_manifests(names: Iterable[str], newest: HistoryManifest) -> list[str]:
    """The manifests that are too old for any reader; the newest ones stay."""
    until = manifest_name(newest.partition, max(newest.number - MANIFESTS_KEPT + 1, 0))
    return [name for name in names if name < until]


class _Version(msgspec.Struct):
    format: int
