"""A run derived from its journal once more, and held against what others show of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from hive_ray.control import buckets
from hive_ray.control.views import RunView, run_view
from hive_ray.core import events as ev
from hive_ray.core import fitting
from hive_ray.core.engine import Engine
from hive_ray.core.evolution import MISFITS
from hive_ray.core.keys import NO_KEY
from hive_ray.core.policies import Fact
from hive_ray.core.run import Run, decode_run, encode_run
from hive_ray.errors import Corrupt, KeyErased, NotFound
from hive_ray.graph.compiled import CompiledGraph, decode_graph
from hive_ray.graph.policies import RulePlan
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import ContentCodec
from hive_ray.state.records import Recorded
from hive_ray.state.run_events import RunEvents, whole
from hive_ray.state.snapshot_items import open_item
from hive_ray.state.snapshots import load_latest_manifest, read_items
from hive_ray.state.store import Store
from hive_ray.state.summaries import RUN

_BUILTIN = msgspec.msgpack.Decoder(strict=False).decode

NOT_EVENTS = ("segments",)
"""Fields that events do not tell."""
CONTENT = ("memory", "facts", "visits", "conversation", "ended", "message", "reason")
"""Fields of which only the place of a difference is shown."""
NAMES_TOO = ("shelf", "artifacts")
"""Fields in which also the names are content: keys of memory, names of files."""
FROM_CONTENT = (*CONTENT, *NAMES_TOO, "writers", "output_keys", "visit_counts", "tokens")
"""Fields that cannot be derived where content was erased on purpose."""


class Shown(NamedTuple):
    """What somebody shows of a run."""

    by: str
    """``controller`` or ``snapshot``."""
    run: Run


class Verdict(msgspec.Struct, frozen=True):
    """What came of a replay; ``difference`` and ``misfit`` are empty if all is well.

    Attributes:
        events: applied, those of child runs included.
        compared: by whom and as of which seq the state was held against.
        erased: events whose content was erased on purpose; what it told is not compared.
    """

    run: str
    events: int
    seq: int
    compared: tuple[str, ...]
    erased: int = 0
    misfit: str = ""
    difference: str = ""

    @property
    def ok(self) -> bool:
        return not self.misfit and not self.difference


class Replay:
    """Applies the events of a run's family, and compares where somebody shows the run.

    Args:
        graphs: by version, those of child runs included.
        shown: states of the run; each is compared as soon as its seq is reached.
    """

    def __init__(self, run: str, graphs: Mapping[str, CompiledGraph], shown: Sequence[Shown]) -> None:
        self._run = run
        self._graphs = graphs
        self._waiting = sorted(shown, key=lambda one: one.run.seq)
        self._compared: list[str] = []
        self._engine = Engine(_Unasked(), buckets.take)
        self._count = 0
        self._misfit = ""
        self._difference = ""

    def verdict(self, events: Iterable[Recorded], erased: int = 0) -> Verdict:
        """Apply all events, in order, up to the first that does not fit."""
        for recorded in events:
            self._compare(recorded.seq - 1, erased)
            self._misfit = self._apply(recorded)
            if self._misfit:
                break
        else:
            self._compare(None, erased)
        found = self._engine.runs.get(self._run)
        if found is None and not self._misfit:
            self._misfit = "the journal holds no event of this run"
        seq = found.seq if found is not None else 0
        return Verdict(
            self._run, self._count, seq, tuple(self._compared), erased, self._misfit, self._difference
        )

    def view(self) -> RunView:
        """The run as far as its events were applied."""
        return run_view(self._engine, self._engine.runs[self._run])

    def _apply(self, recorded: Recorded) -> str:
        event = recorded.event
        where = f"event {recorded.seq} ({type(event).__name__}) of run {event.run}"
        run = self._engine.runs.get(event.run)
        version = run.graph if run is not None else getattr(event, "graph", "")
        graph = self._graphs.get(version)
        if graph is None:
            return f"{where} needs graph {version or '?'}, which is not there"
        why = fitting.misfit(graph, run, event)
        if why:
            return f"{where} does not fit its graph: it {why}"
        try:
            self._engine.replay(*recorded)
        except MISFITS as error:
            return f"{where} does not fit the state before it: {error!r}"
        self._count += 1
        return ""

    def _compare(self, until_seq: int | None, erased: int) -> None:
        """Hold the state against everybody whose seq is reached; None: all events are applied."""
        while self._waiting and (until_seq is None or self._waiting[0].run.seq <= until_seq):
            shown = self._waiting.pop(0)
            derived = self._engine.runs.get(self._run)
            self._compared.append(f"{shown.by} at event {shown.run.seq}")
            if derived is not None and not self._difference:
                found = difference(derived, shown.run, erased > 0)
                self._difference = f"{found}, of the {shown.by} at event {shown.run.seq}" if found else ""


class _Unasked:
    """Replaying decides nothing."""

    def evaluate(self, graph: CompiledGraph, expression: int, facts: Mapping[str, Any]) -> bool:
        raise AssertionError("a replay evaluates no condition")

    def matches(self, rule: RulePlan, fact: Fact) -> bool:
        raise AssertionError("a replay asks no policy")


def difference(derived: Run, shown: Run, erased: bool) -> str:
    """The first field in which two states of a run differ; empty if none does."""
    left: dict[str, Any] = _BUILTIN(encode_run(derived))
    right: dict[str, Any] = _BUILTIN(encode_run(shown))
    for field, value in left.items():
        if field in NOT_EVENTS or (erased and field in FROM_CONTENT):
            continue
        found = _first(value, right.get(field), field)
        if found is not None:
            place, here, there = found
            if field in NAMES_TOO:
                return f"{field} differs"
            if field in CONTENT:
                return f"{place} differs"
            return f"{place} is {here!r} by the journal and {there!r} in the state"
    return ""


def _first(left: Any, right: Any, place: str) -> tuple[str, Any, Any] | None:
    """The first place, deepest, at which two values differ, and both values."""
    if left == right:
        return None
    if isinstance(left, dict) and isinstance(right, dict):
        mine, theirs = cast("dict[Any, Any]", left), cast("dict[Any, Any]", right)
        for key in {**mine, **theirs}:
            found = _first(mine.get(key), theirs.get(key), f"{place}.{key}")
            if found is not None:
                return found
    return place, left, right


class Forgiving:
    """A codec that counts the contents whose key was erased on purpose."""

    def __init__(self, codec: ContentCodec) -> None:
        self._codec = codec
        self.erased = 0

    def seal(self, data: bytes, aad: tuple[str, ...], key: bytes = NO_KEY) -> bytes:
        """As the codec behind it."""
        return self._codec.seal(data, aad, key)

    def open(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """As the codec behind it."""
        try:
            return self._codec.open(data, aad)
        except KeyErased:
            self.erased += 1
            raise


def replay_run(
    store: Store, codec: ContentCodec, blobs: Blobs, run_id: str, shown: Sequence[Shown] = ()
) -> Verdict:
    """Derive a run from the journal, and compare it with the newest snapshot and with ``shown``; blocks.

    Args:
        shown: taken before this is called, so that the journal holds all that they show.

    Raises:
        NotFound: nobody knows this run.
        Conflict: retention has dropped its beginning.
        StoreError: an object cannot be read; ``Corrupt`` names it.
    """
    told = [*shown, *_in_snapshot(store, codec, run_id)]
    forgiving = Forgiving(codec)
    events = _family(RunEvents(store, forgiving, 0), run_id)
    if not events and not told:
        raise NotFound(f"no run {run_id}")
    whole(run_id, events)
    return Replay(run_id, _graphs(blobs, events), told).verdict(events, forgiving.erased)


def derived_run(
    store: Store, codec: ContentCodec, blobs: Blobs, run_id: str
) -> tuple[RunView, list[Recorded]]:
    """A run as its journal tells it, with its events, where there is no controller to ask; writes nothing.

    Raises:
        NotFound: nobody knows this run.
        Conflict: retention has dropped its beginning.
        StoreError: an object cannot be read, or does not fit; ``Corrupt`` names it.
    """
    events = _family(RunEvents(store, codec, 0), run_id)
    if not events:
        raise NotFound(f"no run {run_id}")
    whole(run_id, events)
    replay = Replay(run_id, _graphs(blobs, events), ())
    verdict = replay.verdict(events)
    if verdict.misfit:
        raise Corrupt(f"events of {run_id}", verdict.misfit)
    return replay.view(), [told for told in events if told.event.run == run_id]


def _family(reader: RunEvents, run_id: str) -> list[Recorded]:
    """Of the whole family: children cost their ancestors' money."""
    events = reader.read_family(run_id)
    parent = getattr(events[0].event, "parent", "") if events else ""
    return _family(reader, parent) if parent else events


def _in_snapshot(store: Store, codec: ContentCodec, run_id: str) -> list[Shown]:
    manifest = load_latest_manifest(store, 0)
    if manifest is None:
        return []
    items = read_items(store, manifest, [RUN + run_id])
    return [Shown("snapshot", decode_run(open_item(codec, name, item))) for name, item in items.items()]


def _graphs(blobs: Blobs, events: Sequence[Recorded]) -> dict[str, CompiledGraph]:
    """The graphs of the runs that are nobody's children, with those inside them."""
    found: dict[str, CompiledGraph] = {}
    for _, _, event, _ in events:
        if isinstance(event, (ev.RunSubmitted, ev.RunForked)) and not getattr(event, "parent", ""):
            waiting = [decode_graph(blobs.get_graph(event.graph))]
            while waiting:
                graph = waiting.pop()
                found[graph.version] = graph
                waiting.extend(graph.subgraphs)
    return found
