"""Runs that are nowhere in memory: only the history knows them, or nobody does."""

from __future__ import annotations

import pytest

from hive_ray.control import parking
from hive_ray.control.queries import GetRun
from hive_ray.core.commands import Cancel, CorrectCost
from hive_ray.core.messages import Outcome, StepContent, encode
from hive_ray.state.memory_store import MemoryStore
from tests.control.parking_test import World, soon, store

__all__ = ["soon", "store"]


def test_a_correction_of_a_run_out_of_the_history_survives(store: MemoryStore):
    """The snapshot lacks the run; recovery finds it where the correction did."""
    world = World(store)
    world.wait("a")
    world.driver.command(Cancel("a", "enough"))
    world.grow()
    assert "a" not in world.parked and "a" not in world.driver.engine.runs
    assert world.told(CorrectCost("a", "c", 5, StepContent())).value.spent_nanousd == 5

    again = World(store, clock=world.driver.clock)
    assert again.asked(GetRun("a")).spent_nanousd == 5
    again.grow()
    assert "a" not in again.driver.engine.runs
    assert again.asked(GetRun("a")).spent_nanousd == 5


def test_an_outcome_of_a_run_that_nobody_knows_is_no_obstacle(store: MemoryStore):
    """Its name lies among those that a file of the history may hold; the worker gets its answer."""
    world = World(store)
    world.wait("a")
    world.driver.command(Cancel("a", "enough"))
    world.grow()
    nobody = Outcome("m", 1, 0, 1, "", encode(StepContent()))

    reply = world.driver.exchanged(world.driver.attached().session, 1, nobody)

    assert reply.acknowledged == (nobody.key,)


def test_a_worker_is_heard_however_many_runs_are_being_loaded(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
):
    """Commands are refused at the bound; workers are bounded by their number."""
    world = World(store)
    world.wait("a")
    world.rest()
    monkeypatch.setattr(parking, "MOST_WAITING", 0)

    assert world.told(Cancel("a", "enough")).refused.problem == "overloaded"
    late_one = Outcome("a", 1, 0, 1, "", encode(StepContent()))
    assert world.driver.exchanged(world.session, world.n + 1, late_one).acknowledged == (late_one.key,)
