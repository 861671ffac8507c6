"""Runs that are nowhere in memory: only the history knows them, or nobody does."""

from __future__ import annotations

import msgspec
import pytest

from hive_ray.control import parking
from hive_ray.control.queries import GetRun
from hive_ray.core.commands import Cancel, CorrectCost
from hive_ray.core.messages import Outcome, StepContent, encode
from hive_ray.graph.compiled import RetryPlan
from hive_ray.state import snapshots
from hive_ray.state.memory_store import MemoryStore
from hive_ray.state.run_items import RUN
from hive_ray.state.snapshots import load_latest_manifest
from tests.control.parking_test import World, soon, store
from tests.control.shell_test import GRAPH, done, submit
from tests.core.graphs import chain, mail, node

__all__ = ["soon", "store"]

NEVER = chain(node("m", retry=RetryPlan(max_retries=0)), id="never")
MAIL = chain(mail("z"), id="mail")


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


def damage(store: MemoryStore, run: str) -> tuple[str, bytes]:
    """Spoil the frame of a parked run; its part, and that part as it was."""
    manifest = load_latest_manifest(store, 0)
    assert manifest is not None
    place = manifest.places[RUN + run]
    whole = store.get(place.part)
    spoilt = bytearray(whole)
    spoilt[place.offset : place.offset + place.length] = bytes(place.length)
    store.put(place.part, bytes(spoilt))
    return place.part, whole


def test_one_damaged_run_keeps_no_other_from_being_loaded(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
):
    """They are loaded together; only whoever wants the damaged one is refused."""
    monkeypatch.setattr(snapshots, "FRAME_BYTES", 1)
    world = World(store)
    world.wait("a", "b", "c")
    world.rest()
    assert world.parked == {"a", "b", "c"}
    part, _ = damage(store, "b")

    calls = {run: world.driver.call() for run in "abc"}
    for run, call in calls.items():
        world.driver.shell.command(call, Cancel(run, "enough"), world.driver.clock)
    world.driver.perform()

    refused = {run: world.driver.replies[call].refused for run, call in calls.items()}
    assert refused["a"] is None and refused["c"] is None
    assert refused["b"].problem == "unavailable" and part in refused["b"].message


def unseen(world: World, run: str) -> Outcome:
    """A run whose mail may have gone out waits, parked, for whoever knows; that is what its worker knows."""
    world.driver.command(submit(run, graph=MAIL.version))
    world._exchange()
    (lease,) = world.driver.replies[world.waiting].leases
    world._exchange(done(lease, "WORKER_LOST"))
    world.rest()
    assert run in world.parked
    return done(lease)


@pytest.mark.parametrize("attaches", [False, True])
def test_an_outcome_of_a_damaged_run_stops_no_other(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, attaches: bool
):
    """It is not acknowledged, so its worker keeps it; when somebody has mended the run, it counts."""
    monkeypatch.setattr(snapshots, "FRAME_BYTES", 1)
    world = World(store, [MAIL])
    sound, spoilt = unseen(world, "a"), unseen(world, "b")
    part, whole = damage(store, "b")

    if attaches:
        reply = world.driver.attached(outcomes=(spoilt, sound))
    else:
        reply = world.driver.exchanged(world.session, world.n + 1, spoilt, sound)

    assert reply.acknowledged == (sound.key,)
    assert world.asked(GetRun("a")).status == "succeeded"
    world.rest()
    assert "b" in world.parked
    store.put(part, whole)
    world.rest()
    assert world.asked(GetRun("b")).status == "succeeded"


def test_a_late_outcome_finds_a_run_that_has_left(store: MemoryStore):
    """Whose end nobody saw stays known for a day; then it is history, and its cost is corrected there."""
    world = World(store, [GRAPH, NEVER])
    world.driver.command(submit("a", graph=NEVER.version))
    world._exchange()
    (lease,) = world.driver.replies[world.waiting].leases
    world._exchange(done(lease, "WORKER_LOST"))
    world.grow()
    assert world.asked(GetRun("a")).status == "failed"
    world.grow()
    assert "a" in world.parked

    world.driver.pass_time(parking.SETTLES_WITHIN_US)
    world.grow()
    assert "a" not in world.parked and "a" not in world.driver.engine.runs
    late = msgspec.structs.replace(done(lease), cost_nanousd=7)
    assert world.driver.attached(outcomes=(late,)).acknowledged == (late.key,)
    assert world.asked(GetRun("a")).spent_nanousd == 7

    again = World(store, [GRAPH, NEVER], clock=world.driver.clock)
    assert again.driver.attached(outcomes=(late,)).acknowledged == (late.key,)
    again.grow()
    assert again.asked(GetRun("a")).spent_nanousd == 7


def test_looking_at_a_parked_run_leaves_nothing_behind(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """Its row stands once in the line of those that may leave for good, however often it came back."""
    monkeypatch.setattr(parking, "LOOK_AT_ONCE", 0)
    world = World(store)
    world.wait("a", idempotency_key="key", digest="d")
    world.driver.command(Cancel("a", "enough"))
    world.grow(2)
    for _ in range(4):
        assert world.asked(GetRun("a")).status == "cancelled"
        world.rest()
        assert "a" in world.parked

    line = world.driver.shell._parking._rest  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
    assert list(line).count("a") == 1
