"""What each attempt was charged, read from the journal: its ends, late outcomes, and corrections.

An attempt whose end nobody saw is charged its reservation, the worst case; it is *unseen* until a late
outcome or a correction tells what it did cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from hive_ray.core import events as ev
from hive_ray.state.history import newest_manifest
from hive_ray.state.history_reading import Vanished, open_file
from hive_ray.state.journal import Journal
from hive_ray.state.parquet import JOURNAL_COLUMNS, journal_rows, read_columns
from hive_ray.state.records import decode_event
from hive_ray.state.segments import Row
from hive_ray.state.store import Store

_TRIES = 5

CallRef = tuple[str, int, int]
"""(run, serial, call)."""


class Charge(msgspec.Struct):
    """What one attempt was charged.

    Attributes:
        name: function, tool or model.
        at_us: when its end became known, Unix microseconds.
        request_id: of its run.
        nanousd: all in all, corrections included.
    """

    run: str
    serial: int
    call: int
    attempt: int
    name: str
    at_us: int
    request_id: str = ""
    nanousd: int = 0
    unseen: bool = False

    @property
    def key(self) -> str:
        """``serial.call.attempt``, as corrections name it."""
        return f"{self.serial}.{self.call}.{self.attempt}"


def charges(store: Store, partition: int = 0) -> list[Charge]:
    """Every attempt that has ended, in order of its end.

    Raises:
        Corrupt: an object is damaged or missing; it is named.
    """
    for _ in range(_TRIES):
        try:
            return _Ledger(_events(store, partition)).charges()
        except Vanished:
            continue
    raise Vanished(f"{store.url}: the history is rewritten faster than it can be read")


def _events(store: Store, partition: int) -> Iterator[tuple[int, ev.Event]]:
    """(time, event) in order of seq: the history, then what the journal has behind it."""
    manifest = newest_manifest(store, partition)
    rows: list[tuple[str, Row]] = []
    for file in manifest.of("events"):
        table = read_columns(file, open_file(store, file), JOURNAL_COLUMNS)
        rows.extend((file.name, row) for row in journal_rows(table) if row.kind in _KINDS)
    for name, row in sorted(rows, key=lambda named: named[1].seq):
        yield from _decoded(name, row)
    for segment in Journal(store, partition).read_segments(manifest.covered + 1):
        for row in segment.columns.rows():
            if row.kind in _KINDS:
                yield from _decoded(segment.name, row)


def _decoded(name: str, row: Row) -> Iterator[tuple[int, ev.Event]]:
    event = decode_event(name, row)
    if event is not None:
        yield row.time_us, event


class _Ledger:
    def __init__(self, events: Iterable[tuple[int, ev.Event]]) -> None:
        self._requests: dict[str, str] = {}
        self._names: dict[CallRef, str] = {}
        self._charges: dict[tuple[str, int, int, int], Charge] = {}
        for at_us, event in events:
            self._take(at_us, event)

    def charges(self) -> list[Charge]:
        return list(self._charges.values())

    def _take(self, at_us: int, event: Any) -> None:
        match event:
            case ev.RunSubmitted() | ev.RunForked():
                self._requests[event.run] = event.request_id
            case ev.NodeEntered():
                self._names[event.run, event.serial, 0] = event.name
            case ev.StepQueued():
                self._names[event.run, event.serial, event.call] = event.name
            case ev.StepSucceeded() | ev.StepFailed() | ev.LateOutcome() | ev.CostCorrected():
                self._charge(at_us, event)
            case _:
                pass

    def _charge(
        self, at_us: int, event: ev.StepSucceeded | ev.StepFailed | ev.LateOutcome | ev.CostCorrected
    ) -> None:
        key = (event.run, event.serial, event.call, event.attempt)
        charge = self._charges.get(key)
        if charge is None:
            name = getattr(event, "name", "") or self._names.get(key[:3], "")
            charge = self._charges[key] = Charge(*key, name, at_us, self._requests.get(event.run, ""))
        charge.nanousd += event.cost_nanousd
        if not isinstance(event, ev.StepSucceeded) or not event.resolved_by:
            charge.unseen = getattr(event, "unseen", False)


_KINDS = frozenset(
    (
        "RunSubmitted",
        "RunForked",
        "NodeEntered",
        "StepQueued",
        "StepSucceeded",
        "StepFailed",
        "LateOutcome",
        "CostCorrected",
    )
)
