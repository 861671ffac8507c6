"""One bad outcome among good ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.core.commands import Submit
from hive_ray.core.messages import ExchangeReply, Lease, Outcome, StepContent, encode
from hive_ray.state.memory_store import MemoryStore, forget_memory
from tests.control.driver import Driver
from tests.core.graphs import chain, node
from tests.core.story import content

GRAPH = chain(node("a"), node("z"))
BAD = {
    "no message at all": (b"\xc1\xff", ""),
    "a message of another shape": (encode(["x"]), ""),
    "an unknown kind of failure": (encode(StepContent()), "GREMLINS"),
}


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    name = request.node.name
    yield MemoryStore(name)
    forget_memory(name)


def submit(run: str) -> Submit:
    return Submit(run, "q", "team", "agent", GRAPH.version, StepContent())


def leases(driver: Driver, runs: list[str]) -> tuple[str, list[Lease]]:
    session = driver.attached().session
    for run in runs:
        driver.command(submit(run))
    reply: ExchangeReply = driver.replies[driver.exchange(session, 1)]
    return session, list(reply.leases)


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_outcome_strands_none_of_those_that_came_with_it(store: MemoryStore, bad: str):
    """The others go on at once, all are acknowledged, and the bad one's step is tried again."""
    driver = Driver(store, [GRAPH])
    runs = [f"r{number}" for number in range(5)]
    session, given = leases(driver, runs)
    data, failure = BAD[bad]
    outcomes = [Outcome(*lease.key, "", encode(content(a="!")), name="a") for lease in given]
    outcomes[2] = Outcome(*given[2].key, failure, data, name="a")
    reply: ExchangeReply = driver.replies[driver.exchange(session, 2, *outcomes)]
    states = {run: list(driver.engine.runs[run].visits.values())[-1] for run in runs}

    assert set(reply.acknowledged) == {lease.key for lease in given}
    assert [GRAPH.nodes[visit.node].id for visit in states.values()] == ["z", "z", "a", "z", "z"]
    assert states["r2"].steps[0].attempt == 2
