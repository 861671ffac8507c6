"""Incremental snapshots: what is live comes back, whatever changed in between."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hive_ray.errors import Corrupt, StoreError
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.snapshots import (
    FORMAT,
    FRAME_BYTES,
    MAX_PARTS,
    PART_BYTES,
    Finished,
    Item,
    Manifest,
    SnapshotHeader,
    SnapshotWriter,
    garbage,
    kept_manifests,
    load_latest,
    snapshot_folder,
    whole_part,
    write_snapshot,
)
from hive_ray.state.store import Store
from tests.state.faults import Faulty, once
from tests.state.slices import to_end

State = dict[str, Item]


def finish(store: Store, writer: SnapshotWriter) -> Finished:
    """Carry what must move and finish, as the controller does."""
    for part in writer.to_rewrite():
        to_end(writer.carry(part, whole_part(store, part)))
    return to_end(writer.finish())


def take(
    store: Store, number: int, changes: State, dropped: list[str], previous: Manifest | None
) -> Finished:
    """Write one snapshot of some changes."""
    writer = SnapshotWriter(SnapshotHeader(0, 1, number * 10, number), previous)
    for key, item in changes.items():
        writer.add(key, item.seq, item.data)
    for key in dropped:
        writer.drop(key)
    finished = finish(store, writer)
    write_snapshot(store, finished)
    return finished


def test_no_snapshot_is_none(store: Store):
    """A new state has none."""
    assert load_latest(store, 0) is None
    assert garbage(store.list(snapshot_folder(0)), kept_manifests(store, 0)) == []


def test_snapshot_comes_back_and_unchanged_items_are_not_written_again(store: Store):
    """The second snapshot writes what changed; the rest stays where it was."""
    first = {f"run-{n}": Item(n, os.urandom(5_000)) for n in range(100)}
    one = take(store, 1, first, [], None)
    two = take(store, 2, {"run-7": Item(200, b"new")}, ["run-8"], one.manifest)

    snapshot = load_latest(store, 0)
    assert snapshot is not None
    assert snapshot.manifest == two.manifest
    assert snapshot.manifest.header.base_seq == 20
    expected = {**first, "run-7": Item(200, b"new")}
    del expected["run-8"]
    assert snapshot.items == expected
    assert sum(len(data) for _, data in two.objects()) < 10_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcdefghij"), st.binary(max_size=300_000), max_size=6),
            st.lists(st.sampled_from("abcdefghij"), max_size=4),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_history_of_snapshots_reads_as_its_last_state(history: list[tuple[dict[str, bytes], list[str]]]):
    """A model dict and the store agree after every snapshot; garbage is removed all along."""
    store = MemoryStore("history")
    model: State = {}
    manifest: Manifest | None = None
    for number, (changed, dropped) in enumerate(history, 1):
        changes = {key: Item(number * 10, data) for key, data in changed.items()}
        manifest = take(store, number, changes, dropped, manifest).manifest
        model = {key: item for key, item in {**model, **changes}.items() if key not in dropped}
        for name in garbage(store.list(snapshot_folder(0)), kept_manifests(store, 0)):
            store.delete(name)
        snapshot = load_latest(store, 0)
        assert snapshot is not None and snapshot.items == model
        assert len(kept_manifests(store, 0)) == min(number, 2)
    forget_memory("history")


def test_writes_space_and_objects_stay_bounded():
    """500 snapshots of a changing set: writes at most 4x, space at most 3x live, parts at most MAX_PARTS."""
    store = MemoryStore("bounded")
    manifest: Manifest | None = None
    added = written = 0
    for number in range(1, 501):
        # A tenth of the keys lives for ever, so that old parts thin out slowly.
        keys = [f"run-{number}-{n}" for n in range(10)]
        changes = {key: Item(number, os.urandom(2_000)) for key in keys}
        dropped = [f"run-{number - 20}-{n}" for n in range(1, 10)]
        finished = take(store, number, changes, dropped, manifest)
        manifest = finished.manifest
        added += sum(len(item.data) for item in changes.values())
        written += sum(len(data) for _, data in finished.objects()[:-1])
        for name in garbage(store.list(snapshot_folder(0)), kept_manifests(store, 0)):
            store.delete(name)
    assert manifest is not None
    live = sum(place.size for place in manifest.places.values())
    parts = [name for name in store.list(snapshot_folder(0)) if "/parts/" in name]

    assert len(manifest.places) == 500 + 20 * 9
    assert written / added <= 4
    assert sum(part.size for part in manifest.parts.values()) <= 3 * live
    assert len(manifest.parts) <= MAX_PARTS + 1
    assert len(parts) <= 2 * MAX_PARTS + 2
    forget_memory("bounded")


def test_part_of_which_less_than_half_is_live_is_rewritten():
    """Its live rest moves into the next snapshot's part, and nothing points to it any more."""
    store = MemoryStore("sparse")
    items = {f"k{n}": Item(1, os.urandom(1_000)) for n in range(10)}
    one = take(store, 1, items, [], None)
    half = take(store, 2, {}, ["k0", "k1", "k2", "k3", "k4"], one.manifest)
    less = take(store, 3, {}, ["k5"], half.manifest)

    assert list(half.manifest.parts) == list(one.manifest.parts)
    assert not set(less.manifest.parts) & set(one.manifest.parts)
    snapshot = load_latest(store, 0)
    assert snapshot is not None
    assert snapshot.items == {key: items[key] for key in ("k6", "k7", "k8", "k9")}
    forget_memory("sparse")


