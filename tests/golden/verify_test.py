"""Verifying a state names each object that is damaged, missing, or referred to by nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hive_ray.state.blobs import graph_name
from hive_ray.state.compaction import Compactor, Stamp, remove_covered
from hive_ray.state.history import HistoryManifest
from hive_ray.state.lineage import LINEAGE, open_for_work
from hive_ray.state.segments import segment_name, segment_number
from hive_ray.state.snapshots import kept_manifests, load_latest_manifest
from hive_ray.state.store import Store
from hive_ray.state.verify import Report, verify
from tests.golden.states import looked_into, real_state


@pytest.fixture
def state(tmp_path: Path) -> Store:
    return real_state(tmp_path)


def _report(store: Store) -> Report:
    return verify(looked_into(store))


def _found(store: Store) -> list[tuple[str, str]]:
    return [(finding.name, finding.problem) for finding in _report(store).findings]


def _segments(store: Store) -> list[str]:
    return [name for name in store.list("journal/0000/") if segment_number(name) is not None]


def _flip(store: Store, name: str) -> None:
    """One bit in the middle."""
    data = bytearray(store.get(name))
    data[len(data) // 2] ^= 4
    store.put(name, bytes(data))


def _compacted(store: Store, until: int) -> HistoryManifest:
    compactor = Compactor(store, 0, lambda runs: [])
    manifest = compactor.compact(HistoryManifest(0), until, Stamp(1, 1, 1_700_000_000_000_000))
    remove_covered(store, manifest)
    return manifest


def test_a_whole_state_has_no_findings(state: Store):
    """And everything in it was read."""
    report = _report(state)

    assert report.findings == []
    assert report.counts.segments == len(_segments(state)) == report.last[0]
    assert report.counts.events > report.counts.segments
    assert report.counts.items > 100
    assert report.counts.blobs >= 1
    assert report.counts.graphs >= 8


def test_a_lineage_belongs_to_a_state(state: Store):
    """Neither it nor its anchor is a stray object."""
    open_for_work(state, "local", 1)

    assert _report(state).findings == []


def _a_segment(store: Store) -> str:
    return _segments(store)[7]


def _a_part(store: Store) -> str:
    manifest = load_latest_manifest(store, 0)
    assert manifest is not None
    return next(iter(manifest.parts))


def _a_manifest(store: Store) -> str:
    return kept_manifests(store, 0)[-1].name


def _a_blob(store: Store) -> str:
    return store.list("blobs/")[0]


def _a_graph(store: Store) -> str:
    return store.list("graphs/")[0]


def _a_lineage(store: Store) -> str:
    open_for_work(store, "local", 1)
    return LINEAGE


@pytest.mark.parametrize("pick", [_a_segment, _a_part, _a_manifest, _a_blob, _a_graph])
def test_a_flipped_bit_is_found_and_named(state: Store, pick: Callable[[Store], str]):
    """In every kind of object."""
    name = pick(state)
    _flip(state, name)

    assert (name, "damaged") in _found(state)


@pytest.mark.parametrize("pick", [_a_segment, _a_part, _a_blob, _a_graph])
def test_a_missing_object_is_named(state: Store, pick: Callable[[Store], str]):
    """By what refers to it, or by the gap that it leaves."""
    name = pick(state)
    state.delete(name)

    report = _report(state)

    assert (name, "missing") in [(f.name, f.problem) for f in report.faults]


@pytest.mark.parametrize("pick", [_a_segment, _a_part, _a_manifest, _a_blob, _a_graph, _a_lineage])
def test_a_truncated_object_is_damaged(state: Store, pick: Callable[[Store], str]):
    """Half a write that a store let through."""
    name = pick(state)
    state.put(name, state.get(name)[:40])

    assert (name, "damaged") in _found(state)


def test_every_damage_is_named_at_once(state: Store):
    """One does not hide the next."""
    names = _segments(state)
    _flip(state, names[3])
    _flip(state, names[9])
    state.delete(names[5])
    _flip(state, _a_blob(state))

    faults = {f.name for f in _report(state).faults}

    assert {names[3], names[5], names[9], _a_blob(state)} <= faults


def test_a_journal_that_lost_its_end_is_short_of_its_snapshot(state: Store):
    """A snapshot cannot cover what is not there."""
    manifest = load_latest_manifest(state, 0)
    assert manifest is not None
    covered = manifest.header.segment_number
    for name in _segments(state):
        if (segment_number(name) or 0) >= covered:
            state.delete(name)

    faults = {f.name: f.why for f in _report(state).faults}

    assert "the journal ends at" in faults[segment_name(0, covered)]


def test_a_segment_under_another_number_is_found(state: Store):
    """A copy of a segment is no segment."""
    names = _segments(state)
    state.put(names[4], state.get(names[5]))

    assert (names[4], "damaged") in _found(state)


def test_strays_are_told_and_are_no_damage(state: Store):
    """A crash may leave objects behind that nothing came to name."""
    for name in ("blobs/nobody/abc", graph_name("0" * 64), "something/else"):
        state.create(name, b"\x00left behind")

    report = _report(state)

    assert report.faults == []
    assert [f.name for f in report.findings] == sorted(
        ["blobs/nobody/abc", graph_name("0" * 64), "something/else"]
    )


def test_compacted_segments_are_not_missing(state: Store):
    """Their events are in the history, which is read instead; epoch records stay in the journal."""
    before = _report(state).counts.events
    epochs = 1
    manifest = _compacted(state, 400)

    report = _report(state)

    assert report.findings == []
    assert manifest.covered > 100
    assert report.counts.history_files >= 1
    assert report.counts.events == before - epochs


def test_damage_in_the_history_is_named(state: Store):
    """A Parquet file, and an epoch record that must not be deleted."""
    manifest = _compacted(state, 400)
    _flip(state, manifest.files[0].name)
    state.delete(segment_name(0, manifest.epochs[0]))

    assert set(_found(state)) >= {
        (manifest.files[0].name, "damaged"),
        (segment_name(0, manifest.epochs[0]), "missing"),
    }


class Moving:
    """A store whose state changes while it is read: ``move`` runs before a name is first read."""

    def __init__(self, store: Store, name: str, move: Callable[[], object]) -> None:
        self._store = store
        self._name = name
        self._move: Callable[[], object] | None = move

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._store, attribute)

    def get(self, name: str) -> bytes:
        move = self._move
        if move is not None and name == self._name:
            self._move = None
            move()
        return self._store.get(name)


def test_what_a_live_controller_replaces_is_not_reported(state: Store):
    """Segments that are compacted and deleted after they were listed are looked for again."""
    moving: Any = Moving(state, _segments(state)[0], lambda: _compacted(state, 400))

    report = verify(looked_into(moving))

    assert report.findings == []
    assert report.counts.history_files >= 1
