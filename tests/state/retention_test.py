"""Old days go as a whole, never one in which a live run has events; small files are joined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.control.keeping import Keeper, _Kept
from hive_ray.core.commands import Cancel
from hive_ray.state import merging
from hive_ray.state.compaction import Stamp, remove_dropped, remove_strays
from hive_ray.state.history import HistoryFile, HistoryManifest, Spans, date_of, newest_manifest
from hive_ray.state.history_reading import run_rows, summaries
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.pieces import Pieces
from hive_ray.state.retention import ALL, Referred, Retention, is_due, left_behind, remove_blobs, retain
from hive_ray.state.run_items import RUN
from hive_ray.state.snapshots import items_shown, kept_manifests
from tests.control.driver import Driver
from tests.control.shell_test import submit
from tests.state.compaction_test import compact_all, compactor, covered, lived, rows_of, snapshot

DAY_US = 86_400_000_000
NOBODY = _Kept(set(), ALL)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    yield MemoryStore("retention")
    forget_memory("retention")


def compacted(store: MemoryStore) -> tuple[Driver, HistoryManifest]:
    """Two days of history, in which a0 ended on the first; a1 lives."""
    driver = lived(store)
    driver.command(Cancel("a0", "enough"))
    for number in range(2):
        driver.pass_time(DAY_US)
        driver.command(submit(f"c{5 + number}"))
        snapshot(store, driver)
    return driver, compact_all(store, covered(driver))


def days(manifest: HistoryManifest, team: str) -> set[str]:
    return {file.date for file in manifest.of("events") if file.team == team}


def test_a_day_without_live_runs_goes_when_it_is_old(store: MemoryStore):
    """Of the team whose setting says so; files stay until readers that know them are done."""
    driver, manifest = compacted(store)
    now_us = driver.clock.wall_us + 40 * DAY_US
    setting = Retention(0, {"team": 30})

    after = retain(store, manifest, setting, [], 1, now_us)

    assert days(after, "team") == set() and days(after, "") == days(manifest, "")
    assert after == newest_manifest(store, 0)
    assert list(run_rows(store, manifest, "a1")) and not list(run_rows(store, after, "a1"))
    assert not summaries(store, after, ["a0"])
    cleaned = remove_dropped(store, after, now_us + 1)
    assert cleaned.dropped == ()
    assert not [name for name in store.list("history/") if "team=team" in name]


def test_blobs_go_with_the_last_summary_of_their_run(store: MemoryStore):
    """Its children's too; those of whoever is still known stay, and so does long-term memory."""
    driver, manifest = compacted(store)
    driver.command(Cancel("b0", "enough"))
    for number in range(2):
        driver.command(submit(f"e{number}"))
        snapshot(store, driver)
    manifest = compact_all(store, covered(driver), 30)
    assert set(summaries(store, manifest, ["a0", "b0", "e0"])) == {"a0", "b0"}
    stay = ["a00", "b0", "e0", "memory-agent-a0"]
    for owner in ("a0", "a0_1-0", *stay):
        store.create(f"blobs/{owner}/x", b"x")
    now_us = driver.clock.wall_us + 40 * DAY_US
    after = retain(store, manifest, Retention(30), [], 1, now_us)

    assert not left_behind(store, after, now_us, ["b0"]), "readers may still know it"
    assert is_due(after, now_us + 1) and not is_due(after, now_us)
    assert remove_blobs(store, left_behind(store, after, now_us + 1, ["b0"])) == 2

    assert [name.split("/")[1] for name in store.list("blobs/")] == stay


def test_blobs_stay_while_a_snapshot_shows_their_run(store: MemoryStore):
    """Whoever recovers from it knows the run again; the next snapshots do without it, and then they go."""
    driver, manifest = compacted(store)
    store.create("blobs/a0/x", b"x")
    now_us = driver.clock.wall_us + 40 * DAY_US
    after = retain(store, manifest, Retention(30), [], 1, now_us)
    assert RUN + "a0" in items_shown(store, 0)
    keeper = Keeper(store, Pieces(store, compactor(store)), Retention(30), after)

    assert keeper._remove_dropped(after, NOBODY, now_us + 1) == after
    assert store.list("blobs/") == ["blobs/a0/x"]

    while found := kept_manifests(store, 0):
        store.delete(found[-1].name)
    assert keeper._remove_dropped(after, NOBODY, now_us + 1).dropped == ()
    assert not store.list("blobs/")