def test_small_parts_are_joined():
    """Runs that wait for ever leave one part each snapshot: recovery still reads few objects."""
    store = MemoryStore("joined")
    manifest: Manifest | None = None
    written = 0
    for number in range(1, 301):
        changes = {f"run-{number}": Item(number, os.urandom(1_000))}
        finished = take(store, number, changes, [], manifest)
        manifest = finished.manifest
        written += sum(len(data) for _, data in finished.objects()[:-1])

    assert manifest is not None and len(manifest.places) == 300
    assert len(manifest.parts) <= MAX_PARTS + 1
    assert written <= 4 * 300 * 1_000
    forget_memory("joined")


def test_item_added_twice_and_dropped_in_one_snapshot(store: Store):
    """The last word counts, also across a part that was closed in between."""
    writer = SnapshotWriter(SnapshotHeader(0, 1, 10, 1), None)
    writer.add("twice", 1, b"old")
    writer.add("gone", 1, b"x")
    writer.add("back", 1, b"x")
    writer.drop("gone")
    writer.drop("back")
    writer.add("big", 2, bytes(PART_BYTES))
    writer.add("twice", 3, b"new")
    writer.add("back", 4, b"again")
    write_snapshot(store, finish(store, writer))

    snapshot = load_latest(store, 0)
    assert snapshot is not None and len(snapshot.manifest.parts) == 2
    del snapshot.items["big"]
    assert snapshot.items == {"twice": Item(3, b"new"), "back": Item(4, b"again")}


