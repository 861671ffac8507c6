"""The Parquet files of the history: their columns, writing them, and reading one run out of one.

Rows of a file of events: one event, ordered by run and seq, so that the statistics of a row group (8,192
rows) tell whether a run is in it. Rows of a file of runs: one ended run, ordered by id. Nothing but
Parquet is needed to read them; ``body`` and ``content`` are the journal's msgpack, the content sealed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from datetime import date as Date
from io import BytesIO
from typing import Any, NamedTuple, cast

import pyarrow as pa

from hive_ray.errors import Corrupt
from hive_ray.state.event_rows import EventRow
from hive_ray.state.history import DEAD_LETTERED, HistoryFile, digest_of
from hive_ray.state.segments import Row

GROUP_ROWS = 8_192

_USD = pa.decimal128(18, 9)
_TIME = pa.timestamp("us", "UTC")

EVENTS = pa.schema(
    [
        ("seq", pa.int64()),
        ("time", _TIME),
        ("date", pa.date32()),
        ("partition", pa.int32()),
        ("kind", pa.string()),
        ("run_id", pa.string()),
        ("team", pa.string()),
        ("request_id", pa.string()),
        ("agent", pa.string()),
        ("graph", pa.string()),
        ("graph_version", pa.string()),
        ("node", pa.string()),
        ("visit", pa.int32()),
        ("call", pa.int32()),
        ("attempt", pa.int32()),
        ("pool", pa.string()),
        ("name", pa.string()),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
        ("tokens_cached", pa.int64()),
        ("cost_usd", _USD),
        ("duration_us", pa.int64()),
        ("failure_kind", pa.string()),
        ("reason", pa.string()),
        ("principal", pa.string()),
        ("trace_id", pa.string()),
        ("body", pa.binary()),
        ("content", pa.binary()),
    ]
)
RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("seq", pa.int64()),
        ("date", pa.date32()),
        ("team", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("agent", pa.string()),
        ("graph", pa.string()),
        ("graph_version", pa.string()),
        ("request_id", pa.string()),
        ("submitted", _TIME),
        ("finished", _TIME),
        ("budget_usd", _USD),
        ("cost_usd", _USD),
        ("attempts", pa.int64()),
        ("visits", pa.int64()),
        ("failure_kind", pa.string()),
        ("failed_at", pa.string()),
        ("dead_lettered", pa.bool_()),
        ("parent", pa.string()),
        ("principal", pa.string()),
        ("trace_id", pa.string()),
        ("state", pa.binary()),
    ]
)
HIDDEN = frozenset({"body", "content", "state"})
"""Columns that people do not query."""

_KEYS = {"events": ("run_id", "seq"), "runs": ("run_id", "seq")}
_PLAIN = (
    "seq",
    "time",
    "visit",
    "tokens_in",
    "tokens_out",
    "cost_usd",
    "duration_us",
    "submitted",
    "finished",
)


class RunRow(NamedTuple):
    """One ended run. ``state``: its sealed state, as a snapshot holds it; the rest is readable."""

    run_id: str
    seq: int
    date: str
    team: str
    status: str
    reason: str | None
    agent: str
    graph: str
    graph_version: str
    request_id: str
    submitted_us: int
    finished_us: int
    budget_nanousd: int | None
    cost_nanousd: int
    attempts: int
    visits: int
    failure_kind: str | None
    failed_at: str | None
    dead_lettered: bool
    parent: str | None
    principal: str | None
    trace_id: str | None
    state: bytes


def events_table(rows: Sequence[EventRow], date: str | None = None) -> Any:
    """A table of events; ``date`` if all are of one day."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(EventRow._fields)
    time_us = columns[1]
    days = [Date.fromisoformat(date)] * len(rows) if date else [_day(at_us) for at_us in time_us]
    columns.insert(2, days)
    return _table(EVENTS, columns)