def test_values_of_long_term_memory_that_nobody_reported_go_too(store: MemoryStore):
    """Once they are too old for a report to come; those whose name does not tell their age stay."""
    kept = ["m-0000000005-ab", "m-0000000009-ab", "m-abcd", "x"]
    for name in ("m-0000000008-ab", *kept):
        store.create(f"blobs/memory-agent-a0/{name}", b"x")
    referred = {"blobs/memory-agent-a0/m-0000000005-ab"}

    assert remove_blobs(store, ["a0"], Referred(referred, 9_000_000)) == 1
    assert [name.split("/")[2] for name in store.list("blobs/")] == kept
    assert remove_blobs(store, [], Referred((), 9_000_000_000)) == 0, "looked at beside others only"


def test_files_that_were_joined_take_no_blobs_with_them(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """Their runs are in the new file."""
    monkeypatch.setattr(merging, "MANY", 1)
    driver, manifest = compacted(store)
    store.create("blobs/a0/x", b"x")
    for attempt in range(100, 120):
        manifest = merging.merge(store, manifest, Stamp(1, attempt, 5))
    assert is_due(manifest, 6)

    assert not left_behind(store, manifest, 6, [])
    assert driver.store.list("blobs/") == ["blobs/a0/x"]


def test_a_day_with_events_of_a_live_run_stays_whole(store: MemoryStore):
    """However old it is; the others of that team go."""
    driver, manifest = compacted(store)
    assert len(days(manifest, "team")) > 1
    now_us = driver.clock.wall_us + 400 * DAY_US

    after = retain(store, manifest, Retention(30), ["a1"], 1, now_us)

    kept = days(after, "team")
    assert kept == {date_of(row.time_us) for row in run_rows(store, manifest, "a1")} < days(manifest, "team")
    assert list(run_rows(store, after, "a1")) == list(run_rows(store, manifest, "a1"))


def test_what_is_young_stays(store: MemoryStore):
    """And without a setting everything does."""
    driver, manifest = compacted(store)

    assert retain(store, manifest, Retention(30), [], 1, driver.clock.wall_us + 20 * DAY_US) == manifest
    assert retain(store, manifest, Retention(), [], 1, driver.clock.wall_us + 900 * DAY_US) == manifest


def test_retention_and_compaction_at_once_lose_nothing(store: MemoryStore):
    """Both want the next manifest: the second begins again from the first one's."""
    driver, manifest = compacted(store)
    for number in range(2):
        driver.command(submit(f"d{5 + number}"))
        snapshot(store, driver)
    before = rows_of(store)
    now_us = driver.clock.wall_us + 40 * DAY_US

    moved = compactor(store).compact(manifest, covered(driver), Stamp(1, 77, now_us))
    lost = retain(store, manifest, Retention(30), ["a1", "b0", "d5"], 2, now_us)

    assert lost == moved and rows_of(store) == before
    after = retain(store, lost, Retention(30), ["a1", "b0", "d5"], 2, now_us)
    assert after.covered == moved.covered and after.number == moved.number + 1


def test_small_files_of_a_day_are_joined(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """The same rows in fewer files; of a run's summaries the newest."""
    monkeypatch.setattr(merging, "MANY", 2)
    driver = lived(store)
    before, until = rows_of(store), covered(driver)
    manifest = newest_manifest(store, 0)
    for part in range(1, 5):
        manifest = compactor(store).compact(manifest, until * part // 4, Stamp(1, part, 1))
    files = len(manifest.files)

    for attempt in range(100, 120):
        manifest = merging.merge(store, manifest, Stamp(1, attempt, 5))

    assert len(manifest.files) < files
    assert rows_of(store) == before
    remove_dropped(store, manifest, 6)
    assert remove_strays(store, manifest) == 0
    assert rows_of(store) == before


def test_what_a_crash_left_behind_is_removed_by_its_own_partition(store: MemoryStore):
    """Another partition's files are not named by this one's manifest; nor are they its business."""
    driver = lived(store)
    manifest = compactor(store).compact(newest_manifest(store, 0), covered(driver), Stamp(1, 1, 1))
    label = "date=2023-11-14/team=team"
    stray, other, old, later = (
        f"history/{label}/{made}-0000.parquet"
        for made in (
            "0000-000000001-000001-000009",
            "0001-000000001-000001-000001",
            "000000001-000001-000009",
            "0000-000000002-000002-000001",
        )
    )
    for name in (stray, other, old, later):
        store.create(name, b"PAR1")

    assert remove_strays(store, manifest) == 2
    assert {stray, other, old, later} & set(store.list("history/")) == {other, later}


def test_spans_hold_what_some_file_may_hold():
    """However the files overlap."""
    ranges = ["bd", "ce", "gg", "ik", "jj"]
    files = tuple(
        HistoryFile(f"{first}", "runs", "", "", 1, 1, 1, 1, first, last, 1, "") for first, last in ranges
    )
    spans = Spans(files)

    for run in "abcdefghijkl":
        assert (run in spans) == any(file.may_hold(run) for file in files), run
    assert spans and not Spans(())
