"""The wall clock jumps by an hour, both ways, while the monotonic clock goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.control.actions import Clock
from hive_ray.core.commands import Submit
from hive_ray.core.messages import Lease, Outcome, StepContent, encode
from hive_ray.graph.compiled import RetryPlan
from hive_ray.state.memory_store import MemoryStore, forget_memory
from tests.control.driver import Driver
from tests.core.graphs import HOUR_US, chain, human, node
from tests.core.story import content

GRAPH = chain(node("a", retry=RetryPlan(max_retries=3, base_us=1_000_000)), human("h", "approved"))
JUMPS = [HOUR_US, -HOUR_US]


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    name = request.node.name
    yield Driver(MemoryStore(name), [GRAPH], term_us=30_000_000, attach_grace_us=20_000_000)
    forget_memory(name)


def jump(driver: Driver, us: int) -> None:
    """Another wall clock at the same moment."""
    driver.clock = Clock(driver.clock.wall_us + us, driver.clock.mono_us)
    driver.pass_time(0)


def leased(driver: Driver) -> tuple[str, Lease]:
    session = driver.attached().session
    waiting = driver.exchange(session, 1)
    driver.command(Submit("r", "q", "team", "agent", GRAPH.version, StepContent()))
    return session, driver.replies[waiting].leases[0]


def done(lease: Lease, failure: str = "") -> Outcome:
    return Outcome(*lease.key, failure, encode(content(a="!")), name=lease.name)


@pytest.mark.parametrize("us", JUMPS)
def test_leases_and_sessions_do_not_notice(driver: Driver, us: int):
    """No worker is given up, and its result counts as attempt 1."""
    session, lease = leased(driver)
    jump(driver, us)
    driver.exchange(session, 2, done(lease))

    assert not driver.shell.reception.unattached()
    assert driver.engine.runs["r"].visits[2].wait is not None
    assert driver.engine.runs["r"].attempts == 1


@pytest.mark.parametrize("us", JUMPS)
def test_a_backoff_takes_as_long_as_it_was_to_take(driver: Driver, us: int):
    """Neither at once nor an hour later."""
    session, lease = leased(driver)
    driver.exchange(session, 2, done(lease, "TOOL_ERROR"))
    waiting = driver.exchange(session, 3)
    jump(driver, us)
    driver.pass_time(499_000)
    early = waiting in driver.replies
    driver.pass_time(1_000)

    assert not early
    assert driver.replies[waiting].leases[0].attempt == 2


@pytest.mark.parametrize("us", JUMPS)
def test_a_person_is_asked_until_the_wall_clock_says_so(driver: Driver, us: int):
    """An approval's deadline is a time of day: it moves with the clock, fires once, and not before."""
    session, lease = leased(driver)
    driver.exchange(session, 2, done(lease))
    jump(driver, us)
    driver.pass_time(72 * HOUR_US - us - 1)
    early = driver.engine.runs["r"].terminal
    driver.pass_time(1)
    jump(driver, -us)
    driver.pass_time(100 * HOUR_US)
    run = driver.engine.runs["r"]

    assert not early
    assert (run.status, run.failure) == ("failed", "EXPIRED")


def test_seqs_and_epochs_do_not_depend_on_the_clock(driver: Driver):
    """Events decided behind a jump into the past stand behind those before it."""
    session, lease = leased(driver)
    before = driver.engine.seq
    jump(driver, -HOUR_US)
    driver.exchange(session, 2, done(lease))
    again = Driver(driver.store, [GRAPH])

    assert driver.engine.seq > before
    assert again.engine.runs["r"].visits == driver.engine.runs["r"].visits
