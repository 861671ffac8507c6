"""Lists over runs that have left memory for good: in order, whole, and with what is known of them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from hive_ray.control.actions import Action
from hive_ray.control.io import Io, attempt
from hive_ray.control.queries import ListRuns
from hive_ray.core import forking
from hive_ray.core.commands import Cancel, Forget, Fork, PutMemory
from hive_ray.core.longterm import blob_owner
from hive_ray.core.messages import StepContent
from hive_ray.core.run import encode_run
from hive_ray.core.values import Value
from hive_ray.graph.compiled import RetryPlan
from hive_ray.state.content import PlainCodec
from hive_ray.state.memory_store import MemoryStore
from hive_ray.state.retention import Retention
from hive_ray.state.run_events import RunEvents
from tests.control.driver import Driver
from tests.control.parking_test import World, soon, store
from tests.control.sealing_test import fresh_key
from tests.control.shell_test import GRAPH, done, submit
from tests.core.graphs import chain, node

__all__ = ["soon", "store"]

DAY_US = 86_400_000_000
LOST = chain(node("m", retry=RetryPlan(max_retries=0)), id="lost")


def left(world: World, *runs: str) -> None:
    """Runs end, and leave for good."""
    for run in runs:
        world.driver.command(submit(run))
        world.driver.command(Cancel(run, "enough"))
    world.grow()
    assert not set(runs) & (world.parked | set(world.driver.engine.runs))


def _resumption(store: MemoryStore, run: str, **fields: Any) -> Fork:
    """The command that begins ``e`` in the place of a run that failed or was cancelled."""
    cut = forking.before_end(list(RunEvents(store, PlainCodec(), 0).read(run)), LOST)
    assert isinstance(cut, forking.Cut)
    given = StepContent(state=encode_run(cut.state))
    return Fork("e", "q", "team", "agent", LOST.version, given, cut.origin(run, True), "d", **fields)


def test_pages_are_in_order_of_ids_whatever_day_they_were_submitted(store: MemoryStore):
    """An id is made before its run is submitted, perhaps before midnight."""
    world = World(store)
    left(world, "b")
    world.driver.pass_time(DAY_US)
    left(world, "a", "c")

    page = [line.run_id for line in world.asked(ListRuns(limit=2, before="d"))]
    rest = [line.run_id for line in world.asked(ListRuns(limit=2, before=page[-1]))]

    assert page + rest == ["c", "b", "a"]


def test_a_rare_status_is_looked_for_only_where_it_is(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """The manifest tells which statuses are in a file, so that the others are not read."""
    world = World(store, [GRAPH, LOST])
    world.driver.command(submit("f", graph=LOST.version))
    world._exchange()
    (lease,) = world.driver.replies[world.waiting].leases
    world._exchange(done(lease, "TOOL_ERROR"))
    left(world, "a", "b")
    left(world, "g", "h")
    read: list[str] = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda name: (read.append(name), get(name))[1])

    found: dict[str, list[str]] = {}
    files: dict[str, int] = {}
    for status in ("failed", "succeeded", "cancelled,failed"):
        read.clear()
        found[status] = [line.run_id for line in world.asked(ListRuns(status=status, before="i"))]
        files[status] = sum(name.startswith("runs/") for name in read)

    assert found == {"failed": ["f"], "succeeded": [], "cancelled,failed": ["h", "g", "f", "b", "a"]}
    assert files["failed"] == 1 and files["succeeded"] == 0 and files["cancelled,failed"] > 1


class SlowLists(Driver):
    """The history is read when the test says so."""

    lists: list[Io]

    def _do(self, action: Action) -> None:
        if isinstance(action, Io) and action.what == "list old runs":
            self.lists.append(action)
        else:
            super()._do(action)


def test_a_run_that_leaves_while_the_history_is_read_is_listed(store: MemoryStore):
    """It is in no manifest that the reader knows, and not in memory when it is done."""
    world = World(store)
    left(world, "a")
    world.driver.command(submit("b"))
    world.driver.command(Cancel("b", "enough"))
    driver = world.driver
    driver.__class__, driver.lists = SlowLists, []  # pyright: ignore[reportAttributeAccessIssue]
    call = driver.call()
    driver.shell.list_runs(call, ListRuns(before="c"), driver.clock)
    driver.perform()
    world.grow()
    assert "b" not in world.parked | set(driver.engine.runs)

    (listing,) = driver.lists  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
    driver.shell.io_ended(listing, attempt(listing), driver.clock)  # pyright: ignore[reportUnknownArgumentType]
    driver.perform()

    assert [line.run_id for line in driver.replies[call].value] == ["b", "a"]


def test_a_dead_letter_that_was_resumed_is_none_any_more(store: MemoryStore):
    """Also when the run itself has left memory; its line says what goes on in its place."""
    world = World(store, [GRAPH, LOST])
    for run in ("d1", "d2"):
        world.driver.command(submit(run, graph=LOST.version))
        world._exchange()
        (lease,) = world.driver.replies[world.waiting].leases
        world._exchange(done(lease, "WORKER_LOST"))
        # Until its late outcome is known the run is not settled, and stays.
        world._exchange(done(lease))
    assert [line.run_id for line in world.asked(ListRuns(dead_lettered=True))] == ["d2", "d1"]
    assert world.told(_resumption(store, "d1")).value.run_id == "e"
    world.grow()
    assert not {"d1", "d2"} & (world.parked | set(world.driver.engine.runs))

    assert [line.run_id for line in world.asked(ListRuns(dead_lettered=True))] == ["d2"]
    lines = {line.run_id: line.resumed_as for line in world.asked(ListRuns())}
    assert (lines["d1"], lines["d2"]) == ("e", "")


def test_a_run_that_goes_on_in_a_parked_fork_is_not_forgotten(store: MemoryStore):
    """The fork's state is a copy of what it said."""
    world = World(store, [GRAPH, LOST])
    world.driver.command(submit("d1", graph=LOST.version, key=fresh_key(store)))
    world.driver.command(Cancel("d1", "enough"))
    assert world.told(_resumption(store, "d1", key=fresh_key(store))).value.run_id == "e"
    world.driver.command(Cancel("e", "enough"))
    world.grow()
    assert "e" in world.parked

    refused = world.told(Forget("d1")).refused

    assert refused is not None and "goes on in e" in refused.message


