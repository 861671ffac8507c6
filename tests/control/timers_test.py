"""What is due: the last deadline of each run, and no memory of those that ended before it."""

from __future__ import annotations

import pytest

from hive_ray.control import timers
from hive_ray.control.timers import Deadline, Timers
from hive_ray.core.commands import Cancel
from hive_ray.state.memory_store import MemoryStore, forget_memory
from tests.control.driver import Driver
from tests.control.shell_test import GRAPH, submit

DAY_US = 86_400_000_000


def due(kept: Timers, at_us: int, most: int = 100) -> list[str]:
    return [deadline.run for deadline in kept.due_deadlines(at_us, most)]


def test_the_last_deadline_of_a_run_counts():
    """Whether it was moved nearer, away, there and back, or dropped."""
    kept = Timers()
    for run, *times in (("near", 50, 10), ("far", 10, 50), ("back", 20, 40, 20), ("gone", 15)):
        for due_us in times:
            kept.add_deadline(Deadline(due_us, run))
    kept.drop_deadline("gone")

    assert due(kept, 15) == ["near"]
    assert due(kept, 45) == ["back"]
    assert due(kept, 60) == ["far"]
    assert due(kept, DAY_US) == []


def test_what_is_due_comes_in_parts_and_in_order():
    """A backlog must not hold up everything else."""
    kept = Timers()
    for number in range(5):
        kept.add_deadline(Deadline(number, f"r{number}"))

    assert due(kept, 10, most=3) == ["r0", "r1", "r2"]
    assert due(kept, 10, most=3) == ["r3", "r4"]


def test_deadlines_that_were_moved_away_take_no_memory():
    """However often, and to whatever times."""
    kept = Timers()
    for number in range(10 * timers.SPARE):
        kept.add_deadline(Deadline(1 + number % 2, "r"))

    assert len(kept) <= timers.SPARE + 2


def test_runs_that_ended_leave_no_deadline_behind(monkeypatch: pytest.MonkeyPatch):
    """Theirs would be due a day later: a busy day's runs are millions."""
    monkeypatch.setattr(timers, "SPARE", 10)
    store = MemoryStore("timers")
    driver = Driver(store, [GRAPH])
    kept = driver.shell._timers
    for number in range(60):
        driver.command(submit(f"r{number}"))
        driver.pass_time(1)
        driver.command(Cancel(f"r{number}"))
    driver.command(submit("live"))
    driver.pass_time(1)

    assert len(kept) <= timers.SPARE + 2
    driver.pass_time(2 * DAY_US)
    assert driver.engine.runs["live"].status == "failed"
    forget_memory("timers")
