"""Many small files of one team-day become one: a query opens few files, and a manifest names few.

Only small files are joined, and only when there are many, so each row is written about twice in its life.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from hive_ray.state import parquet
from hive_ray.state.compaction import Stamp, drop, write_file
from hive_ray.state.history import HistoryFile, HistoryManifest, create_manifest, newest_manifest
from hive_ray.state.history_reading import open_file
from hive_ray.state.store import Store

SMALL_BYTES = 1024 * 1024
SMALL_ROWS = 20_000
MANY = 16


def merge(store: Store, manifest: HistoryManifest, stamp: Stamp) -> HistoryManifest:
    """Join the small files of one team-day, if one has many; returns the newest manifest.

    Raises:
        StoreError: the store failed; merge again, with another ``stamp``.
    """
    files = _too_many(manifest)
    if not files:
        return manifest
    first = files[0]
    table = _joined(store, files)
    name = f"{stamp.of_next(manifest)}-0000"
    merged = write_file(store, first.kind, first.date, first.team, name, table)
    gone = {file.name for file in files}
    following = msgspec.structs.replace(
        manifest,
        number=manifest.number + 1,
        epoch=stamp.epoch,
        written_us=stamp.now_us,
        files=(*(file for file in manifest.files if file.name not in gone), merged),
        dropped=(*manifest.dropped, *drop(files, stamp.now_us)),
    )
    if create_manifest(store, following):
        return following
    return newest_manifest(store, manifest.partition, manifest)


def _too_many(manifest: HistoryManifest) -> list[HistoryFile]:
    days: dict[tuple[str, str, str], list[HistoryFile]] = {}
    for file in manifest.files:
        if file.size < SMALL_BYTES and file.rows < SMALL_ROWS:
            days.setdefault((file.kind, file.date, file.team), []).append(file)
    for files in days.values():
        if len(files) >= MANY:
            return sorted(files, key=lambda file: file.first_seq)[:MANY]
    return []


def _joined(store: Store, files: list[HistoryFile]) -> Any:
    tables = [parquet.read_columns(file, open_file(store, file)) for file in files]
    table = pa.concat_tables(tables)
    return table if files[0].kind == "events" else parquet.newest_of_each(table)