def resumed(store: MemoryStore) -> World:
    """``d1`` has ended and left; ``e``, in its place, has ended too. Days are kept for a day."""
    world = World(store, [GRAPH, LOST], retention=Retention(1))
    world.driver.command(submit("d1", graph=LOST.version))
    world.driver.command(Cancel("d1", "enough"))
    assert world.told(_resumption(store, "d1")).value.run_id == "e"
    world.driver.command(Cancel("e", "enough"))
    world.grow()
    return world


def test_a_fork_leaves_for_good_once_nothing_is_left_of_it_and_of_its_origin(store: MemoryStore):
    """Its blobs go like those of others; before, its row tells whose state it has."""
    world = resumed(store)
    store.create("blobs/e/x", b"x")
    engine = world.driver.engine
    assert ("e" in world.parked, "d1" in world.parked, engine.successors) == (True, False, {"d1": "e"})

    world.driver.pass_time(3 * DAY_US)
    world.grow()
    assert ("e" in world.parked, engine.successors) == (False, {})
    world.driver.pass_time(DAY_US // 24)
    world.grow()
    assert not store.list("blobs/e/")


def test_values_of_memory_that_nobody_can_report_any_more_are_deleted(store: MemoryStore):
    """Not those that a run that lives may have written, nor any that an entry refers to."""
    world = resumed(store)
    begun_s = world.driver.clock.wall_us // 1_000_000
    folder = f"blobs/{blob_owner('agent', 'team/agent')}"
    told, lost, young = (f"{folder}/m-{at:010x}-{at:x}" for at in (begun_s - 2, begun_s - 1, begun_s + 1))
    for name in (told, lost, young):
        store.create(name, b"x")
    world.driver.command(PutMemory("agent", "team/agent", "key", Value(b"", told, 1)))
    world.driver.command(submit("lives", deadline_us=world.driver.clock.wall_us + 100 * DAY_US))

    for _ in range(2):
        world.driver.pass_time(3 * DAY_US)
        world.grow()
    assert store.list(f"{folder}/") == [told, young]


def test_a_run_whose_repeat_comes_after_its_days_were_dropped_is_not_begun_again(store: MemoryStore):
    """Nobody knows it any more but by the time in its id; as long as it is known it is the answer."""
    world = World(store, retention=Retention(1))
    name = str(uuid.UUID(int=world.driver.clock.wall_us // 1000 << 80 | 7 << 76 | 2 << 62))
    world.driver.command(submit(name))
    world.driver.command(Cancel(name, "enough"))
    world.grow()
    assert world.told(submit(name)).value.status == "cancelled"
    world.driver.pass_time(3 * DAY_US)
    world.grow()

    refused = world.told(submit(name)).refused

    assert refused is not None and (refused.problem, name in refused.message) == ("conflict", True)
    fresh = str(uuid.UUID(int=world.driver.clock.wall_us // 1000 << 80 | 7 << 76 | 2 << 62))
    assert world.told(submit(fresh)).value.run_id == fresh
