"""A ladder over simulated minutes: a model that is slow, or comes and goes, as the shell sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from hive_ray.core import events as ev
from hive_ray.core.commands import ApplyPlan, Submit
from hive_ray.core.ladder import LadderPlan, Rung
from hive_ray.core.messages import Lease, Outcome, StepContent, Usage, encode
from hive_ray.core.plan import ControlPlan, encode_plan
from hive_ray.graph.compiled import ModelPlan
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.records import decode_event
from hive_ray.state.run_events import every_row
from tests.control.driver import Driver
from tests.core.graphs import chain, llm
from tests.core.story import content

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
STEP_US = SECOND_US // 2
"""Between two calls, and what a fast one takes."""
SLOW_US = 3 * SECOND_US
PERIOD_US = 90 * SECOND_US
PLAN = LadderPlan((Rung("cheap"),), 30 * SECOND_US, 10, 2 * SECOND_US)
GRAPH = chain(llm("a", pool="function"))


class Caller:
    """Calls a model twice a second; the cheaper one is always fast."""

    def __init__(self, driver: Driver, is_slow: Callable[[int], bool]) -> None:
        self.driver = driver
        self._is_slow = is_slow
        self._session = driver.attached(slots=100).session
        self._n = self._runs = 0
        self._under_way: list[tuple[int, Outcome]] = []
        self._call = -1
        plan = ControlPlan(ladders={"small": PLAN}, models={"cheap": ModelPlan("cheap", 8, 0)})
        driver.command(ApplyPlan(encode_plan(plan), "1"))
        self.begun_us = self.now_us

    @property
    def now_us(self) -> int:
        return self.driver.clock.mono_us

    def call_for(self, us: int) -> None:
        until_us = self.now_us + us
        while self.now_us < until_us:
            self._runs += 1
            self.driver.command(Submit(f"r{self._runs}", "q", "team", "bot", GRAPH.version, content()))
            self._exchange()
            self.driver.pass_time(STEP_US)

    def _exchange(self) -> None:
        """What has ended by now is reported, and what is given is begun, also by the exchange before."""
        self._take()
        done = [outcome for due_us, outcome in self._under_way if due_us <= self.now_us]
        self._under_way = [one for one in self._under_way if one[0] > self.now_us]
        self._n += 1
        self._call = self.driver.exchange(self._session, self._n, *done)
        self._take()

    def _take(self) -> None:
        reply = self.driver.replies.pop(self._call, None)
        given: tuple[Lease, ...] = reply.leases if reply is not None else ()
        for lease in given:
            took_us = self._takes_us(lease)
            usage = Usage(1, 1, latency_us=took_us)
            end = Outcome(*lease.key, "", encode(StepContent()), usage=usage, name=lease.name)
            self._under_way.append((self.now_us + took_us, end))

    def _takes_us(self, lease: Lease) -> int:
        return SLOW_US if lease.name == "small" and self._is_slow(self.now_us - self.begun_us) else STEP_US

    def moves(self) -> list[tuple[str, int]]:
        """Each move of the ladder, and microseconds from the first call to it."""
        rows = every_row(self.driver.store, 0)
        told = [(decode_event("the journal", row), row.time_us) for row in rows]
        begun_us = self.driver.clock.wall_us - (self.now_us - self.begun_us)
        moved = (ev.ModelDegraded, ev.ModelRestored)
        return [(type(event).__name__, at - begun_us) for event, at in told if isinstance(event, moved)]


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryStore]:
    """Thousands of runs: other tests look at all of them after each turn."""
    monkeypatch.setattr("tests.core.invariants.check", lambda engine: None)
    yield MemoryStore(request.node.name)
    forget_memory(request.node.name)


def test_a_model_that_is_slow_for_twenty_minutes_falls_once_and_is_back_within_two_windows(
    store: MemoryStore,
):
    """No trial went well meanwhile, so there was no flap."""
    slow_us = 20 * MINUTE_US
    caller = Caller(Driver(store, [GRAPH]), lambda at_us: at_us < slow_us)
    caller.call_for(slow_us + 2 * PLAN.window_us)

    (fell, fell_us), (rose, rose_us) = caller.moves()
    assert (fell, rose) == ("ModelDegraded", "ModelRestored")
    assert fell_us <= PLAN.window_us
    assert slow_us < rose_us <= slow_us + 2 * PLAN.window_us


def test_a_model_that_comes_and_goes_for_twenty_minutes_flaps_once_in_five_at_most(
    store: MemoryStore,
):
    """Well and slow in turn; then it is well, and up again two windows later, or once the calm is over."""
    moody_us = 20 * MINUTE_US
    caller = Caller(Driver(store, [GRAPH]), lambda at_us: at_us < moody_us and at_us // (PERIOD_US) % 2 == 1)
    caller.call_for(moody_us + PLAN.calm_us)
    moves = caller.moves()
    ups = [at_us for kind, at_us in moves if kind == "ModelRestored"]

    assert len(ups) >= 3, "it flapped"
    assert all(later - earlier >= PLAN.calm_us for earlier, later in pairwise(ups))
    assert moves[-1][0] == "ModelRestored"
    assert ups[-1] <= max(moody_us + 2 * PLAN.window_us, ups[-2] + PLAN.calm_us + 2 * PLAN.window_us)
