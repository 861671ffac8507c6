"""SQL over what happened: the history and the live end of the journal, as the views ``events`` and ``runs``.

It reads the store itself, so it works whether or not anything runs, and needs no key: content (inputs,
outputs, prompts, error texts) is in neither view. One query sees one state of the history.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from hive_ray.config import Settings, load
from hive_ray.errors import Corrupt, SqlError
from hive_ray.state import parquet
from hive_ray.state.access import open_state
from hive_ray.state.event_rows import EventRow, Told, event_row
from hive_ray.state.history import FileKind, HistoryManifest, newest_manifest
from hive_ray.state.history_reading import RangedFile, Vanished, look_up
from hive_ray.state.journal import Journal
from hive_ray.state.segments import Segment
from hive_ray.state.store import Store

_TRIES = 5

_RUNS = """
create view runs as
with ended as (
    select * from _runs qualify row_number() over (partition by run_id order by seq desc) = 1
), live as (
    select run_id, max(seq) as seq, cast(min(time) as date) as date, any_value(team) as team,
        case when bool_or(kind = 'RunSucceeded') then 'succeeded'
             when bool_or(kind = 'RunFailed') then 'failed'
             when bool_or(kind = 'RunCancelled') then 'cancelled'
             when count_if(kind = 'RunPaused') > count_if(kind = 'RunResumed')
               or count_if(kind = 'ApprovalRequested') > count_if(kind = 'ApprovalResolved') then 'waiting'
             when bool_or(kind = 'StepStarted') then 'running' else 'queued' end as status,
        any_value(agent) as agent, any_value(graph) as graph, any_value(graph_version) as graph_version,
        any_value(request_id) as request_id, min(time) as submitted,
        max(time) filter (kind in ('RunSucceeded', 'RunFailed', 'RunCancelled')) as finished,
        sum(cost_usd) as cost_usd, count_if(kind = 'StepStarted') as attempts, max(visit) as visits,
        any_value(failure_kind) filter (kind = 'RunFailed') as failure_kind,
        any_value(node) filter (kind = 'RunFailed') as failed_at,
        any_value(principal) filter (kind = 'RunSubmitted') as principal, any_value(trace_id) as trace_id
    from events anti join ended using (run_id) where run_id <> '' group by run_id
)
select * from ended union all by name select * from live
"""


def sql(statement: str, config: str | Path | None = None) -> Any:
    """Ask the state of an installation; returns a ``pyarrow.Table``.

    Args:
        statement: one SELECT in DuckDB's dialect over ``events`` and ``runs``.
        config: ``hive.yaml``; by default as ``config.load`` finds it.

    Raises:
        SqlError: the statement is refused; says why.
        ConfigError: the configuration is.
        StoreError: the state cannot be read.
    """
    store = open_state(load(Path(config) if config else None))
    try:
        return query(store, statement)
    finally:
        store.close()


def sql_of(settings: Settings, statement: str) -> Any:
    """As ``sql``, of settings that are loaded already."""
    store = open_state(settings)
    try:
        return query(store, statement)
    finally:
        store.close()


def query(store: Store, statement: str, partition: int = 0) -> Any:
    """As ``sql``, over a store."""
    _check(statement)
    error: Corrupt | Vanished | None = None
    manifest: HistoryManifest | None = None
    for _ in range(_TRIES):
        manifest = newest_manifest(store, partition, manifest)
        try:
            return _ask(store, manifest, statement)
        except (Corrupt, Vanished) as gone:
            # Compaction may have deleted a segment between the listing and the reading.
            error = gone
    assert error is not None
    raise error


def _check(statement: str) -> None:
    import duckdb

    try:
        statements = duckdb.extract_statements(statement)
    except duckdb.Error as error:
        raise SqlError(str(error)) from error
    if len(statements) != 1:
        raise SqlError(f"{len(statements)} statements: give one")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise SqlError(f"{kind.name} statement: history is read only, use SELECT over events and runs")


def _ask(store: Store, manifest: HistoryManifest, statement: str) -> Any:
    import duckdb

    tail = parquet.events_table(tail_rows(store, manifest))
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        connection.register("_events", _dataset(store, manifest, "events"))
        connection.register("_tail", tail.select(_visible(parquet.EVENTS).names))
        connection.register("_runs", _dataset(store, manifest, "runs"))
        connection.execute("create view events as from _events union all by name from _tail")
        connection.execute(_RUNS)
        # A query reads what is here and nothing else of this machine.
        connection.execute("set enable_external_access = false; set lock_configuration = true")
        try:
            return connection.sql(statement).to_arrow_table()
        except duckdb.Error as error:
            raise SqlError(str(error)) from error


def tail_rows(store: Store, manifest: HistoryManifest) -> list[EventRow]:
    """The events behind the history, wide."""
    told = Told(lambda runs: look_up(store, manifest, runs))
    segments: list[Segment] = []
    for segment in Journal(store, manifest.partition).read_segments(manifest.covered + 1):
        segments.append(segment)
    told.prepare([row for segment in segments for row in segment.columns.rows()])
    rows = (
        event_row(manifest.partition, row, told, segment.name)
        for segment in segments
        for row in segment.columns.rows()
    )
    return [row for row in rows if row is not None]


def _visible(schema: Any) -> Any:
    return pa.schema([field for field in schema if field.name not in parquet.HIDDEN])


def _dataset(store: Store, manifest: HistoryManifest, kind: FileKind) -> Any:
    """The files of a kind, of which a query reads the columns and row groups that it needs."""
    import pyarrow.dataset as ds

    schema = _visible(parquet.EVENTS if kind == "events" else parquet.RUNS)
    files = manifest.of(kind)
    if not files:
        return schema.empty_table()
    filesystem, root = _filesystem(store, {file.name: file.size for file in files})
    column: Any = ds.field
    fragments = [
        ds.ParquetFileFormat().make_fragment(
            root + file.name,
            filesystem=filesystem,
            # So that a query about one team opens no file of another.
            partition_expression=column("team") == file.team,
        )
        for file in files
    ]
    return ds.FileSystemDataset(fragments, schema, ds.ParquetFileFormat(), filesystem)


def _filesystem(store: Store, sizes: dict[str, int]) -> tuple[Any, str]:
    import pyarrow.fs as fs

    if store.url.startswith("file://"):
        return fs.LocalFileSystem(), store.url.removeprefix("file://").rstrip("/") + "/"

    class Files(fs.FileSystemHandler):  # pyright: ignore[reportUntypedBaseClass]
        """The files of one manifest, read by ranges out of the store."""

        def get_type_name(self) -> str:
            return "hive"

        def normalize_path(self, path: str) -> str:
            return path

        def get_file_info(self, paths: list[str]) -> list[Any]:
            return [fs.FileInfo(path, fs.FileType.File, size=sizes[path]) for path in paths]

        def open_input_file(self, path: str) -> Any:
            return pa.PythonFile(RangedFile(store, path, sizes[path]), mode="r")

        open_input_stream = open_input_file

        def _refuse(self, *_: Any) -> Any:
            raise NotImplementedError("history is read only")

        get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _refuse
        delete_root_dir_contents = delete_file = move = copy_file = _refuse
        open_output_stream = open_append_stream = _refuse

    return fs.PyFileSystem(Files()), ""
