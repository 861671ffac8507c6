"""From the store to a controller that may act: claim, snapshot, journal, index."""

from __future__ import annotations

import secrets
from typing import NamedTuple

import msgspec

from hive_ray.control import buckets
from hive_ray.control.standing import standing
from hive_ray.core import features, fitting
from hive_ray.core.engine import Engine
from hive_ray.core.evolution import BEGIN, MISFITS
from hive_ray.core.fleet import Fleet, decode_fleet
from hive_ray.core.longterm import is_item
from hive_ray.core.parked import may_park, row_of
from hive_ray.core.routing import Evaluator
from hive_ray.core.run import Run, decode_run, note_segment
from hive_ray.errors import Corrupt, KeyErased, StoreError, TooNew, Unavailable
from hive_ray.graph.compiled import CompiledGraph, decode_graph
from hive_ray.state.blobs import Blobs, graph_name
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.history_reading import summaries
from hive_ray.state.journal import Journal
from hive_ray.state.owner import Owner
from hive_ray.state.records import read_row
from hive_ray.state.run_items import FLEET, RUN, open_run
from hive_ray.state.segments import Segment
from hive_ray.state.snapshot_items import DOOMED, Doomed, decode_doomed, open_item
from hive_ray.state.snapshots import Item, Manifest, Snapshot, load_latest
from hive_ray.state.store import Store
from hive_ray.state.summaries import run_of


class Recovered(NamedTuple):
    """A partition as it stood at the last durable event, and the right to go on."""

    engine: Engine
    journal: Journal
    manifest: Manifest | None
    replayed: int
    """Events read behind the snapshot."""
    history: HistoryManifest
    doomed: Doomed = Doomed()
    """What that snapshot made needless, erased or not."""


def may_take(journal: Journal, owner: Owner, now_us: int, stale_s: float, take_over: bool) -> None:
    """Refuse to fence an owner of another cluster that still gives signs of life.

    Raises:
        Unavailable: it does; it names the owner and what to do.
    """
    state = journal.read_owner()
    if state is None or take_over or state.owner.cluster == owner.cluster:
        return
    if state.may_be_replaced(now_us, stale_s):
        return
    raise Unavailable(
        f"process {state.owner.pid} on {state.owner.host} (epoch {state.epoch}) owns this state and was seen "
        f"{(now_us - state.seen_at_us) / 1e6:.0f} s ago; stop it, wait until it is stale, or use --take-over"
    )


def recover(  # noqa: PLR0913 - what a controller is started with
    store: Store,
    blobs: Blobs,
    codec: ContentCodec,
    evaluator: Evaluator,
    partition: int,
    owner: Owner,
    now_us: int,
    nonce: str = "",
    parks: bool = False,
) -> Recovered:
    """Fence whoever wrote before, then rebuild the state from what is durable.

    Args:
        nonce: of this incarnation, the same at each try: the claim is made once.
        parks: leave runs in which nothing moves outside; whoever drives the engine can load them.

    Raises:
        Corrupt: an object cannot be trusted; it is named, and nothing is skipped.
        StoreError: the store failed; recover again.
    """
    journal = Journal(store, partition)
    claim = journal.claim(owner, nonce or secrets.token_hex(16), now_us)
    engine = Engine(evaluator, buckets.take)
    history = newest_manifest(store, partition)
    engine.compacted = history.covered
    snapshot = load_latest(store, partition)
    doomed = _restore(engine, snapshot, codec, parks) if snapshot is not None else Doomed()
    first = snapshot.manifest.header.segment_number + 1 if snapshot else 1
    replayed = 0
    absent = _Absent(engine, snapshot, codec, store, history)
    for segment in journal.read_segments(first):
        replayed += _replay(absent, segment)
    for run in list(engine.runs.values()):
        # An attempt of an ended child run may be under way: its end moves the ancestors too.
        absent.revive(run.parent)
    _refuse_later_level(engine, store)
    engine.seq = claim.next_seq - 1
    engine.fleet.epoch = claim.epoch
    _load_graphs(engine, blobs)
    engine.restored()
    manifest = snapshot.manifest if snapshot else None
    return Recovered(engine, journal, manifest, replayed, history, doomed)


def _refuse_later_level(engine: Engine, store: Store) -> None:
    level = engine.fleet.feature_level
    if level > features.LATEST:
        why = f"holds what a newer release writes (feature level {level}, this one knows {features.LATEST})"
        raise TooNew(store.url, why)


