"""Snapshots taken beside the work lose nothing, whatever lies between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from hive_ray.control import snapshotting
from hive_ray.control.snapshotting import Snapshotter
from hive_ray.core.commands import Cancel, Pause
from hive_ray.errors import StoreError
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.snapshots import Manifest, load_latest
from tests.control.driver import Driver
from tests.control.shell_test import GRAPH, submit


class Done:
    """A future that is done at once."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run

    def add_done_callback(self, callback: Callable[[Done], None]) -> None:
        callback(self)

    def result(self) -> Any:
        return self._run()


class InlineLoop:
    """Runs what goes to an executor at once, in the calling thread."""

    def run_in_executor(self, _executor: None, run: Callable[..., Any], *arguments: Any) -> Done:
        return Done(lambda: run(*arguments))


LOOP = cast(asyncio.AbstractEventLoop, InlineLoop())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)


def newest(store: MemoryStore) -> Manifest | None:
    latest = load_latest(store, 0)
    return latest.manifest if latest else None


def snapshot(driver: Driver, snapshots: Snapshotter) -> Manifest:
    """Take one snapshot to its end."""
    before = newest(cast(MemoryStore, driver.store))
    for _ in range(50):
        snapshots.advance(LOOP)
        driver.perform()
        found = newest(cast(MemoryStore, driver.store))
        if found is not None and (before is None or found.name != before.name):
            return found
    raise AssertionError("no snapshot was taken")


def begun(store: MemoryStore) -> tuple[Driver, Snapshotter]:
    driver = Driver(store, [GRAPH])
    return driver, Snapshotter(driver.shell, store, 0, newest(store))


def submit_some(driver: Driver, prefix: str) -> None:
    for number in range(4):
        driver.command(submit(f"{prefix}{number}"))


@pytest.fixture
def store() -> Any:
    yield MemoryStore("snapshotting")
    forget_memory("snapshotting")


def test_what_only_replay_restored_is_in_the_next_snapshot(store: MemoryStore):
    """A run accepted, and one paused, behind a snapshot outlive two recoveries with a snapshot between."""
    first, snapshots = begun(store)
    submit_some(first, "a")
    snapshot(first, snapshots)
    first.command(submit("late"))
    first.command(Pause("a0"))
    second, snapshots = begun(store)
    submit_some(second, "b")
    snapshot(second, snapshots)
    second.command(Cancel("late"))

    third, _ = begun(store)
    assert third.engine.runs["late"].status == "cancelled"
    assert third.engine.runs["a0"].paused


def test_a_segment_that_came_after_its_run_was_taken_is_not_forgotten(store: MemoryStore):
    """The run's last event stays within reach of its history."""
    first, snapshots = begun(store)
    submit_some(first, "a")
    snapshots.advance(LOOP)
    call = first.call()
    first.shell.command(call, Cancel("a0"), first.clock)  # decided, and not yet in a segment
    snapshot(first, snapshots)
    submit_some(first, "c")
    snapshot(first, snapshots)

    second, _ = begun(store)
    assert second.engine.runs["a0"].segments == first.engine.runs["a0"].segments


def test_a_snapshot_stands_though_old_ones_cannot_be_removed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
):
    """A store that refuses to delete costs space, not snapshots."""

    def refuse(name: str) -> None:
        raise StoreError(f"{name}: deleting is not allowed here")

    monkeypatch.setattr(store, "delete", refuse)
    first, snapshots = begun(store)
    taken: list[str] = []
    for round_number in range(4):
        submit_some(first, f"r{round_number}-")
        taken.append(snapshot(first, snapshots).name)

    assert len(set(taken)) == 4
    assert not first.shell.dirty