def runs_table(rows: Sequence[RunRow]) -> Any:
    """A table of ended runs."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(RunRow._fields)
    columns[2] = [Date.fromisoformat(text) for text in columns[2]]
    return _table(RUNS, columns)


def encode_file(name: str, kind: Any, date: str, team: str, table: Any) -> tuple[HistoryFile, bytes]:
    """Sort a table and make its file."""
    pq = _parquet()
    ordered = table.sort_by([(key, "ascending") for key in _KEYS[kind]])
    sink = BytesIO()
    columns: Any = ordered.schema.names
    pq.write_table(
        ordered,
        sink,
        row_group_size=GROUP_ROWS,
        compression="zstd",
        use_dictionary=cast(Any, [column for column in columns if column not in (*_PLAIN, *HIDDEN)]),
        write_statistics=cast(Any, [column for column in columns if column not in HIDDEN]),
        write_page_index=True,
    )
    data = sink.getvalue()
    runs, seqs = ordered.column("run_id"), ordered.column("seq").to_pylist()
    newest = ordered.column("time" if kind == "events" else "finished").cast(pa.int64()).to_pylist()
    file = HistoryFile(
        name, kind, date, team, ordered.num_rows, len(data), min(seqs), max(seqs),
        runs[0].as_py(), runs[-1].as_py(), max(newest), digest_of(data),
        _marks(ordered) if kind == "runs" else None,
    )  # fmt: skip
    return file, data


def _marks(runs: Any) -> tuple[str, ...]:
    statuses = sorted(runs.column("status").unique().to_pylist())
    return (*statuses, *((DEAD_LETTERED,) if True in runs.column("dead_lettered").to_pylist() else ()))


def read_columns(file: HistoryFile, data: Any, columns: Sequence[str] | None = None) -> Any:
    """Read whole columns of a file; raises ``Corrupt``."""
    pq = _parquet()
    try:
        return pq.ParquetFile(_source(data)).read(columns=cast(Any, columns), use_threads=False)
    except pa.ArrowException as error:
        raise Corrupt(file.name, f"no Parquet file of a history ({error})") from error


def run_ids(name: str, data: bytes) -> list[str]:
    """The runs that a file tells of; raises ``Corrupt``."""
    try:
        table = _parquet().ParquetFile(_source(data)).read(columns=["run_id"], use_threads=False)
    except pa.ArrowException as error:
        raise Corrupt(name, f"no Parquet file of a history ({error})") from error
    return table.column("run_id").unique().to_pylist()


def read_runs(file: HistoryFile, data: Any, runs: Iterable[str], columns: Sequence[str]) -> Any:
    """The rows of some runs, reading only the row groups that may hold them; raises ``Corrupt``."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    pq = _parquet()
    wanted = sorted(runs)
    try:
        opened = pq.ParquetFile(_source(data))
        groups = [
            number
            for number in range(opened.metadata.num_row_groups)
            if _may_hold(opened.metadata.row_group(number), wanted)
        ]
        table = opened.read_row_groups(groups, columns=list(columns), use_threads=False)
    except pa.ArrowException as error:
        raise Corrupt(file.name, f"no Parquet file of a history ({error})") from error
    return table.filter(compute.is_in(table.column("run_id"), pa.array(wanted, pa.string())))


def newest_of_each(table: Any) -> Any:
    """Of rows of runs, the newest of each run."""
    ordered = table.sort_by([("run_id", "ascending"), ("seq", "descending")])
    runs = ordered.column("run_id").to_pylist()
    first = [at == 0 or run != runs[at - 1] for at, run in enumerate(runs)]
    return ordered.filter(pa.array(first, pa.bool_()))


def journal_rows(table: Any) -> list[Row]:
    """Rows of events as the journal keeps them."""
    columns = [
        table.column("seq").to_pylist(),
        table.column("time").cast(pa.int64()).to_pylist(),
        *(table.column(name).to_pylist() for name in ("run_id", "kind", "body", "content")),
    ]
    return [Row(*values) for values in zip(*columns, strict=True)]


JOURNAL_COLUMNS = ("seq", "time", "run_id", "kind", "body", "content")


def _parquet() -> Any:
    """Imported when it is first used: a controller that recovers must not wait for it."""
    import pyarrow.parquet

    return pyarrow.parquet


def _may_hold(group: Any, wanted: Sequence[str]) -> bool:
    statistics = group.column(_index_of_run(group)).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= run <= statistics.max for run in wanted)


def _index_of_run(group: Any) -> int:
    for index in range(group.num_columns):
        if group.column(index).path_in_schema == "run_id":
            return index
    raise pa.ArrowInvalid("it has no column run_id")


def _source(data: Any) -> Any:
    return pa.BufferReader(data) if isinstance(data, bytes) else data


def _day(at_us: int) -> Date:
    return Date.fromordinal(_EPOCH + at_us // _DAY_US)


_DAY_US = 86_400_000_000
_EPOCH = Date(1970, 1, 1).toordinal()


def _table(schema: Any, columns: Sequence[Any]) -> Any:
    arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Sequence[Any], kind: Any) -> Any:
    if kind != _USD:
        return pa.array(column, kind)
    # Nano-dollars are the unscaled value of a decimal with nine places: 128 bits, low word first.
    words = array("q", [word for value in column for word in (value or 0, -1 if (value or 0) < 0 else 0)])
    validity = pa.array([value is not None for value in column], pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(_USD, len(column), [validity, pa.py_buffer(words)])
