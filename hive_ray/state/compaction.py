"""Old segments become history: read, write Parquet, name it in a manifest, and only then delete.

Each step may be the last before a crash. Files that no manifest names are never read, and their names are
not used again; a manifest is created if absent; segments are deleted once the manifest that covers them is
durable, and whoever comes later deletes what was left. Epoch records stay for ever: fencing rests on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from hive_ray.errors import StoreError
from hive_ray.state import parquet
from hive_ray.state.event_rows import EventRow, Told, event_row
from hive_ray.state.history import (
    EVENTS_FOLDER,
    RUNS_FOLDER,
    Dropped,
    FileKind,
    HistoryFile,
    HistoryManifest,
    create_manifest,
    date_of,
    file_name,
    manifest_folder,
    newest_manifest,
    stale_manifests,
)
from hive_ray.state.history_reading import look_up
from hive_ray.state.journal import Journal
from hive_ray.state.parquet import RunRow
from hive_ray.state.segments import Segment, segment_folder, segment_number
from hive_ray.state.store import Store

MOST_SEGMENTS = 1_000
MOST_ROWS = 50_000
"""Bounds of one compaction; what lies behind waits for the next."""

_DAY_US = 86_400_000_000

Summarise = Callable[[Sequence[str]], list[RunRow]]
"""The rows of those among some runs that have ended, as the newest snapshot has them."""


class Batch(NamedTuple):
    """A stretch of journal, read."""

    covered: int
    covered_seq: int
    epochs: tuple[int, ...]
    rows: list[EventRow]
    ended: list[str]
    """Runs that ended by then and have events here: their summaries are new."""


class Stamp(NamedTuple):
    """Who writes, and the how-manyth try of this incarnation it is."""

    epoch: int
    attempt: int
    now_us: int

    def of_next(self, manifest: HistoryManifest) -> str:
        """How the names of files begin that are made for the manifest behind this one."""
        number = manifest.number + 1
        return f"{manifest.partition:04d}-{number:09d}-{self.epoch:06d}-{self.attempt:06d}"


class Compactor:
    """Compacts one partition's journal, a bounded stretch at a time; blocks.

    Args:
        summarise: see ``Summarise``.
    """

    def __init__(self, store: Store, partition: int, summarise: Summarise) -> None:
        self._store = store
        self._partition = partition
        self._summarise = summarise
        self._told: Told | None = None
        self._told_until = 0
        """``_told`` knows what the segments up to this one say."""

    def compact(self, manifest: HistoryManifest, until: int, stamp: Stamp) -> HistoryManifest:
        """Cover more segments, at most up to ``until``; returns the newest manifest.

        Args:
            manifest: the newest one that is known.
            until: a segment behind which both kept snapshots lie.

        Raises:
            StoreError: the store failed; compact again, with another ``stamp``.
        """
        told, self._told = self._told, None
        if told is None or self._told_until != manifest.covered:
            told = Told()
        # Runs that were forgotten meanwhile are looked up where they are by now.
        told.look_up = partial(look_up, self._store, manifest)
        batch = self._read(manifest, until, told)
        if batch is None:
            self._told, self._told_until = told, manifest.covered
            return manifest
        files = self._write(batch, manifest, stamp)
        following = msgspec.structs.replace(
            manifest,
            number=manifest.number + 1,
            epoch=stamp.epoch,
            written_us=stamp.now_us,
            covered=batch.covered,
            covered_seq=batch.covered_seq,
            epochs=(*manifest.epochs, *batch.epochs),
            files=(*manifest.files, *files),
        )
        if not create_manifest(self._store, following):
            # Another controller is at work; its manifest is as good as this one.
            return newest_manifest(self._store, self._partition, manifest)
        told.trim()
        self._told, self._told_until = told, following.covered
        return following

    def _read(self, manifest: HistoryManifest, until: int, told: Told) -> Batch | None:
        first = manifest.covered + 1
        last = min(until, manifest.covered + MOST_SEGMENTS)
        segments: list[Segment] = []
        rows = 0
        for segment in Journal(self._store, self._partition).read_segments(first, last):
            segments.append(segment)
            rows += len(segment.columns.seq)
            if rows >= MOST_ROWS:
                break
        return _batch(self._partition, segments, told) if segments else None

    def _write(self, batch: Batch, manifest: HistoryManifest, stamp: Stamp) -> list[HistoryFile]:
        made: list[tuple[FileKind, str, str, Any]] = []
        for (day, team), rows in _by(batch.rows, lambda row: (row.time_us // _DAY_US, row.team)):
            date = date_of(day * _DAY_US)
            made.append(("events", date, team, parquet.events_table(rows, date)))
        for (date, team), rows in _by(self._summarise(batch.ended), lambda row: (row.date, row.team)):
            made.append(("runs", date, team, parquet.runs_table(rows)))
        prefix = stamp.of_next(manifest)
        return [
            write_file(self._store, kind, date, team, f"{prefix}-{index:04d}", table)
            for index, (kind, date, team, table) in enumerate(made)
        ]


def write_file(store: Store, kind: FileKind, date: str, team: str, stamp: str, table: Any) -> HistoryFile:
    """Create one Parquet file; ``stamp`` makes its name."""
    file, data = parquet.encode_file(file_name(kind, date, team, stamp), kind, date, team, table)
    store.create(file.name, data)
    return file


def remove_covered(store: Store, manifest: HistoryManifest) -> int:
    """Delete the segments that the history holds, and return how many; epoch records stay."""
    epochs = set(manifest.epochs)
    covered: list[str] = []
    for name in store.list(segment_folder(manifest.partition)):
        number = segment_number(name)
        if number is not None and number > manifest.covered:
            break
        if number is not None and number not in epochs:
            covered.append(name)
    store.delete(*covered)
    return len(covered)


def remove_dropped(store: Store, manifest: HistoryManifest, before_us: int) -> HistoryManifest:
    """Delete the files that were dropped before a time, and the manifests that nobody reads any more.

    The manifest that is returned names them no more; it becomes durable with the next one that is created.
    """
    due = [dropped for dropped in manifest.dropped if dropped.at_us < before_us]
    store.delete(*(dropped.name for dropped in due))
    store.delete(*stale_manifests(store.list(manifest_folder(manifest.partition)), manifest))
    left = tuple(dropped for dropped in manifest.dropped if dropped.at_us >= before_us)
    return msgspec.structs.replace(manifest, dropped=left)


def remove_strays(store: Store, manifest: HistoryManifest) -> int:
    """Delete files that a crash left behind before a manifest named them; returns how many."""
    named = {file.name for file in manifest.files} | {dropped.name for dropped in manifest.dropped}
    strays: list[str] = []
    for folder in (EVENTS_FOLDER, RUNS_FOLDER):
        for name in store.list(folder):
            made_for = _made_for(name)
            # One made for a later manifest may be another controller's, about to be named.
            mine = made_for.partition == manifest.partition and made_for.number <= manifest.number
            if mine and name not in named:
                strays.append(name)
    store.delete(*strays)
    return len(strays)


def drop(files: Iterable[HistoryFile], at_us: int) -> tuple[Dropped, ...]:
    """Mark files as not counting any more."""
    return tuple(Dropped(file.name, at_us) for file in files)


def _made_for(name: str) -> _MadeFor:
    first, second, *_ = [*name.rpartition("/")[2].split("-"), ""]
    if not first.isdigit() or not (second.isdigit() or len(first) == _NUMBER_DIGITS):
        raise StoreError(f"{name}: no file of this history; move it out of the state")
    # Before there were partitions in names, they began with the number.
    return _MadeFor(0, int(first)) if len(first) == _NUMBER_DIGITS else _MadeFor(int(first), int(second))


class _MadeFor(NamedTuple):
    """For which manifest a file was made."""

    partition: int
    number: int


_NUMBER_DIGITS = 9


def _batch(partition: int, segments: list[Segment], told: Told) -> Batch:
    read = [(segment.name, list(segment.columns.rows())) for segment in segments]
    told.prepare([row for _, inside in read for row in inside])
    rows: list[EventRow] = []
    for name, inside in read:
        for row in inside:
            wide = event_row(partition, row, told, name)
            if wide is not None:
                rows.append(wide)
    last = segments[-1]
    epochs = tuple(s.header.number for s in segments if s.header.kind == "epoch")
    ended = sorted(run for run in {row.run_id for row in rows} if told.ended(run))
    return Batch(last.header.number, last.next_seq - 1, epochs, rows, ended)


def _by(
    rows: Iterable[Any], key: Callable[[Any], tuple[Any, str]]
) -> list[tuple[tuple[Any, str], list[Any]]]:
    groups: dict[tuple[Any, str], list[Any]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return sorted(groups.items())
