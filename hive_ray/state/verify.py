"""Reads a whole state and names every object that is damaged, missing, or referred to by nothing.

Works beside a controller at work, which replaces snapshots and deletes what it has compacted: what looks
wrong is looked at again from the start, and only what is wrong every time is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, cast

import msgspec

from hive_ray.core.events import NOTHING
from hive_ray.core.fleet import Fleet
from hive_ray.errors import Corrupt, HiveError, KeyErased, ObjectMissing
from hive_ray.graph.compiled import decode_graph
from hive_ray.state import history, intermediate_keys, lineage, parquet, snapshots
from hive_ray.state.backup import HEAD
from hive_ray.state.blobs import BlobRef, Blobs, graph_name
from hive_ray.state.content import ContentCodec
from hive_ray.state.journal import check_continues, heartbeat_name
from hive_ray.state.keyring import Keyring
from hive_ray.state.reading import read_in_order
from hive_ray.state.records import read_row
from hive_ray.state.segments import (
    Row,
    Segment,
    decode_segment,
    segment_folder,
    segment_name,
    segment_number,
)
from hive_ray.state.snapshots import Item
from hive_ray.state.store import Store

PASSES = 3

Problem = Literal["damaged", "missing", "unreferenced"]
DecodeItem = Callable[[str, Item], Any]
"""(key, item) of a snapshot to the state that it holds; raises what a damaged one raises."""

_BLOB = re.compile(r"blobs/[^/]+/[^/]+")
_LEAVES = frozenset((str, bytes, int, float, bool, type(None)))
"""What names nothing, and makes up nearly all of what is decoded."""


class Finding(NamedTuple):
    """One object, and what is wrong with it.

    ``unreferenced`` is no damage: a crash may leave an object behind that nothing came to name.
    """

    name: str
    problem: Problem
    why: str


class Counts(msgspec.Struct):
    """What was read."""

    objects: int = 0
    segments: int = 0
    events: int = 0
    items: int = 0
    """Of snapshots: one is a run, or the fleet."""
    blobs: int = 0
    graphs: int = 0
    history_files: int = 0
    key_pages: int = 0


class Report(NamedTuple):
    """What a state looks like."""

    findings: list[Finding]
    counts: Counts
    last: dict[int, int]
    """Newest segment of each partition."""

    @property
    def faults(self) -> list[Finding]:
        """Findings that mean damage."""
        return [finding for finding in self.findings if finding.problem != "unreferenced"]


class Inspected(NamedTuple):
    """What is needed to look into a state."""

    store: Store
    keyring: Keyring
    codec: ContentCodec
    blobs: Blobs
    decode_item: DecodeItem


def verify(state: Inspected) -> Report:
    """Read everything.

    Raises:
        StoreError: the store failed, so that nothing can be said.
    """
    report = _Pass(state).run()
    kept = report.findings
    for _ in range(PASSES - 1):
        if not kept:
            break
        report = _Pass(state).run()
        found = {(finding.name, finding.problem) for finding in report.findings}
        kept = [finding for finding in kept if (finding.name, finding.problem) in found]
    return report._replace(findings=kept)


class _Pass:
    """One reading of everything."""

    def __init__(self, state: Inspected) -> None:
        self._state = state
        self._store = state.store
        self._counts = Counts()
        self._findings: list[Finding] = []
        self._seen: set[str] = set()
        """Names that something refers to, or that belong where they are."""
        self._blobs: dict[str, tuple[int, str]] = {}
        """Blobs that are referred to: their size, and who says so."""
        self._graphs: dict[str, str] = {}
        self._last: dict[int, int] = {}

    def run(self) -> Report:
        names = self._store.list("")
        self._counts.objects = len(names)
        self._check(lineage.LINEAGE, lambda: lineage.read_lineage(self._store))
        self._seen.update((lineage.LINEAGE, lineage.ANCHOR, HEAD))
        self._keys(names)
        for partition in _partitions(names):
            self._partition(partition)
        self._check_graphs(set(names))
        self._check_blobs(set(names))
        for name in names:
            if name not in self._seen and not name.startswith("probe/"):
                self._find(name, "unreferenced", "nothing refers to it")
        return Report(sorted(self._findings), self._counts, self._last)

    # --- telling ---------------------------------------------------------------------------------

    def _find(self, name: str, problem: Problem, why: str) -> None:
        self._findings.append(Finding(name, problem, why))

    def _check(self, name: str, read: Callable[[], Any]) -> Any:
        """Read something; None if it is gone on purpose, or wrong, which is noted."""
        try:
            return read()
        except KeyErased:
            return None
        except ObjectMissing:
            self._find(name, "missing", "it is referred to")
        except Corrupt as error:
            missing = error.why.startswith("missing")
            self._find(error.name, "missing" if missing else "damaged", error.why)
        except (HiveError, msgspec.MsgspecError, KeyError, ValueError) as error:
            self._find(name, "damaged", str(error))
        return None

    # --- keys ------------------------------------------------------------------------------------

    def _keys(self, names: Iterable[str]) -> None:
        """Every page must open with the configured keys."""
        found = [name for name in names if name.startswith("keys/")]
        self._seen.update(found)
        if not found:
            return
        self._check(intermediate_keys.FOLDER, self._state.keyring.open)
        pages = sorted({name.split("/")[2] for name in found if name.startswith("keys/pages/")})
        for page in pages:
            self._counts.key_pages += 1
            self._check(f"keys/pages/{page}/", lambda page=page: self._load_page(page))

    def _load_page(self, page: str) -> None:
        self._state.keyring.load(bytes.fromhex(page) + b"\0\0")

    # --- partitions ------------------------------------------------------------------------------

    def _partition(self, partition: int) -> None:
        manifest = self._history(partition)
        covered = manifest.covered if manifest else 0
        needed = self._snapshots(partition, covered)
        self._journal(partition, covered, set(manifest.epochs) if manifest else set(), needed)
        self._seen.add(heartbeat_name(partition))

    def _history(self, partition: int) -> history.HistoryManifest | None:
        folder = history.manifest_folder(partition)
        self._seen.update(self._store.list(folder))
        manifest = self._check(folder, lambda: history.newest_manifest(self._store, partition))
        if manifest is None:
            return None
        self._seen.update(dropped.name for dropped in manifest.dropped)
        for file in manifest.files:
            self._seen.add(file.name)
            self._counts.history_files += 1
            self._check(file.name, lambda file=file: self._history_file(file))
        return manifest

    def _history_file(self, file: history.HistoryFile) -> None:
        data = self._store.get(file.name)
        if len(data) != file.size or history.digest_of(data) != file.digest:
            raise Corrupt(file.name, "its bytes do not have the digest that the manifest recorded")
        if file.kind != "events":
            return
        for row in parquet.journal_rows(parquet.read_columns(file, data, parquet.JOURNAL_COLUMNS)):
            self._row(file.name, row)

    def _snapshots(self, partition: int, covered: int) -> int:
        """Check the snapshots that stay; returns the segment that the newest one covers."""
        folder = snapshots.snapshot_folder(partition)
        found = self._check(folder, lambda: snapshots.kept_manifests(self._store, partition))
        newest = covered
        for manifest in found or ():
            newest = manifest.header.segment_number
            self._seen.update((manifest.name, *manifest.parts))
            for part in manifest.parts:
                self._part(manifest, part)
        return newest

    def _part(self, manifest: snapshots.Manifest, part: str) -> None:
        items = self._check(part, lambda: snapshots.read_part(self._store, manifest, part))
        for key, item in (items or {}).items():
            self._counts.items += 1
            self._item(f"{part} ({key})", key, item)

    def _item(self, who: str, key: str, item: Item) -> None:
        state = self._check(who, lambda: self._state.decode_item(key, item))
        self._refer(who, state)
        self._refer_graphs(who, state)

    def _journal(self, partition: int, covered: int, epochs: set[int], snapshot: int) -> None:
        """Segments behind the history are without gaps; before that, epoch records stay."""
        folder = segment_folder(partition)
        numbers = [n for n in map(segment_number, self._store.list(folder)) if n is not None]
        last = max(numbers, default=0)
        self._last[partition] = last
        if snapshot > last:
            why = f"a snapshot covers segment {snapshot}, and the journal ends at {last}"
            self._find(segment_name(partition, snapshot), "missing", why)
        for number in sorted((epochs | set(range(covered + 1, last + 1))) - set(numbers)):
            self._find(segment_name(partition, number), "missing", f"segment {last} exists")
        names = [segment_name(partition, number) for number in numbers]
        self._seen.update(names)
        previous: Segment | None = None
        for name, data in self._read(names):
            self._counts.segments += 1
            segment = self._check(name, lambda n=name, d=data: decode_segment(n, d))
            if segment is None or segment.header.number <= covered:
                previous = None
                continue
            if previous is not None and previous.header.number + 1 == segment.header.number:
                self._check(name, lambda p=previous, s=segment: check_continues(p, s))
            for row in segment.columns.rows():
                self._row(name, row)
            previous = segment

    def _read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Many objects; one that went away since it was listed is noted, and the rest goes on."""
        while names:
            try:
                for name, data in read_in_order(self._store, names):
                    names = names[1:]
                    yield name, data
            except Corrupt as error:
                self._find(error.name, "missing", error.why)
                names = names[1:]

    def _row(self, name: str, row: Row) -> None:
        self._counts.events += 1
        recorded = self._check(name, lambda: read_row(name, row, self._state.codec))
        if recorded is None:
            return
        who = f"event {row.seq} in {name}"
        if recorded.content is not NOTHING:
            self._refer(who, recorded.content)
        self._refer_graphs(who, recorded.event)

    # --- what is referred to -----------------------------------------------------------------------

    def _refer(self, who: str, value: Any) -> None:
        """Note every blob that a decoded value names, however deep."""
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, msgspec.Struct):
                blob = getattr(one, "blob", "")
                if blob and isinstance(blob, str) and _BLOB.fullmatch(blob):
                    self._blobs.setdefault(blob, (getattr(one, "size", -1), who))
                    continue
                inside: Iterable[Any] = msgspec.structs.astuple(one)
            elif isinstance(one, dict):
                inside = cast("dict[Any, Any]", one).values()
            elif isinstance(one, list | tuple):
                inside = cast("Iterable[Any]", one)
            else:
                continue
            waiting += [deeper for deeper in inside if type(deeper) not in _LEAVES and deeper]

    def _refer_graphs(self, who: str, value: Any) -> None:
        """Graphs that an event, a run or the fleet names; a child run's is also a part of its ancestor's."""
        if isinstance(value, Fleet):
            for agent in value.agents.values():
                self._graphs.setdefault(agent.graph, who)
            return
        graph = getattr(value, "graph", "")
        if graph and getattr(value, "parent", ""):
            self._seen.add(graph_name(graph))
        elif graph:
            self._graphs.setdefault(graph, who)

    def _check_graphs(self, names: set[str]) -> None:
        self._seen.update(graph_name(version) for version in self._graphs)
        for version, who in self._graphs.items():
            self._counts.graphs += 1
            if graph_name(version) not in names:
                self._find(graph_name(version), "missing", f"{who} refers to it")
            else:
                self._check(graph_name(version), lambda v=version: self._check_graph(v))

    def _check_graph(self, version: str) -> None:
        if decode_graph(self._state.blobs.get_graph(version)).version != version:
            raise Corrupt(graph_name(version), "its content is another graph's")

    def _check_blobs(self, names: set[str]) -> None:
        self._seen.update(self._blobs)
        for name, (size, who) in self._blobs.items():
            self._counts.blobs += 1
            if name not in names:
                self._find(name, "missing", f"{who} refers to it")
            else:
                self._check(name, lambda n=name, s=size: self._state.blobs.get(BlobRef(n, s)))


def _partitions(names: Iterable[str]) -> list[int]:
    found = {name.split("/")[1] for name in names if name.startswith(("journal/", "snapshots/"))}
    return sorted(int(part) for part in found if part.isdigit())
