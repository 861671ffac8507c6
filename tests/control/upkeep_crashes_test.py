"""The controller dies between any two actions while runs are parked, compacted and woken; nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive_ray.control import snapshotting
from hive_ray.control.actions import Clock
from hive_ray.control.queries import GetRun
from hive_ray.core.commands import Cancel, Resolve
from hive_ray.core.messages import StepContent
from hive_ray.state.memory_store import forget_memory
from hive_ray.state.run_events import every_row
from hive_ray.state.store import Store, open_store
from tests.control.driver import START, Crash
from tests.control.parking_test import SECOND_US, World
from tests.control.shell_test import submit

STRIDE = 9
"""Every how-manyth action is a crash point: several seeds of the simulation take the others."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 4)


@pytest.fixture(params=["memory", "file"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Iterator[Store]]:
    """As many empty stores as there are crash points."""
    names = [f"upkeep{number}" for number in range(1_000)]
    root = f"file://{tmp_path}/" if request.param == "file" else "memory://"
    yield (open_store(root + name) for name in names)
    for name in names:
        forget_memory(name)


def story(world: World) -> None:
    """Two runs wait and are parked, one is woken and ends; each line may be said again."""
    for run in ("a", "b"):
        world.told(submit(run))
    for _ in range(4):
        world.work()
    for _ in range(3):
        world.driver.pass_time(SECOND_US)
    for number in range(4):
        world.told(submit(f"z{number}"))
        world.told(Cancel(f"z{number}", "noise"))
        world.driver.pass_time(SECOND_US)
    world.told(Resolve("a", "a.1", "approve", StepContent(), digest="yes"))
    for _ in range(3):
        world.work()
    for _ in range(8):
        world.driver.pass_time(SECOND_US)


def lived_through(store: Store, crash_at: int) -> tuple[World, bool]:
    """The story, begun again by a new incarnation if the first one dies in it."""
    world = World(store)
    world.driver.crash_at(crash_at)
    try:
        story(world)
        world.driver.crash_at(1_000_000)
        return world, False
    except Crash:
        later = world.driver.clock
        world = World(store, clock=Clock(later.wall_us, START.mono_us))
        story(world)
        return world, True


def test_a_crash_between_any_two_actions_loses_no_run_and_no_event(stores: Iterator[Store]):
    """Snapshots, parking, loading and compaction included: all are effects that may be left half done."""
    crash_at, crashed = 5, True
    while crashed:
        store = next(stores)
        world, crashed = lived_through(store, crash_at)
        seqs = [row.seq for row in every_row(store, 0)]
        assert seqs == list(range(1, len(seqs) + 1)), crash_at
        assert seqs[-1] == world.driver.engine.seq
        assert world.asked(GetRun("a")).status == "succeeded", crash_at
        assert world.asked(GetRun("b")).status == "waiting", crash_at
        assert world.driver.engine.compacted > 0
        crash_at += STRIDE
    assert crash_at > 60