def test_one_item_can_be_read_by_its_frame_alone(store: Store):
    """Offset and length of the manifest are those of a frame that opens without the rest of the part."""
    items = {f"run-{n}": Item(n, os.urandom(FRAME_BYTES // 3)) for n in range(20)}
    place = take(store, 1, items, [], None).manifest.places["run-13"]

    frame = store.get_range(place.part, place.offset, place.length)
    schema = pa.schema([("key", pa.string()), ("seq", pa.int64()), ("data", pa.binary())])
    batch = pa.ipc.read_record_batch(pa.py_buffer(zstandard.decompress(frame)), schema)
    assert batch.slice(place.row, 1).to_pylist() == [
        {"key": "run-13", "seq": 13, "data": items["run-13"].data}
    ]
    assert place.length < 2 * FRAME_BYTES


def test_part_is_one_arrow_stream_for_anybody(tmp_path: Path):
    """zstd and Arrow alone read a part."""
    store = MemoryStore("foreign")
    take(store, 1, {"a": Item(1, b"x"), "b": Item(2, bytes(FRAME_BYTES)), "c": Item(3, b"")}, [], None)
    (part,) = [name for name in store.list(snapshot_folder(0)) if "/parts/" in name]
    raw = zstandard.ZstdDecompressor().stream_reader(store.get(part), read_across_frames=True).read()

    assert pa.ipc.open_stream(raw).read_all().column("key").to_pylist() == ["a", "b", "c"]
    forget_memory("foreign")


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("manifest", "cut"),
        ("manifest", "flip"),
        ("manifest", "foreign"),
        ("part", "cut"),
        ("part", "flip"),
        ("part", "foreign"),
        ("part", "gone"),
    ],
)
def test_damaged_newest_snapshot_is_named_and_no_older_one_is_taken(store: Store, kind: str, damage: str):
    """Silently falling back would lose what the journal behind it no longer holds."""
    one = take(store, 1, {"a": Item(1, b"1" * 500)}, [], None)
    two = take(store, 2, {"b": Item(2, b"2" * 500)}, [], one.manifest)
    name = two.objects()[-1 if kind == "manifest" else 0][0]
    data = store.get(name)
    damaged = {"cut": data[:-3], "flip": data[:60] + bytes([data[60] ^ 1]) + data[61:], "foreign": b"hello"}
    store.delete(name) if damage == "gone" else store.put(name, damaged[damage])

    with pytest.raises(Corrupt, match=name):
        load_latest(store, 0)


def test_manifest_under_another_name_is_refused(store: Store):
    """A copy of an older manifest does not pass for a newer one."""
    one = take(store, 1, {"a": Item(1, b"1")}, [], None)
    newer = one.manifest.name.replace("000000000001-", "000000000002-")
    store.create(newer, store.get(one.manifest.name))

    with pytest.raises(Corrupt, match="copy of"):
        load_latest(store, 0)


def test_manifest_of_a_newer_release_says_so(store: Store):
    """An unknown format is not called damage."""
    writer = SnapshotWriter(SnapshotHeader(0, 1, 1, 1, format=FORMAT + 1), None)
    write_snapshot(store, to_end(writer.finish()))

    with pytest.raises(Corrupt, match="newer release"):
        load_latest(store, 0)


def test_crash_before_the_manifest_leaves_the_older_snapshot_and_garbage(store: Store):
    """Parts without a manifest are nothing; the next snapshot makes them garbage."""
    one = take(store, 1, {"a": Item(1, b"1")}, [], None)
    writer = SnapshotWriter(SnapshotHeader(0, 1, 20, 2), one.manifest)
    writer.add("b", 2, b"2")
    orphan = to_end(writer.finish()).objects()[0]
    store.create(*orphan)

    snapshot = load_latest(store, 0)
    assert snapshot is not None and snapshot.items == {"a": Item(1, b"1")}
    take(store, 3, {"c": Item(3, b"3")}, [], one.manifest)
    assert garbage(store.list(snapshot_folder(0)), kept_manifests(store, 0)) == [orphan[0]]


def test_repeated_write_is_harmless_and_another_under_the_same_name_is_refused(store: Store):
    """A retry after a lost acknowledgement succeeds; different content under one name never mixes."""
    writer = SnapshotWriter(SnapshotHeader(0, 1, 10, 1), None)
    writer.add("a", 1, b"1")
    finished = to_end(writer.finish())
    with pytest.raises(StoreError, match="reset"):
        write_snapshot(Faulty(store, after=once("create", StoreError("reset"))), finished)
    write_snapshot(store, finished)
    other = SnapshotWriter(SnapshotHeader(0, 1, 10, 1), None)
    other.add("a", 1, b"2")

    with pytest.raises(StoreError, match="another snapshot"):
        write_snapshot(store, to_end(other.finish()))
    snapshot = load_latest(store, 0)
    assert snapshot is not None and snapshot.items == {"a": Item(1, b"1")}


def test_snapshot_must_cover_a_later_segment_than_the_one_before(store: Store):
    """Two snapshots of one segment would share names."""
    one = take(store, 1, {}, [], None)

    with pytest.raises(ValueError, match="already covers"):
        SnapshotWriter(SnapshotHeader(0, 1, 10, 1), one.manifest)


def test_garbage_keeps_two_snapshots_and_what_a_newer_controller_wrote(store: Store):
    """An old controller that wakes up deletes nothing that the new one needs."""
    manifests = [take(store, 1, {"a": Item(1, b"1")}, [], None).manifest]
    for number in (2, 3):
        manifests.append(take(store, number, {"a": Item(number, b"%d" % number)}, [], manifests[-1]).manifest)
    seen_by_the_old_one = kept_manifests(store, 0)
    take(store, 4, {"b": Item(4, b"4")}, [], manifests[-1])

    doomed = garbage(store.list(snapshot_folder(0)), seen_by_the_old_one)
    assert doomed == sorted([manifests[0].name, *manifests[0].parts])
    for name in doomed:
        store.delete(name)
    snapshot = load_latest(store, 0)
    assert snapshot is not None and snapshot.items == {"a": Item(3, b"3"), "b": Item(4, b"4")}


def test_empty_items_stay(store: Store):
    """An item without bytes is live and moves with its part."""
    manifest = take(store, 1, {f"k{n}": Item(1, b"") for n in range(10)}, [], None).manifest
    for number, key in zip(itertools.count(2), ["k0", "k1", "k2", "k3", "k4", "k5"], strict=False):
        manifest = take(store, number, {}, [key], manifest).manifest

    snapshot = load_latest(store, 0)
    assert snapshot is not None and sorted(snapshot.items) == ["k6", "k7", "k8", "k9"]
