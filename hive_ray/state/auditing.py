"""Who did what: the events with a principal, newest first, from the history and the live end of the journal.

It reads the store itself and needs no key: what people said (reasons, answers, comments) is content, and not
in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import events as ev
from hive_ray.errors import Corrupt
from hive_ray.state import parquet
from hive_ray.state.event_rows import EventRow
from hive_ray.state.history import HistoryFile, HistoryManifest, newest_manifest
from hive_ray.state.history_reading import Vanished, open_file
from hive_ray.state.records import decode_event
from hive_ray.state.segments import Row
from hive_ray.state.sql import tail_rows
from hive_ray.state.store import Store

_TRIES = 5
_COLUMNS = (
    *("seq", "time", "kind", "run_id", "team", "agent", "node", "request_id", "reason"),
    *("principal", "body"),
)


class Act(NamedTuple):
    """One event with a principal. Times in microseconds; ``facts``: what else the event says, readable."""

    seq: int
    time_us: int
    principal: str
    kind: str
    run_id: str
    team: str
    agent: str | None
    node: str | None
    request_id: str | None
    reason: str | None
    facts: Mapping[str, Any]


class Asked(NamedTuple):
    """Which acts. Empty and 0: all."""

    team: str = ""
    principal: str = ""
    kind: str = ""
    since_us: int = 0
    until_us: int = 0
    """Not included."""
    before_seq: int = 0
    limit: int = 100

    def wants(self, act: Act) -> bool:
        """Whether an act is asked for."""
        given = ((self.team, act.team), (self.principal, act.principal), (self.kind, act.kind))
        if any(wanted and wanted != found for wanted, found in given):
            return False
        if act.time_us < self.since_us or 0 < self.until_us <= act.time_us:
            return False
        return not self.before_seq or act.seq < self.before_seq


def acts(store: Store, asked: Asked, partition: int = 0) -> list[Act]:
    """The newest acts that are asked for.

    Raises:
        Corrupt: an object is damaged.
        StoreError: the store failed.
    """
    error: Corrupt | Vanished | None = None
    manifest: HistoryManifest | None = None
    for _ in range(_TRIES):
        manifest = newest_manifest(store, partition, manifest)
        try:
            return _acts(store, manifest, asked)
        except (Corrupt, Vanished) as gone:
            # Compaction may have deleted a segment between the listing and the reading.
            error = gone
    assert error is not None
    raise error


def _acts(store: Store, manifest: HistoryManifest, asked: Asked) -> list[Act]:
    found: list[Act] = []
    for act in _newest_first(store, manifest, asked):
        if asked.wants(act):
            found.append(act)
        if len(found) == asked.limit:
            break
    return found


def _newest_first(store: Store, manifest: HistoryManifest, asked: Asked) -> Iterator[Act]:
    tail = [row for row in tail_rows(store, manifest) if row.principal]
    yield from (_of_row(row) for row in reversed(tail))
    files = [file for file in manifest.of("events") if not asked.team or file.team == asked.team]
    files.sort(key=lambda file: file.last_seq, reverse=True)
    known: list[Act] = []
    for file in files:
        # Files of several teams and days overlap: what lies behind all that are left can be told.
        known.sort(key=lambda act: act.seq)
        while known and known[-1].seq > file.last_seq:
            yield known.pop()
        if not _outside(file, asked):
            known += _of_file(store, file)
    yield from sorted(known, key=lambda act: -act.seq)


def _outside(file: HistoryFile, asked: Asked) -> bool:
    return file.newest_us < asked.since_us or 0 < asked.before_seq <= file.first_seq


def _of_file(store: Store, file: HistoryFile) -> list[Act]:
    import pyarrow.compute

    compute: Any = pyarrow.compute
    table = parquet.read_columns(file, open_file(store, file), _COLUMNS)
    lines = table.filter(compute.is_valid(table["principal"])).to_pylist()
    return [
        Act(
            line["seq"],
            _microseconds(line["time"]),
            line["principal"],
            line["kind"],
            line["run_id"],
            line["team"],
            line["agent"],
            line["node"],
            line["request_id"],
            line["reason"],
            _facts(line["seq"], line["kind"], line["body"]),
        )
        for line in lines
    ]


def _of_row(row: EventRow) -> Act:
    return Act(
        row.seq,
        row.time_us,
        row.principal or "",
        row.kind,
        row.run_id,
        row.team,
        row.agent,
        row.node,
        row.request_id,
        row.reason,
        _facts(row.seq, row.kind, row.body),
    )


def _microseconds(at: Any) -> int:
    return round(at.timestamp() * 1_000_000)


_SAID = frozenset(
    (
        *("run", "team", "agent", "principal", "writer", "request_id", "node", "reason"),
        *("digest", "key", "traceparent"),
    )
)
"""Fields that stand in an act of their own, or that mean something to the core only."""
_KEYS = (ev.ApiKeyCreated, ev.ApiKeyRolled, ev.ApiKeyRevoked)


def _facts(seq: int, kind: str, body: bytes) -> dict[str, Any]:
    """What else an event says, as JSON can say it, without what is empty or at its default."""
    event = decode_event("the journal", Row(seq, 0, "", kind, body, b""))
    if event is None:
        return {}
    told: dict[str, Any] = {"key": event.key} if isinstance(event, _KEYS) else {}
    for field in msgspec.structs.fields(event):
        value = getattr(event, field.name)
        says = value not in (field.default, "", (), None) and not isinstance(value, bytes)
        if says and field.name not in _SAID:
            told[field.name] = msgspec.to_builtins(value)
    return told
