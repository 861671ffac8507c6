"""Snapshots in slices beside the work: encode a little at a time, write when all of it is durable."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING

from hive_ray.control.io import Broke, Done, Io
from hive_ray.control.sealing import Sealing
from hive_ray.core import sealing
from hive_ray.core.engine import Engine
from hive_ray.core.families import deepest_first, note_depths
from hive_ray.core.fleet import encode_fleet
from hive_ray.core.longterm import is_item
from hive_ray.core.run import encode_run
from hive_ray.errors import StoreError
from hive_ray.state.content import PlainCodec
from hive_ray.state.run_items import FLEET, RUN
from hive_ray.state.snapshot_items import DOOMED, Doomed, encode_doomed, seal_item
from hive_ray.state.snapshots import (
    Finished,
    Manifest,
    Part,
    SnapshotHeader,
    SnapshotWriter,
    garbage,
    kept_manifests,
    snapshot_folder,
    whole_part,
    write_snapshot,
)
from hive_ray.state.store import Store

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

log = logging.getLogger(__name__)

EVERY_SEGMENTS = 1_000
EVERY_EVENTS = 50_000
SLICE_RUNS = 50
SLICE_BYTES = 256 * 1024
"""A slice ends at whichever comes first, after about 2 ms: whoever asks meanwhile waits for it."""
MOST_SLICES = 200
"""Beyond so many, some four seconds, slices grow: meanwhile the journal that recovery reads grows too."""
SLICE_DOOMED = 1_000
"""Runs that a slice asks for keys that may go."""
SLICE_NAMES = 4_000
"""Runs that a slice puts in order."""


class Snapshotter:
    """Takes a snapshot whenever enough has happened since the last one.

    A run's item reflects the seq at which it was encoded, which may be later than the snapshot's base;
    recovery applies to each run only what came behind its item. The objects are written when the newest
    of these seqs is durable.

    Args:
        manifest: the newest snapshot that stands.
        sealing: seals the items, and erases what a snapshot makes needless; without it, they are plain.
    """

    def __init__(
        self, store: Store, partition: int, manifest: Manifest | None, sealing: Sealing | None = None
    ) -> None:
        self._store = store
        self._partition = partition
        self._manifest = manifest
        self._sealing = sealing or Sealing(PlainCodec())
        self._base_segment = manifest.header.segment_number if manifest else 0
        self._base_seq = manifest.header.base_seq if manifest else 0
        self._slices: Iterator[None] | None = None
        self._writing = False

    @property
    def taking(self) -> bool:
        """Whether a snapshot is being taken."""
        return self._slices is not None or self._writing

    def advance(self, shell: Shell) -> None:
        """Called every tick: begin, go on with, or finish a snapshot."""
        if self._writing:
            return
        if self._slices is None:
            if self._is_due(shell):
                self._slices = self._take(shell)
            elif self._sealing.undone and self._sealing.may_try(shell):
                self._erase(shell)
            return
        try:
            next(self._slices)
        except StopIteration:
            self._slices = None

    def _is_due(self, shell: Shell) -> bool:
        news = shell.journal.number - self._base_segment
        return (
            news >= EVERY_SEGMENTS // 2
            or shell.durable_seq - self._base_seq >= EVERY_EVENTS // 2
            or (news > 0 and self._sealing.is_due(shell))
        )

    def _take(self, shell: Shell) -> Iterator[None]:
        fleet = shell.engine.fleet
        header = SnapshotHeader(
            self._partition, fleet.epoch, shell.durable_seq, shell.journal.number, fleet.feature_level
        )
        writer = SnapshotWriter(header, self._manifest)
        shelves = shell.engine.keeping.shelves
        changed = list(shell.dirty | shell.engine.charged | shelves.changed | {"": None})
        shell.dirty, shell.engine.charged, shelves.changed = {}, {}, {}
        left = shell.runs_left()
        for run_id in left:
            writer.drop(RUN + run_id)
        dirty = yield from self._in_order(shell, changed)
        doomed = yield from self._doomed(shell, dirty)
        if doomed:
            writer.add(DOOMED, shell.engine.seq, encode_doomed(doomed))
        else:
            writer.drop(DOOMED)
        yield from self._add_all(shell, writer, dirty)
        newest = shell.engine.seq
        ended = partial(self._finished, shell, header, dirty, left, doomed)
        try:
            for part in writer.to_rewrite():
                yield from writer.carry(part, (yield from self._read(shell, part)))
        except Exception as error:  # noqa: BLE001 - whatever it was, these runs are in no snapshot
            ended(Broke(error))
            return
        finished = yield from writer.finish()
        while shell.durable_seq < newest:
            yield
        self._writing = True
        shell.do(Io("write a snapshot", partial(self._write, finished), ended))

    def _add_all(self, shell: Shell, writer: SnapshotWriter, dirty: list[str]) -> Iterator[None]:
        runs = max(SLICE_RUNS, len(dirty) // MOST_SLICES)
        taken = size = 0
        for run_id in dirty:
            size += self._add(shell, writer, run_id)
            taken += 1
            if taken >= runs or size >= SLICE_BYTES:
                yield
                taken = size = 0

    def _read(self, shell: Shell, part: Part) -> Generator[None, None, bytes]:
        answers: list[Done | Broke] = []
        shell.do(Io("read a part of a snapshot", partial(whole_part, self._store, part), answers.append))
        while not answers:
            yield
        match answers[0]:
            case Done(data):
                return data
            case Broke(error):
                raise error

    def _in_order(self, shell: Shell, names: list[str]) -> Generator[None, None, list[str]]:
        depths: dict[str, int] = {}
        for begun in range(0, len(names), SLICE_NAMES):
            if begun:
                yield
            note_depths(shell.engine.runs, names[begun : begun + SLICE_NAMES], depths)
        return deepest_first(depths)

    def _doomed(self, shell: Shell, dirty: list[str]) -> Generator[None, None, Doomed]:
        """All of them before the first item: of what has ended by then, each item shows the end."""
        doomed = self._sealing.doomed(shell)
        for begun in range(0, len(dirty), SLICE_DOOMED):
            self._sealing.doom(shell, dirty[begun : begun + SLICE_DOOMED], doomed)
            yield
        return doomed

    def _add(self, shell: Shell, writer: SnapshotWriter, run_id: str) -> int:
        engine = shell.engine
        if is_item(run_id):
            return self._add_memory(engine, writer, run_id)
        if not run_id:
            name, seq, data = FLEET, engine.fleet.seq, encode_fleet(engine.fleet)
            key = sealing.fleet_key(engine.fleet.feature_level)
        else:
            run = engine.runs[run_id]
            name, seq, data = RUN + run_id, run.seq, encode_run(run)
            key = sealing.snapshot_key(run, engine.graphs.get(run.graph))
        writer.add(name, seq, seal_item(self._sealing.codec, name, seq, data, key))
        return len(data)

    def _add_memory(self, engine: Engine, writer: SnapshotWriter, item: str) -> int:
        """Take an item of long-term memory, or leave it out from now on if its entry is gone."""
        found = engine.keeping.shelves.encode(item)
        if found is None:
            writer.drop(item)
            return 0
        key = sealing.fleet_key(engine.fleet.feature_level)
        writer.add(item, found.seq, seal_item(self._sealing.codec, item, found.seq, found.data, key))
        return len(found.data)

    def _write(self, finished: Finished) -> Finished:
        write_snapshot(self._store, finished)
        try:
            self._remove_old(finished.manifest)
        except StoreError as error:
            log.warning("old snapshots are not removed: %s", error)
        return finished

    def _erase(self, shell: Shell) -> None:
        """What the newest snapshot made needless goes; before that, nothing of it does."""
        self._writing = True
        doomed = self._sealing.undone
        shell.do(Io("erase keys", partial(self._sealing.erase, doomed), partial(self._erased, shell)))

    def _erased(self, shell: Shell, ended: Done | Broke) -> None:
        self._writing = False
        match ended:
            case Done():
                self._sealing.undone = Doomed()
            case Broke(error):
                log.warning("keys of ended runs are not erased yet: %s", error)
                self._sealing.failed(shell)

    def _remove_old(self, newest: Manifest) -> None:
        # The tables of both are long, and reading one takes the interpreter from the event loop.
        known = [newest] if self._manifest is None else [self._manifest, newest]
        kept = kept_manifests(self._store, self._partition, known)
        self._store.delete(*garbage(self._store.list(snapshot_folder(self._partition)), kept))

    def _finished(
        self,
        shell: Shell,
        header: SnapshotHeader,
        dirty: list[str],
        left: dict[str, None],
        doomed: Doomed,
        ended: Done | Broke,
    ) -> None:
        self._writing = False
        match ended:
            case Done(finished):
                self._manifest = finished.manifest
                shell.snapshot_taken(finished.manifest, dirty)
                self._sealing.undone = doomed
            case Broke(error):
                # Whatever it was, these runs are in no snapshot.
                log.warning("snapshot not written: %s", error)
                shell.dirty.update(dict.fromkeys(dirty))
                shell.put_back_left(left)
                self._sealing.again(shell)
        self._base_segment, self._base_seq = header.segment_number, header.base_seq
