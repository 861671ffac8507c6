"""Ended runs as rows of ``runs/``: readable columns, and the sealed state as the snapshot holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hive_ray.core.run import Run
from hive_ray.state.history import date_of
from hive_ray.state.parquet import RunRow
from hive_ray.state.snapshots import Item, Manifest, load_latest_manifest, read_items
from hive_ray.state.store import Store

RUN = "run/"
"""Prefix of the keys under which snapshots hold runs."""

OpenItem = Callable[[str, Item], Run]
"""Makes a run from its item (key, item); raises ``StoreError`` for one that cannot be opened."""


def summary_row(run: Run, state: bytes) -> RunRow:
    """The summary of an ended run; ``state`` is its sealed form."""
    return RunRow(
        run.id,
        run.seq,
        date_of(run.submitted_us),
        run.team,
        str(run.status),
        run.reason or None,
        run.agent,
        run.graph_name,
        run.graph,
        run.request_id,
        run.submitted_us,
        run.finished_us,
        run.budget_nanousd if run.budget_nanousd >= 0 else None,
        run.spent_nanousd,
        run.attempts,
        run.serial,
        run.failure or None,
        run.failed_at or None,
        run.dead_lettered,
        run.parent or None,
        run.principal or None,
        run.traceparent.split("-")[1] if run.traceparent.count("-") == 3 else None,
        state,
    )


def summarise(store: Store, partition: int, open_item: OpenItem, runs: Sequence[str]) -> list[RunRow]:
    """The rows of those among some runs that have ended, as the newest snapshot has them."""
    manifest = load_latest_manifest(store, partition) if runs else None
    return _rows(store, manifest, open_item, runs) if manifest is not None else []


def _rows(store: Store, manifest: Manifest, open_item: OpenItem, runs: Sequence[str]) -> list[RunRow]:
    rows: list[RunRow] = []
    for key, item in read_items(store, manifest, (RUN + run for run in runs)).items():
        run = open_item(key, item)
        if run.terminal:
            rows.append(summary_row(run, item.data))
    return rows
