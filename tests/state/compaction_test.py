"""Old segments become history; whatever comes between two steps, no event is lost or counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hive_ray.control.recovery import recover
from hive_ray.core.commands import Cancel
from hive_ray.core.fleet import encode_fleet
from hive_ray.core.messages import Lease, Outcome
from hive_ray.core.run import decode_run, encode_run
from hive_ray.errors import Corrupt, StoreError
from hive_ray.state import compaction, event_rows, parquet
from hive_ray.state.blobs import Blobs
from hive_ray.state.compaction import Compactor, Stamp, remove_covered, remove_strays
from hive_ray.state.content import PlainCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.history_reading import open_file, run_rows, summaries
from hive_ray.state.journal import Journal
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.run_events import RunEvents, every_row
from hive_ray.state.run_items import RUN
from hive_ray.state.segments import Row, segment_folder, segment_number
from hive_ray.state.snapshots import (
    SnapshotHeader,
    SnapshotWriter,
    kept_manifests,
    load_latest,
    write_snapshot,
)
from hive_ray.state.store import Store, open_store
from hive_ray.state.summaries import summarise
from tests.control.driver import OWNER, Driver
from tests.control.shell_test import GRAPH, done, submit
from tests.core.graphs import Facts
from tests.state.faults import Faulty
from tests.state.slices import to_end


@pytest.fixture(params=["file", "memory"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that answers at once: what differs between kinds of stores is tested elsewhere."""
    if request.param == "file":
        yield open_store(f"file://{tmp_path}/state")
    else:
        yield MemoryStore("compaction")
        forget_memory("compaction")


class Interrupted(Exception):
    """The process ended here."""


def compactor(store: Store) -> Compactor:
    return Compactor(store, 0, lambda runs: summarise(store, 0, PlainCodec(), runs))


def snapshot(store: Store, driver: Driver) -> None:
    """All runs as they are, in one snapshot."""
    engine, journal = driver.engine, driver.shell.journal
    previous = load_latest(store, 0)
    header = SnapshotHeader(0, engine.fleet.epoch, engine.seq, journal.number)
    writer = SnapshotWriter(header, previous.manifest if previous else None)
    writer.add("fleet", engine.fleet.seq, encode_fleet(engine.fleet))
    for run in engine.runs.values():
        writer.add(RUN + run.id, run.seq, encode_run(run))
    write_snapshot(store, to_end(writer.finish()))


def lived(store: Store, runs: int = 3) -> Driver:
    """Runs that ended and runs that wait, over two incarnations and two snapshots."""
    driver = Driver(store, [GRAPH])
    _work(driver, "a", runs)
    driver = Driver(store, [GRAPH])
    _work(driver, "b", runs)
    snapshot(store, driver)
    _work(driver, "c", runs)
    driver.pass_time(90_000_000_000)
    snapshot(store, driver)
    _work(driver, "d", 1)
    return driver


def _work(driver: Driver, prefix: str, runs: int) -> None:
    session = driver.attached().session
    waiting = driver.exchange(session, 1)
    for number in range(runs):
        driver.command(submit(f"{prefix}{number}"))
        reply = driver.replies[waiting]
        waiting = driver.exchange(session, reply.n + 1, *(paid(lease) for lease in reply.leases))


def paid(lease: Lease) -> Outcome:
    """A step that cost something with nine places."""
    return msgspec.structs.replace(done(lease), cost_nanousd=1_234_567_891)


def rows_of(store: Store) -> list[Row]:
    """Every event of the state, wherever it lies now."""
    rows = list(every_row(store, 0))
    manifest = newest_manifest(store, 0)
    for run in ("a0", "b0", ""):
        kept = [row for row in rows if row.run == run and row.seq <= manifest.covered_seq]
        assert list(run_rows(store, manifest, run)) == kept
    assert rows == sorted(rows)
    return rows


def covered(driver: Driver) -> int:
    """The segment up to which compaction may go: what the older of two snapshots covers."""
    return kept_manifests(driver.store, 0)[0].header.segment_number


def state_of(store: Store) -> dict[str, bytes]:
    blobs = Blobs(store, PlainCodec(), b"k" * 32)
    engine = recover(store, blobs, PlainCodec(), Facts(), 0, OWNER, 1_000_000).engine
    return {run.id: encode_run(run) for run in engine.runs.values()}


