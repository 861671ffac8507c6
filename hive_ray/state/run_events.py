"""Events in order, wherever they lie, in the history or in the journal: of one run, or all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hive_ray.core.events import MapProgressed, RunForked, RunSubmitted
from hive_ray.errors import Conflict, Corrupt, StoreError
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.history_reading import Vanished, all_rows, run_rows
from hive_ray.state.journal import Journal
from hive_ray.state.reading import read_listed
from hive_ray.state.records import Recorded, decode_event, read_row
from hive_ray.state.segments import Row, Segment, decode_segment, segment_name
from hive_ray.state.store import Store

_TRIES = 5
"""Compaction may delete what was about to be read; a newer manifest then tells where it is."""


def whole(run: str, events: list[Recorded]) -> list[Recorded]:
    """The events of a run, if its first one is among them.

    Raises:
        Conflict: retention has dropped the days in which the run began.
    """
    if any(isinstance(told.event, (RunSubmitted, RunForked)) and told.event.run == run for told in events):
        return events
    raise Conflict(
        f"the events with which run {run} began are deleted (retention in hive.yaml): its state cannot be "
        "derived from what is left; submit it anew, or keep history for longer"
    )


def every_row(store: Store, partition: int) -> Iterator[Row]:
    """The rows of all events of a partition in order; of a state in which nobody compacts meanwhile.

    Raises:
        Corrupt: an object cannot be trusted, or is missing.
    """
    manifest = newest_manifest(store, partition)
    yield from all_rows(store, manifest)
    for segment in Journal(store, partition).read_segments(manifest.covered + 1):
        if segment.header.kind == "events":
            yield from segment.columns.rows()


class RunEvents:
    """Reads the events of runs of one partition; blocks."""

    def __init__(self, store: Store, codec: ContentCodec, partition: int) -> None:
        self._store = store
        self._codec = codec
        self._partition = partition

    def read(self, run: str, after_seq: int = 0, segments: Sequence[int] | None = None) -> Iterator[Recorded]:
        """Yield the events of a run behind ``after_seq``, in order.

        Args:
            segments: numbers of the segments with its events that are not in the history yet, if the
                caller knows them; else the whole journal behind the history is read.

        Raises:
            Corrupt: an object cannot be trusted, or an event is missing.
        """
        name = f"events of {run}"
        for row in self._rows(run, after_seq, segments):
            recorded = read_row(name, row, self._codec)
            if recorded is not None:
                yield recorded

    def read_family(self, run: str) -> list[Recorded]:
        """The events of a run and of all that descend from it, in order; reads the whole journal.

        Raises:
            Corrupt: an object cannot be trusted.
        """
        name = f"events of {run}"
        rows = self._retried(lambda manifest: self._family_rows(run, manifest))
        found = (read_row(name, row, self._codec) for row in rows)
        return [recorded for recorded in found if recorded is not None]

    def _family_rows(self, run: str, manifest: HistoryManifest) -> list[Row]:
        """A child's events lie behind the one that names it, so one pass over the journal finds them all."""
        family = {run: None}
        rows: list[Row] = []
        waiting = [run]
        while waiting:
            own = list(run_rows(self._store, manifest, waiting.pop()))
            rows.extend(own)
            born = [child for row in own for child in _children(row)]
            family.update(dict.fromkeys(born))
            waiting.extend(born)
        for segment in self._segments(manifest.covered, None):
            for row in segment.columns.rows():
                if row.run in family:
                    rows.append(row)
                    family.update(dict.fromkeys(_children(row)))
        return sorted(rows)

    def _rows(self, run: str, after_seq: int, segments: Sequence[int] | None) -> list[Row]:
        def read(manifest: HistoryManifest) -> list[Row]:
            rows = list(run_rows(self._store, manifest, run, after_seq))
            rows.extend(self._tail(run, after_seq, manifest.covered, segments))
            return rows

        return self._retried(read)

    def _retried(self, read: Callable[[HistoryManifest], list[Row]]) -> list[Row]:
        manifest: HistoryManifest | None = None
        error: StoreError | None = None
        for _ in range(_TRIES):
            manifest = newest_manifest(self._store, self._partition, manifest)
            try:
                return read(manifest)
            except (Vanished, Corrupt) as gone:
                error = gone
        assert error is not None
        raise error

    def _tail(self, run: str, after_seq: int, covered: int, segments: Sequence[int] | None) -> Iterator[Row]:
        for segment in self._segments(covered, segments):
            for row in segment.columns.rows():
                if row.run == run and row.seq > after_seq:
                    yield row

    def _segments(self, covered: int, segments: Sequence[int] | None) -> Iterator[Segment]:
        if segments is None:
            yield from Journal(self._store, self._partition).read_segments(covered + 1)
            return
        for number in segments:
            if number > covered:
                name = segment_name(self._partition, number)
                yield decode_segment(name, read_listed(self._store, name))


def _children(row: Row) -> tuple[str, ...]:
    """Runs that an event starts."""
    event = decode_event("a run's events", row) if row.kind == MapProgressed.__name__ else None
    return event.children if isinstance(event, MapProgressed) else ()
