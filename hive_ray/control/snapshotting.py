"""Snapshots in slices beside the work: encode a little at a time, write when all of it is durable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

from hive_ray.control.recovery import FLEET, RUN
from hive_ray.control.shell import Shell
from hive_ray.core.fleet import encode_fleet
from hive_ray.core.run import encode_run
from hive_ray.errors import StoreError
from hive_ray.state.snapshots import (
    Finished,
    Manifest,
    SnapshotHeader,
    SnapshotWriter,
    garbage,
    kept_manifests,
    snapshot_folder,
    write_snapshot,
)
from hive_ray.state.store import Store

log = logging.getLogger(__name__)

EVERY_SEGMENTS = 1_000
EVERY_EVENTS = 50_000
SLICE_S = 0.005


class Snapshotter:
    """Takes a snapshot whenever enough has happened since the last one.

    A run's item reflects the seq at which it was encoded, which may be later than the snapshot's base;
    recovery applies to each run only what came behind its item. The objects are written when the newest
    of these seqs is durable.
    """

    def __init__(self, shell: Shell, store: Store, partition: int, manifest: Manifest | None) -> None:
        self._shell = shell
        self._store = store
        self._partition = partition
        self._manifest = manifest
        self._base_segment = manifest.header.segment_number if manifest else 0
        self._base_seq = manifest.header.base_seq if manifest else 0
        self._slices: Iterator[None] | None = None
        self._writing = False

    def advance(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called every tick: begin, go on with, or finish a snapshot."""
        if self._writing:
            return
        if self._slices is None:
            if self._is_due():
                self._slices = self._take(loop)
            return
        try:
            next(self._slices)
        except StopIteration:
            self._slices = None

    def _is_due(self) -> bool:
        journal = self._shell.journal
        return (
            journal.number - self._base_segment >= EVERY_SEGMENTS // 2
            or self._shell.durable_seq - self._base_seq >= EVERY_EVENTS // 2
        )

    def _take(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        shell = self._shell
        header = SnapshotHeader(
            self._partition, shell.engine.fleet.epoch, shell.durable_seq, shell.journal.number
        )
        writer = SnapshotWriter(header, self._manifest)
        dirty = shell.engine.family_order(shell.dirty | shell.engine.charged)
        shell.dirty, shell.engine.charged = {}, {}
        until_s = time.monotonic() + SLICE_S
        for run_id in dirty:
            self._add(writer, run_id)
            if time.monotonic() >= until_s:
                yield
                until_s = time.monotonic() + SLICE_S
        newest = shell.engine.seq
        while shell.durable_seq < newest:
            yield
        self._writing = True
        task = loop.run_in_executor(None, self._finish, writer)
        task.add_done_callback(lambda done: self._finished(header, dirty, done))

    def _add(self, writer: SnapshotWriter, run_id: str) -> None:
        engine = self._shell.engine
        if not run_id:
            writer.add(FLEET, engine.fleet.seq, encode_fleet(engine.fleet))
            return
        run = engine.runs[run_id]
        writer.add(RUN + run_id, run.seq, encode_run(run))

    def _finish(self, writer: SnapshotWriter) -> Finished:
        for name in writer.to_rewrite():
            writer.carry(name, self._store.get(name))
        finished = writer.finish()
        write_snapshot(self._store, finished)
        try:
            self._remove_old()
        except StoreError as error:
            log.warning("old snapshots are not removed: %s", error)
        return finished

    def _remove_old(self) -> None:
        kept = kept_manifests(self._store, self._partition)
        for name in garbage(self._store.list(snapshot_folder(self._partition)), kept):
            self._store.delete(name)

    def _finished(self, header: SnapshotHeader, dirty: list[str], done: asyncio.Future[Finished]) -> None:
        self._writing = False
        try:
            self._manifest = done.result().manifest
        except Exception as error:  # noqa: BLE001 - whatever it was, these runs are not in a snapshot
            log.warning("snapshot not written: %s", error)
            self._shell.dirty.update(dict.fromkeys(dirty))
        self._base_segment, self._base_seq = header.segment_number, header.base_seq
