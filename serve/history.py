"""The events of a run, read from the segments that its view names."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from hive_ray.control.views import RunView
from hive_ray.core import events as ev
from hive_ray.errors import ObjectMissing, StoreError
from hive_ray.state.content import ContentCodec
from hive_ray.state.records import read_row
from hive_ray.state.segments import Segment, decode_segment, segment_name
from hive_ray.state.store import Store
from serve import shapes

SEGMENTS_KEPT = 512
PAGE = 500


class History:
    """Reads segments once; those of many runs are the same."""

    def __init__(self, store: Store, codec: ContentCodec, partition: int = 0) -> None:
        self._store = store
        self._codec = codec
        self._partition = partition
        self._kept: OrderedDict[int, Segment] = OrderedDict()
        self._lock = threading.Lock()

    async def events(self, view: RunView, after_seq: int, limit: int = PAGE) -> list[dict[str, Any]]:
        """Events behind ``after_seq``, in order, at most about ``limit``."""
        return await asyncio.to_thread(self._read, view, after_seq, limit)

    def _read(self, view: RunView, after_seq: int, limit: int) -> list[dict[str, Any]]:
        numbers = view.segments
        # Visits are named by the event that entered them, which may lie in an earlier segment.
        names = _Names()
        found: list[dict[str, Any]] = []
        for number in numbers[self._first(numbers, after_seq) :]:
            segment = self._segment(number)
            for row in segment.columns.rows():
                if row.run != view.run_id:
                    continue
                recorded = read_row(segment.name, row, self._codec)
                if recorded is None:
                    continue
                if isinstance(recorded.event, ev.NodeEntered):
                    names[recorded.event.serial] = recorded.event.node_id
                if row.seq > after_seq:
                    found.append(shapes.event(recorded, names))
            if len(found) >= limit:
                break
        self._name_earlier(view, found, names)
        return found[:limit]

    def _first(self, numbers: Sequence[int], after_seq: int) -> int:
        """Position of the last segment that may begin at or before ``after_seq + 1``."""
        at = bisect_right(numbers, after_seq + 1, key=lambda number: self._segment(number).header.first_seq)
        return max(at - 1, 0)

    def _name_earlier(self, view: RunView, found: list[dict[str, Any]], names: dict[int, str]) -> None:
        unnamed = {e["serial"] for e in found if not e["node"] and "serial" in e} - set(names)
        for number in reversed(view.segments):
            if not unnamed:
                break
            segment = self._segment(number)
            for row in segment.columns.rows():
                if row.run == view.run_id and row.kind == "NodeEntered":
                    recorded = read_row(segment.name, row, self._codec)
                    if recorded is not None and isinstance(recorded.event, ev.NodeEntered):
                        names[recorded.event.serial] = recorded.event.node_id
                        unnamed.discard(recorded.event.serial)
        for event in found:
            event["node"] = event["node"] or names.get(event.get("serial", -1), "")

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
            raise StoreError(f"{name} is gone: its events can no longer be read") from error
        with self._lock:
            self._kept[number] = segment
            if len(self._kept) > SEGMENTS_KEPT:
                self._kept.popitem(last=False)
        return segment


class _Names(dict[int, str]):
    """Serial number of a visit to its node's id."""
