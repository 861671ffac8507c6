"""The events of a run: the old ones out of the history, the others from the segments that its view names."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from hive_ray.control.views import RunView
from hive_ray.core import events as ev
from hive_ray.errors import ObjectMissing
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.history_reading import Vanished, run_rows, visit_nodes
from hive_ray.state.records import Recorded, decode_event, read_row
from hive_ray.state.segments import Row, Segment, decode_segment, segment_name
from hive_ray.state.store import Store
from serve import shapes

SEGMENTS_KEPT = 512
PAGE = 500
_TRIES = 5


class History:
    """Reads segments once; those of many runs are the same."""

    def __init__(self, store: Store, codec: ContentCodec, partition: int = 0) -> None:
        self._store = store
        self._codec = codec
        self._partition = partition
        self._manifest = HistoryManifest(partition)
        self._kept: OrderedDict[int, Segment] = OrderedDict()
        self._lock = threading.Lock()

    async def events(self, view: RunView, after_seq: int, limit: int = PAGE) -> list[dict[str, Any]]:
        """Events behind ``after_seq``, in order, at most ``limit``."""
        return await asyncio.to_thread(self._read, view, after_seq, limit)

    def _read(self, view: RunView, after_seq: int, limit: int) -> list[dict[str, Any]]:
        manifest = self._manifest
        if manifest.covered < view.compacted:
            manifest = self._newer(manifest)
        for _ in range(_TRIES):
            try:
                return self._page(manifest, view, after_seq, limit)
            except Vanished:
                # Compacted since the view was made: a newer manifest tells where it is now.
                manifest = self._newer(manifest)
        return self._page(manifest, view, after_seq, limit)

    def _newer(self, manifest: HistoryManifest) -> HistoryManifest:
        self._manifest = found = newest_manifest(self._store, self._partition, manifest)
        return found

    def _page(
        self, manifest: HistoryManifest, view: RunView, after_seq: int, limit: int
    ) -> list[dict[str, Any]]:
        # Visits are named by the event that entered them, which may lie before this page.
        names = Names()
        found: list[dict[str, Any]] = []
        for recorded in self._recorded(manifest, view, after_seq):
            names.note(recorded.event)
            if recorded.seq > after_seq:
                found.append(shapes.event(recorded, names))
            if len(found) >= limit:
                break
        self._name_earlier(manifest, view, found, names)
        return found

    def _recorded(self, manifest: HistoryManifest, view: RunView, after_seq: int) -> Iterator[Recorded]:
        """Events of a run in order, those of its first page perhaps with some before it."""
        for row in run_rows(self._store, manifest, view.run_id, after_seq):
            yield from self._decoded("history", row)
        numbers = [number for number in view.segments if number > manifest.covered]
        for number in numbers[self._first(numbers, after_seq) :]:
            segment = self._segment(number)
            for row in segment.columns.rows():
                if row.run == view.run_id:
                    yield from self._decoded(segment.name, row)

    def _decoded(self, name: str, row: Row) -> Iterator[Recorded]:
        recorded = read_row(name, row, self._codec)
        if recorded is not None:
            yield recorded

    def _first(self, numbers: Sequence[int], after_seq: int) -> int:
        """Position of the last segment that may begin at or before ``after_seq + 1``."""
        at = bisect_right(numbers, after_seq + 1, key=lambda number: self._segment(number).header.first_seq)
        return max(at - 1, 0)

    def _name_earlier(
        self, manifest: HistoryManifest, view: RunView, found: list[dict[str, Any]], names: Names
    ) -> None:
        unnamed = {e["serial"] for e in found if not e["node"] and "serial" in e} - set(names)
        for number in reversed([number for number in view.segments if number > manifest.covered]):
            if not unnamed:
                break
            for event in self._entered(view.run_id, number):
                names.note(event)
            unnamed -= set(names)
        if unnamed:
            names.update(visit_nodes(self._store, manifest, view.run_id))
        for event in found:
            event["node"] = event["node"] or names.get(event.get("serial", -1), "")

    def _entered(self, run_id: str, number: int) -> Iterator[ev.Event]:
        """The events that name visits."""
        segment = self._segment(number)
        for row in segment.columns.rows():
            if row.run == run_id and row.kind in ("NodeEntered", "RunForked"):
                event = decode_event(segment.name, row)
                if event is not None:
                    yield event

    def _segment(self, number: int) -> Segment:
        with self._lock:
            kept = self._kept.get(number)
            if kept is not None:
                self._kept.move_to_end(number)
                return kept
        name = segment_name(self._partition, number)
        try:
            segment = decode_segment(name, self._store.get(name))
        except ObjectMissing as error:
            raise Vanished(f"{name} is gone: its events can no longer be read") from error
        with self._lock:
            self._kept[number] = segment
            if len(self._kept) > SEGMENTS_KEPT:
                self._kept.popitem(last=False)
        return segment


class Names(dict[int, str]):
    """Serial number of a visit to its node's id."""

    def note(self, event: ev.Event) -> None:
        """An event that enters a visit names it; a fork names those that it takes over."""
        if isinstance(event, ev.NodeEntered):
            self[event.serial] = event.node_id
        elif isinstance(event, ev.RunForked):
            self.update(zip(event.origin.serials, event.origin.again, strict=True))
