"""Looking into the history: the events of one run, its summary, and what was said of it before."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa

from hive_ray.core import events as ev
from hive_ray.errors import ObjectMissing, StoreError
from hive_ray.state import parquet
from hive_ray.state.event_rows import RunFacts, Told
from hive_ray.state.history import FileKind, HistoryFile, HistoryManifest
from hive_ray.state.records import decode_event
from hive_ray.state.segments import Row
from hive_ray.state.store import Store

_SUBMITTED = {"RunSubmitted", "RunForked"}
_ENDED = {"RunSucceeded", "RunFailed", "RunCancelled"}
_FACTS = frozenset(_SUBMITTED | _ENDED | {"NodeEntered", "StepQueued", "EdgesTaken"})
_WHOLE_BYTES = 1 << 20
"""Files up to this size are read whole: one request is cheaper than the three of a ranged read."""


class Vanished(StoreError):
    """A file that a manifest names is gone: the manifest was read too long ago. Read a newer one."""


def open_file(store: Store, file: HistoryFile) -> Any:
    """The bytes of a file, or a file that is read by ranges; raises ``Vanished``."""
    if file.size > _WHOLE_BYTES:
        return pa.PythonFile(RangedFile(store, file.name, file.size), mode="r")
    try:
        return store.get(file.name)
    except ObjectMissing as error:
        raise Vanished(f"{file.name} is gone: a newer manifest does without it") from error


class RangedFile:
    """A file object over an object, for readers that look at parts of it only."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store = store
        self._name = name
        self._size = size
        self._at = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes from here."""
        count = self._size - self._at if size < 0 else min(size, self._size - self._at)
        if count <= 0:
            return b""
        try:
            data = self._store.get_range(self._name, self._at, count)
        except ObjectMissing as error:
            raise Vanished(f"{self._name} is gone: a newer manifest does without it") from error
        self._at += count
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, counted from the start, from here or from the end."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def size(self) -> int:
        """Bytes of the whole file."""
        return self._size

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Always."""
        return True

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is held."""
        self.closed = True


def run_rows(store: Store, manifest: HistoryManifest, run: str, after_seq: int = 0) -> Iterator[Row]:
    """The journal rows of one run behind a seq, in order, as far as the history covers.

    Raises:
        Vanished: the manifest is too old.
        Corrupt: a file is damaged.
    """
    for files in _in_order(manifest.of("events", run, after_seq)):
        yield from sorted(row for file in files for row in _rows(store, file, [run]) if row.seq > after_seq)


def all_rows(store: Store, manifest: HistoryManifest) -> Iterator[Row]:
    """The journal rows of every event that the history holds, in order."""
    for files in _in_order(manifest.of("events")):
        tables = [
            parquet.read_columns(file, open_file(store, file), parquet.JOURNAL_COLUMNS) for file in files
        ]
        yield from sorted(row for table in tables for row in parquet.journal_rows(table))


def visit_nodes(store: Store, manifest: HistoryManifest, run: str) -> dict[int, str]:
    """The node of each visit of a run that began in the history, by serial number."""
    nodes: dict[int, str] = {}
    for file in manifest.of("events", run):
        columns = ("run_id", "visit", "node")
        for line in parquet.read_runs(file, open_file(store, file), [run], columns).to_pylist():
            if line["visit"] is not None and line["node"]:
                nodes[line["visit"]] = line["node"]
    return nodes


def _in_order(files: list[HistoryFile]) -> Iterator[list[HistoryFile]]:
    """Files by seq; those whose seqs overlap (the wall clock went back over midnight) together."""
    together: list[HistoryFile] = []
    until = 0
    for file in sorted(files, key=lambda file: file.first_seq):
        if together and file.first_seq > until:
            yield together
            together = []
        together.append(file)
        until = max(until, file.last_seq)
    if together:
        yield together


def summaries(store: Store, manifest: HistoryManifest, runs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The newest summary of each of some runs that has one, by column (see ``parquet.RUNS``)."""
    found: dict[str, dict[str, Any]] = {}
    for file, wanted in _files_of(manifest, "runs", sorted(runs)):
        table = parquet.read_runs(file, open_file(store, file), wanted, parquet.RUNS.names)
        for line in table.to_pylist():
            known = found.get(line["run_id"])
            if known is None or known["seq"] < line["seq"]:
                found[line["run_id"]] = line
    return found


def descendants(store: Store, manifest: HistoryManifest, run: str) -> list[str]:
    """The ended child runs of a run, at any depth, of which the history has a summary."""
    first, last = f"{run}_", f"{run}_\x7f"
    found: set[str] = set()
    for file in manifest.of("runs"):
        if file.first_run < last and file.last_run > first:
            names = parquet.read_columns(file, open_file(store, file), ["run_id"]).column("run_id")
            found.update(name for name in names.to_pylist() if name.startswith(first))
    return sorted(found)


def newest_summaries(
    store: Store, manifest: HistoryManifest, team: str = "", before: str = "", marks: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """Summaries by id, newest first, without the runs' states; files are read as they are needed.

    Args:
        team: of this team only; of all by default.
        before: ids that sort before this one only.
        marks: files without any of them need not be read (see ``HistoryFile``); others may be among the runs.
    """
    files = [
        file
        for file in manifest.of("runs")
        if (not team or file.team == team)
        and (not before or file.first_run < before)
        and file.is_marked(marks)
    ]
    files.sort(key=lambda file: file.last_run, reverse=True)
    columns = [name for name in parquet.RUNS.names if name not in parquet.HIDDEN]
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        # Days do not order ids: each is older than its run's submission, a child's begins with its root's.
        for run in sorted((run for run in found if run > file.last_run), reverse=True):
            yield found.pop(run)
        for line in parquet.read_columns(file, open_file(store, file), columns).to_pylist():
            known = found.get(line["run_id"])
            if (not before or line["run_id"] < before) and (known is None or known["seq"] < line["seq"]):
                found[line["run_id"]] = line
    yield from (found[run] for run in sorted(found, reverse=True))


def look_up(store: Store, manifest: HistoryManifest, runs: Iterable[str]) -> dict[str, RunFacts]:
    """What the history tells of runs that began in it."""
    rows: list[Row] = []
    for file, wanted in _files_of(manifest, "events", sorted(runs)):
        rows.extend(row for row in _rows(store, file, wanted) if row.kind in _FACTS)
    told = Told()
    for row in sorted(rows):
        event = decode_event("history", row)
        if isinstance(event, ev.Event):
            told.note(event)
    return {run: told.of(run) for run in runs}


def _rows(store: Store, file: HistoryFile, runs: list[str]) -> list[Row]:
    table = parquet.read_runs(file, open_file(store, file), runs, parquet.JOURNAL_COLUMNS)
    return parquet.journal_rows(table)


def _files_of(
    manifest: HistoryManifest, kind: FileKind, runs: list[str]
) -> Iterator[tuple[HistoryFile, list[str]]]:
    """The files of a kind that may hold some of the (sorted) runs, with these runs."""
    for file in manifest.of(kind):
        start = bisect.bisect_left(runs, file.first_run)
        stop = bisect.bisect_right(runs, file.last_run)
        if start < stop:
            yield file, runs[start:stop]