def decode_item(codec: ContentCodec, name: str, item: Item) -> Fleet | Run | Doomed | None:
    """What a snapshot holds under a name; None for what this release has no use for.

    Raises:
        KeyErased: the snapshot is older than the end of the run.
    """
    if name == FLEET:
        return decode_fleet(open_item(codec, name, item))
    if name == DOOMED:
        return decode_doomed(open_item(codec, name, item))
    return decode_run(open_item(codec, name, item)) if name.startswith(RUN) else None


def _restore(engine: Engine, snapshot: Snapshot, codec: ContentCodec, parks: bool) -> Doomed:
    """Parked runs stay outside, unless something behind the snapshot moves them."""
    doomed = Doomed()
    name = snapshot.manifest.name
    try:
        for key, item in snapshot.items.items():
            if is_item(key):
                engine.keeping.shelves.restore(key, open_item(codec, key, item))
                continue
            state = decode_item(codec, key, item)
            if isinstance(state, Fleet):
                engine.fleet = state
            elif isinstance(state, Doomed):
                doomed = state
            elif state is not None and parks and may_park(state):
                engine.parked[state.id] = row_of(state, standing(engine, state).reason)
            elif state is not None:
                engine.runs[state.id] = state
    except KeyErased as error:
        # Whoever wrote a newer snapshot erased it, and was fenced only then.
        raise StoreError(f"{name} was replaced while it was read: {error}") from error
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"an item does not decode: {error}") from error
    return doomed


class _Absent(NamedTuple):
    """Runs that are not in memory: parked in the snapshot, or known to the history only."""

    engine: Engine
    snapshot: Snapshot | None
    codec: ContentCodec
    store: Store
    history: HistoryManifest

    def revive(self, run_id: str) -> None:
        """Take a run back into memory, and its ancestors: what moves it may move them."""
        while run_id:
            if run_id not in self.engine.runs:
                self._take(run_id)
            run = self.engine.runs.get(run_id)
            run_id = run.parent if run is not None else ""

    def _take(self, run_id: str) -> None:
        if self.snapshot is not None and run_id in self.engine.parked:
            self.engine.unpark(open_run(self.codec, RUN + run_id, self.snapshot.items[RUN + run_id]))
            return
        for line in summaries(self.store, self.history, [run_id]).values():
            self.engine.unpark(run_of(self.codec, line))


def _replay(absent: _Absent, segment: Segment) -> int:
    engine, codec = absent.engine, absent.codec
    number = segment.header.number
    count = 0
    for row in segment.columns.rows():
        recorded = read_row(segment.name, row, codec)
        if recorded is None:
            continue
        count += 1
        if type(recorded.event) not in BEGIN or recorded.event.run in engine.parked:
            absent.revive(recorded.event.run)
        try:
            engine.replay(recorded.seq, recorded.time_us, recorded.event, recorded.content)
        except MISFITS as error:
            raise Corrupt(
                segment.name, f"event {recorded.seq} ({row.kind}) does not fit the state before it: {error!r}"
            ) from error
    for run_id in dict.fromkeys(segment.columns.run):
        run = engine.runs.get(run_id)
        if run is not None:
            note_segment(run, number, engine.compacted)
    return count


def _load_graphs(engine: Engine, blobs: Blobs) -> None:
    for run in engine.runs.values():
        if run.graph not in engine.graphs and not run.parent:
            engine.add_graph(load_graph(blobs, run.graph))
    for run in engine.runs.values():
        _check_fits(run, engine.graphs.get(run.graph))


def _check_fits(run: Run, graph: CompiledGraph | None) -> None:
    """Refuse a live run that stands where its graph has no node."""
    name = graph_name(run.graph)
    if graph is None:
        raise Corrupt(name, f"no graph holds it, though run {run.id} is on it")
    places = [visit.node for visit in run.visits.values()]
    if places and max(places) >= len(graph.nodes):
        raise Corrupt(name, f"has {len(graph.nodes)} nodes, and run {run.id} stands at node {max(places)}")
    wrong = "" if run.terminal else fitting.strays(graph, run)
    if wrong:
        raise Corrupt(name, f"run {run.id} is not of this graph: it {wrong}")


def load_graph(blobs: Blobs, version: str) -> CompiledGraph:
    """Read an accepted graph by its hash.

    Raises:
        Corrupt: it cannot be read, or is another one.
        StoreError: the store failed; read again.
    """
    try:
        graph = decode_graph(blobs.get_graph(version))
    except msgspec.MsgspecError as error:
        raise Corrupt(graph_name(version), f"no graph ({error})") from error
    if graph.version != version:
        raise Corrupt(graph_name(version), f"holds another graph, {graph.version}")
    return graph
