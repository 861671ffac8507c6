"""Old days leave the history: whole days of a team, once nobody who lives has events in them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from hive_ray.core.run import root_of
from hive_ray.errors import ObjectMissing
from hive_ray.state import parquet
from hive_ray.state.blobs import BLOBS, memory_written_us
from hive_ray.state.compaction import drop
from hive_ray.state.history import (
    RUNS_FOLDER,
    HistoryFile,
    HistoryManifest,
    create_manifest,
    newest_manifest,
)
from hive_ray.state.history_reading import open_file
from hive_ray.state.store import Store

_DAY_US = 86_400_000_000
_TIMED = 7


class Retention(msgspec.Struct, frozen=True):
    """For how many days history is kept; 0 keeps it for ever."""

    default_days: int = 0
    teams: Mapping[str, int] = {}

    def before_us(self, team: str, now_us: int) -> int:
        """The time before which a team's history is too old; 0 if none is."""
        days = self.teams.get(team, self.default_days)
        return now_us - days * _DAY_US if days else 0

    def may_have_dropped(self, run: str, team: str, now_us: int) -> bool:
        """Whether a run that nobody knows may have ended and left the history, by the time in its id."""
        before_us = self.before_us(team, now_us)
        return before_us > 0 and 0 < named_us(run) < before_us


def named_us(run: str) -> int:
    """The time in a run's id, Unix microseconds; 0 if it is no UUIDv7 (RFC 9562)."""
    try:
        found = uuid.UUID(run)
    except ValueError:
        return 0
    return (found.int >> 80) * 1000 if found.version == _TIMED else 0


def retain(
    store: Store,
    manifest: HistoryManifest,
    retention: Retention,
    live: Collection[str],
    epoch: int,
    now_us: int,
) -> HistoryManifest:
    """Drop the team-days that are too old, and return the newest manifest.

    A day goes as a whole or not at all: its newest event (or, of runs, newest end) counts, and no run in
    ``live`` may have an event in it. The files are deleted a grace time later.

    Args:
        live: ids of the runs that have not ended, as far as that is durable.

    Raises:
        StoreError: the store failed; nothing was dropped, or the same call again finds it done.
    """
    old = _old_days(store, manifest, retention, live, now_us)
    if not old:
        return manifest
    names = {file.name for file in old}
    following = msgspec.structs.replace(
        manifest,
        number=manifest.number + 1,
        epoch=epoch,
        written_us=now_us,
        files=tuple(file for file in manifest.files if file.name not in names),
        dropped=(*manifest.dropped, *drop(old, now_us)),
    )
    if create_manifest(store, following):
        return following
    return newest_manifest(store, manifest.partition, manifest)


def is_due(manifest: HistoryManifest, before_us: int) -> bool:
    """Whether summaries were dropped before a time, so that what their runs left behind may go."""
    return bool(_due(manifest, before_us))


def left_behind(store: Store, manifest: HistoryManifest, before_us: int, known: Collection[str]) -> set[str]:
    """Root runs whose last summary was dropped before a time: nothing but blobs may be left of them.

    Ask before the files themselves are deleted: they tell which runs these are.

    Args:
        known: runs that somebody still knows, whatever the history says.
    """
    told = {run for name in _due(manifest, before_us) for run in _runs_in(store, name)}
    gone = {run for run in told if root_of(run) == run and run not in known}
    for file in manifest.of("runs"):
        if any(file.may_hold(run) for run in gone):
            # Joined into another file, or summed up anew since.
            gone -= set(_runs_in(store, file.name))
    return gone


class Referred(NamedTuple):
    """Blobs of agents' and teams' long-term memory that somebody refers to, or may refer to yet."""

    blobs: Collection[str] = ()
    since_us: int = 0
    """Those that were written from then on may not have been reported yet."""

    def is_nobodys(self, name: str) -> bool:
        """Whether a blob was written for a report that never came."""
        return 0 < memory_written_us(name) < self.since_us and name not in self.blobs


ALL = Referred()


def remove_blobs(store: Store, gone: Collection[str], memory: Referred = ALL) -> int:
    """Delete what nothing tells of any more; returns how many blobs.

    Args:
        gone: root runs whose blobs go, and those of their children, which may show them; without any the
            blobs are not looked at.
        memory: other values of long-term memory go too.
    """
    names = store.list(BLOBS) if gone else []
    blobs = [name for name in names if root_of(name.split("/")[1]) in gone or memory.is_nobodys(name)]
    store.delete(*blobs)
    return len(blobs)


def _due(manifest: HistoryManifest, before_us: int) -> list[str]:
    return [
        dropped.name
        for dropped in manifest.dropped
        if dropped.at_us < before_us and dropped.name.startswith(RUNS_FOLDER)
    ]


def _runs_in(store: Store, name: str) -> list[str]:
    try:
        return parquet.run_ids(name, store.get(name))
    except ObjectMissing:
        # Deleted before a crash that kept the manifest from saying so.
        return []


def _old_days(
    store: Store, manifest: HistoryManifest, retention: Retention, live: Collection[str], now_us: int
) -> list[HistoryFile]:
    days: dict[tuple[str, str, str], list[HistoryFile]] = {}
    for file in manifest.files:
        days.setdefault((file.kind, file.date, file.team), []).append(file)
    old: list[HistoryFile] = []
    for (kind, _, team), files in days.items():
        before_us = retention.before_us(team, now_us)
        too_old = all(file.newest_us < before_us for file in files)
        if too_old and not (kind == "events" and any(_has(store, file, live) for file in files)):
            old.extend(files)
    return old


def _has(store: Store, file: HistoryFile, live: Collection[str]) -> bool:
    """Whether a live run has an event in a file: looks inside only if one may."""
    wanted = [run for run in live if file.may_hold(run)]
    if not wanted:
        return False
    return parquet.read_runs(file, open_file(store, file), wanted, ("run_id",)).num_rows > 0
