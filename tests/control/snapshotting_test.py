"""Snapshots taken beside the work lose nothing, whatever lies between two of them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hive_ray.control import snapshotting
from hive_ray.core.commands import Cancel, Pause
from hive_ray.errors import StoreError
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.snapshots import Manifest, load_latest
from tests.control.driver import Driver
from tests.control.shell_test import GRAPH, submit


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)


def newest(store: MemoryStore) -> Manifest | None:
    latest = load_latest(store, 0)
    return latest.manifest if latest else None


def snapshot(driver: Driver) -> Manifest:
    """Take one snapshot to its end."""
    before = newest(cast(MemoryStore, driver.store))
    for _ in range(50):
        driver.pass_time(1)
        found = newest(cast(MemoryStore, driver.store))
        if found is not None and (before is None or found.name != before.name):
            return found
    raise AssertionError("no snapshot was taken")


def submit_some(driver: Driver, prefix: str) -> None:
    for number in range(4):
        driver.command(submit(f"{prefix}{number}"))


@pytest.fixture
def store() -> Any:
    yield MemoryStore("snapshotting")
    forget_memory("snapshotting")


def test_what_only_replay_restored_is_in_the_next_snapshot(store: MemoryStore):
    """A run accepted, and one paused, behind a snapshot outlive two recoveries with a snapshot between."""
    first = Driver(store, [GRAPH])
    submit_some(first, "a")
    snapshot(first)
    first.command(submit("late"))
    first.command(Pause("a0"))
    second = Driver(store, [GRAPH])
    submit_some(second, "b")
    snapshot(second)
    second.command(Cancel("late"))

    third = Driver(store, [GRAPH])
    assert third.engine.runs["late"].status == "cancelled"
    assert third.engine.runs["a0"].paused


def test_a_segment_that_came_after_its_run_was_taken_is_not_forgotten(store: MemoryStore):
    """The run's last event stays within reach of its history."""
    first = Driver(store, [GRAPH])
    submit_some(first, "a")
    first.shell.tick(first.clock)  # begins a snapshot
    call = first.call()
    first.shell.command(call, Cancel("a0"), first.clock)  # decided, and not yet in a segment
    snapshot(first)
    submit_some(first, "c")
    snapshot(first)

    second = Driver(store, [GRAPH])
    assert second.engine.runs["a0"].segments == first.engine.runs["a0"].segments


def test_a_snapshot_stands_though_old_ones_cannot_be_removed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
):
    """A store that refuses to delete costs space, not snapshots."""

    def refuse(*names: str) -> None:
        raise StoreError(f"{names}: deleting is not allowed here")

    monkeypatch.setattr(store, "delete", refuse)
    first = Driver(store, [GRAPH])
    taken: list[str] = []
    for round_number in range(4):
        submit_some(first, f"r{round_number}-")
        taken.append(snapshot(first).name)

    assert len(set(taken)) == 4
    assert not first.shell.dirty


def test_a_part_that_cannot_be_read_costs_the_snapshot_and_no_run(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
):
    """What changed is taken by the next snapshot, which joins the part that could not be read."""
    first = Driver(store, [GRAPH])
    submit_some(first, "a")
    before = snapshot(first)
    asked: list[str] = []

    def refuse(name: str) -> bytes:
        asked.append(name)
        raise StoreError(f"{name}: no answer")

    with monkeypatch.context() as patched:
        patched.setattr(store, "get", refuse)
        for number in range(3):
            first.command(Cancel(f"a{number}"))
        while not asked:
            first.pass_time(1)
        first.pass_time(1)
    assert set(asked) <= set(before.parts)
    assert newest(store) == before
    assert {"a0", "a1", "a2"} <= first.shell.dirty.keys()

    submit_some(first, "b")
    after = snapshot(first)
    assert not set(asked) & set(after.parts)
    second = Driver(store, [GRAPH])
    assert "a3" in second.engine.runs
    assert [second.engine.runs[f"a{number}"].status for number in range(3)] == ["cancelled"] * 3
