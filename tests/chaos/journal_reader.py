"""Reads a journal from outside, as the store shows it: what was decided, by whom, and what was under way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hive_ray.core.events import NOTHING
from hive_ray.state.content import ContentCodec
from hive_ray.state.journal import Journal
from hive_ray.state.owner import Owner
from hive_ray.state.records import Recorded, decode_event, read_row
from hive_ray.state.segments import Row, decode_segment, segment_name
from hive_ray.state.store import Store

Attempt = tuple[str, int, int, int]
ENDS = ("StepSucceeded", "StepFailed", "LeaseReturned", "LateOutcome")


@dataclass
class Epoch:
    """One incarnation as the journal shows it."""

    number: int
    epoch: int
    pid: int
    under_way: int
    """Attempts leased and not ended when it began."""
    segments: int = 0
    """Segments of events that it wrote."""


@dataclass
class History:
    epochs: list[Epoch] = field(default_factory=list)
    events: list[Recorded] = field(default_factory=list)

    def ends(self, runs: Collection[str] = ()) -> Counter[str]:
        """How runs ended (all of them, or those named), by event kind."""
        kinds = ("RunSucceeded", "RunFailed", "RunCancelled")
        events = [r.event for r in self.events if not runs or r.event.run in runs]
        return Counter(type(event).__name__ for event in events if type(event).__name__ in kinds)

    def attempts(self) -> dict[tuple[str, int, int], int]:
        """Highest attempt of each step."""
        highest: dict[tuple[str, int, int], int] = defaultdict(int)
        for recorded in self.events:
            event = recorded.event
            if type(event).__name__ == "StepStarted":
                key = (event.run, event.serial, event.call)  # type: ignore[attr-defined]
                highest[key] = max(highest[key], event.attempt)  # type: ignore[attr-defined]
        return highest


def read_history(store: Store, partition: int = 0, codec: ContentCodec | None = None) -> History:
    """The whole journal of a partition; content only with a codec that opens it."""
    history = History()
    under_way: set[Attempt] = set()
    for segment in Journal(store, partition).read_segments():
        header = segment.header
        if header.kind == "epoch":
            owner = msgspec.msgpack.decode(segment.columns.body[0], type=Owner)
            history.epochs.append(Epoch(header.number, header.epoch, owner.pid, len(under_way)))
            continue
        history.epochs[-1].segments += 1
        for row in segment.columns.rows():
            recorded = _read(segment.name, row, codec)
            assert recorded is not None
            history.events.append(recorded)
            _count(under_way, recorded)
    return history


def track(under_way: set[Attempt], store: Store, number: int, partition: int = 0) -> None:
    """Bring the attempts under way up to segment ``number``."""
    name = segment_name(partition, number)
    segment = decode_segment(name, store.get(name))
    for row in segment.columns.rows():
        recorded = _read(name, row, None)
        if recorded is not None:
            _count(under_way, recorded)


def _read(name: str, row: Row, codec: ContentCodec | None) -> Recorded | None:
    if codec is not None:
        return read_row(name, row, codec)
    event = decode_event(name, row)
    return None if event is None else Recorded(row.seq, row.time_us, event, NOTHING)


def _count(under_way: set[Attempt], recorded: Recorded) -> None:
    event = recorded.event
    kind = type(event).__name__
    if kind == "StepStarted":
        under_way.add(_attempt(event))
    elif kind in ENDS:
        under_way.discard(_attempt(event))


def _attempt(event: Any) -> Attempt:
    return event.run, event.serial, event.call, event.attempt


def owner_at(store: Store, number: int, partition: int = 0) -> Owner | None:
    """Who claimed with segment ``number``; None if it is not an epoch record."""
    name = segment_name(partition, number)
    segment = decode_segment(name, store.get(name))
    if segment.header.kind != "epoch":
        return None
    return msgspec.msgpack.decode(segment.columns.body[0], type=Owner)
