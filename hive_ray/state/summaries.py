"""Ended runs as rows of ``runs/``: readable columns, and the sealed state as the snapshot holds it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hive_ray.core.run import Run, RunStatus
from hive_ray.errors import KeyErased
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import date_of
from hive_ray.state.parquet import RunRow
from hive_ray.state.run_items import RUN, open_run
from hive_ray.state.snapshots import Item, Manifest, load_latest_manifest, read_items
from hive_ray.state.store import Store


def summary_row(run: Run, state: bytes) -> RunRow:
    """The summary of an ended run; ``state`` is its sealed form."""
    return RunRow(
        run.id,
        run.seq,
        date_of(run.submitted_us),
        run.team,
        str(run.status),
        # Why somebody cancelled a run is content where content is sealed: it is in the state.
        None if run.key and run.status is RunStatus.CANCELLED else run.reason or None,
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


def summarise(store: Store, partition: int, codec: ContentCodec, runs: Sequence[str]) -> list[RunRow]:
    """The rows of those among some runs that have ended, and of their ended ancestors.

    A child's last costs are its ancestors' too, though no event of theirs tells of it. The state is the
    one that the newest snapshot has.
    """
    manifest = load_latest_manifest(store, partition) if runs else None
    return _rows(store, manifest, codec, runs) if manifest is not None else []


def _rows(store: Store, manifest: Manifest, codec: ContentCodec, runs: Sequence[str]) -> list[RunRow]:
    rows: dict[str, RunRow] = {}
    wanted = set(runs)
    while wanted:
        parents: set[str] = set()
        for key, item in read_items(store, manifest, (RUN + run for run in sorted(wanted))).items():
            run = _opened(codec, key, item)
            if run is None:
                continue
            if run.terminal:
                rows[run.id] = summary_row(run, item.data)
            if run.parent:
                parents.add(run.parent)
        wanted = parents - rows.keys()
    return list(rows.values())


def _opened(codec: ContentCodec, key: str, item: Item) -> Run | None:
    """None for a run that was forgotten: its events are all that is told of it."""
    try:
        return open_run(codec, key, item)
    except KeyErased:
        return None


def run_of(codec: ContentCodec, line: dict[str, Any]) -> Run:
    """An ended run out of its row (by column, see ``parquet.RUNS``); without content if that was erased."""
    try:
        return open_run(codec, RUN + line["run_id"], Item(line["seq"], line["state"]))
    except KeyErased:
        return _readable(line)


def _readable(line: dict[str, Any]) -> Run:
    budget, finished, submitted = line["budget_usd"], line["finished"], line["submitted"]
    return Run(
        line["run_id"],
        line["request_id"],
        line["team"],
        line["agent"],
        line["graph_version"],
        line["graph"],
        RunStatus(line["status"]),
        submitted_us=_us(submitted),
        finished_us=_us(finished),
        principal=line["principal"] or "",
        parent=line["parent"] or "",
        budget_nanousd=-1 if budget is None else int(budget.scaleb(9)),
        spent_nanousd=int(line["cost_usd"].scaleb(9)),
        serial=line["visits"],
        reason=line["reason"] or "",
        failure=line["failure_kind"] or "",
        failed_at=line["failed_at"] or "",
        dead_lettered=line["dead_lettered"],
        attempts=line["attempts"],
        seq=line["seq"],
        told=line["seq"],
        forgotten=True,
    )


def _us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)