def compact_all(store: Store, until: int, attempt: int = 0) -> HistoryManifest:
    work = compactor(store)
    manifest = newest_manifest(store, 0)
    while manifest.covered < until:
        attempt += 1
        manifest = work.compact(manifest, until, Stamp(7, attempt, 1))
    remove_covered(store, manifest)
    return manifest


def test_history_holds_each_event_once_and_segments_behind_it_go(store: Store):
    """Events are the same before and after; epoch records stay; recovery gives the same runs."""
    driver = lived(store)
    before, until = rows_of(store), covered(driver)
    epochs = [s.header.number for s in Journal(store, 0).read_segments(1, until) if s.header.kind == "epoch"]
    runs = state_of(store)

    manifest = compact_all(store, until)

    assert rows_of(store) == before
    left = [segment_number(name) for name in store.list(segment_folder(0))]
    assert [number for number in left if number is not None and number <= until] == epochs
    assert list(manifest.epochs) == epochs and manifest.covered == until
    assert state_of(store) == runs


def test_files_lie_by_day_and_team_and_carry_what_an_event_does_not_repeat(local: Store):
    """Node, pool, team and agent of a step come from events before it, even of an earlier compaction."""
    driver = lived(local)
    until = covered(driver)
    compact_all(local, until // 2)
    manifest = compact_all(local, until, 50)

    lines: list[dict[str, Any]] = []
    for file in manifest.of("events"):
        assert file.name.startswith(f"history/date={file.date}/team={file.team or '_'}/")
        lines.extend(parquet.read_columns(file, open_file(local, file)).to_pylist())
    steps = [line for line in lines if line["kind"] in ("StepStarted", "StepSucceeded")]
    assert steps and {line["node"] for line in steps} == {"a"}
    assert {(line["team"], line["agent"], line["pool"]) for line in steps} == {("team", "agent", "function")}
    assert {line["team"] for line in lines if not line["run_id"]} == {""}


def test_a_crash_between_any_two_steps_is_harmless(local: Store):
    """Before or behind any operation on the store: the next compaction ends with the same history."""
    driver = lived(local, runs=1)
    before, until = rows_of(local), covered(driver)
    objects = {name: local.get(name) for name in local.list("")}

    for moment in ("before", "after"):
        steps = 0
        while crashes(local, until, steps, moment):
            assert rows_of(local) == before, (moment, steps)
            manifest = compact_all(local, until, 9_000)
            remove_strays(local, manifest)
            assert rows_of(local) == before, (moment, steps)
            assert local.list("history/") == sorted(file.name for file in manifest.of("events"))
            assert len(local.list(segment_folder(0))) < len(objects)
            restore(local, objects)
            steps += 1
        assert steps > 15
        restore(local, objects)


def restore(store: Store, objects: dict[str, bytes]) -> None:
    """The state as it was."""
    present = set(store.list(""))
    for name in present - objects.keys():
        store.delete(name)
    for name in objects.keys() - present:
        store.create(name, objects[name])


def crashes(store: Store, until: int, crash_at: int, moment: str) -> bool:
    """Compact over a store that ends the process at its n-th operation."""
    left = [crash_at]

    def hook(operation: str, name: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted

    faulty = Faulty(store, **{moment: hook})  # pyright: ignore[reportArgumentType]
    try:
        compact_all(faulty, until, crash_at * 10)
    except Interrupted:
        return True
    return False


def test_two_controllers_that_compact_at_once_make_one_history(local: Store):
    """The manifest is created if absent: who comes second takes what the first one wrote."""
    driver = lived(local)
    before, until = rows_of(local), covered(driver)
    base = newest_manifest(local, 0)

    first = compactor(local).compact(base, until, Stamp(1, 1, 1))
    second = compactor(local).compact(base, until // 2, Stamp(2, 1, 1))

    assert second == first
    remove_covered(local, second)
    assert rows_of(local) == before


def test_a_lost_acknowledgement_of_the_manifest_is_found_out(local: Store):
    """The same bytes stand there: it was written."""
    driver = lived(local)
    before, until = rows_of(local), covered(driver)

    def lose(operation: str, name: str) -> None:
        if operation == "create" and name.startswith("manifests/"):
            raise StoreError("connection reset")

    base = newest_manifest(local, 0)
    with pytest.raises(StoreError):
        compactor(Faulty(local, after=lose)).compact(base, until, Stamp(1, 1, 1))
    manifest = compactor(local).compact(base, until, Stamp(1, 2, 1))

    assert manifest.covered == until
    assert rows_of(local) == before


def test_an_ended_run_is_found_by_its_id(local: Store):
    """Its summary says what became of it, and holds its state as the snapshot had it."""
    driver = lived(local)
    driver.command(Cancel("a0", "enough"))
    snapshot(local, driver)
    driver.command(submit("e0"))
    snapshot(local, driver)

    manifest = compact_all(local, covered(driver))

    found = summaries(local, manifest, ["a0", "a1", "nobody"])
    assert list(found) == ["a0"]
    assert found["a0"]["status"] == "cancelled"
    assert decode_run(found["a0"]["state"]).answers == driver.engine.runs["a0"].answers


def test_events_of_a_run_are_read_across_history_and_journal(local: Store):
    """In order, each once, with and without knowing its segments, from any seq on."""
    driver = lived(local)
    expected = [event.seq for event in RunEvents(local, PlainCodec(), 0).read("a1")]
    assert len(expected) > 3

    compact_all(local, covered(driver))

    reader = RunEvents(local, PlainCodec(), 0)
    segments = driver.engine.runs["a1"].segments
    assert [event.seq for event in reader.read("a1")] == expected
    assert [event.seq for event in reader.read("a1", 0, segments)] == expected
    assert [event.seq for event in reader.read("a1", expected[1], segments)] == expected[2:]


def test_a_long_journal_is_compacted_in_bounded_steps(local: Store, monkeypatch: pytest.MonkeyPatch):
    """One step covers so many segments at most, and says how far it came."""
    driver = lived(local)
    before, until = rows_of(local), covered(driver)
    monkeypatch.setattr(compaction, "MOST_SEGMENTS", 4)
    work = compactor(local)

    first = work.compact(newest_manifest(local, 0), until, Stamp(1, 1, 1))
    assert first.covered == 4
    manifest = first
    while manifest.covered < until:
        manifest = work.compact(manifest, until, Stamp(1, manifest.number + 1, 1))

    assert rows_of(local) == before


def test_what_was_forgotten_on_the_way_is_looked_up_in_the_newest_history(
    local: Store, monkeypatch: pytest.MonkeyPatch
):
    """A compactor remembers so many runs: of any other it reads anew what its first events told."""
    monkeypatch.setattr(compaction, "MOST_SEGMENTS", 2)
    monkeypatch.setattr(event_rows, "RUNS_REMEMBERED", 0)
    driver = lived(local)

    manifest = compact_all(local, covered(driver))
    teams: dict[str, set[str]] = {}
    for file in manifest.of("events"):
        for line in parquet.read_columns(file, open_file(local, file)).to_pylist():
            teams.setdefault(line["run_id"], set()).add(line["team"])
    assert {run for run, found in teams.items() if len(found) > 1} == set()


def test_a_damaged_file_is_named(local: Store):
    """Nothing is left out in silence."""
    driver = lived(local)
    manifest = compact_all(local, covered(driver))
    (file, *_) = manifest.of("events")
    local.put(file.name, b"PAR1" + b"\0" * 40)

    with pytest.raises(Corrupt, match=file.name):
        list(run_rows(local, manifest, file.first_run))


def test_an_old_writer_is_fenced_and_the_owner_known_after_compaction(local: Store):
    """Its next number is that of an epoch record, which stays when everything around it is gone."""
    old = Driver(local, [GRAPH])
    _work(old, "a", 2)
    new = Driver(local, [GRAPH])
    _work(new, "b", 2)
    for number in range(2):
        snapshot(local, new)
        new.command(submit(f"c{number}"))
    manifest = compact_all(local, covered(new))
    assert manifest.covered > old.shell.journal.number + 1

    old.command(submit("d0"))

    assert old.ended is not None and "replaced" in str(old.ended.reason)
    state = Journal(local, 0).read_owner()
    assert state is not None and (state.epoch, state.number) == (2, new.shell.journal.number)
    assert "d0" not in {row.run for row in every_row(local, 0)}
