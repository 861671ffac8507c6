"""An agent gets a new graph while runs of the old one are under way: each run stays on its version."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.control.views import Answer
from hive_ray.core.commands import Register, Submit
from hive_ray.core.messages import Lease, Outcome, encode
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.memory_store import forget_memory
from hive_ray.state.store import Store, open_store
from tests.control.driver import Driver
from tests.core.graphs import chain, node
from tests.core.story import content

OLD = chain(node("a"), node("b"), node("c"), id="v1")
NEW = {
    "added": chain(node("a"), node("check"), node("b"), node("c"), id="v2"),
    "removed": chain(node("a"), node("c"), id="v3"),
    "renamed": chain(node("a"), node("b2"), node("c"), id="v4"),
    "another first node": chain(node("z"), node("a"), id="v5"),
}


@pytest.fixture
def store() -> Iterator[Store]:
    yield open_store("memory://upgrades")
    forget_memory("upgrades")


class Worker:
    """Does one step at a time, and notes which."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.done: list[str] = []
        self._session = driver.attached().session
        self._n = 0
        self._outcomes: tuple[Outcome, ...] = ()

    def step(self) -> bool:
        """Hand in what is done and do what comes back; False if nothing came."""
        self._n += 1
        call = self.driver.exchange(self._session, self._n, *self._outcomes)
        self._outcomes = ()
        if call not in self.driver.replies:
            return False
        leases = self.driver.replies[call].leases
        self._outcomes = tuple(self._do(lease) for lease in leases)
        return bool(leases)

    def _do(self, lease: Lease) -> Outcome:
        self.done.append(f"{lease.run}/{lease.name}")
        return Outcome(*lease.key, "", encode(content(**{lease.name: 1})), name=lease.name)


def _register(driver: Driver, graph: CompiledGraph) -> None:
    answer: Answer = driver.replies[driver.command(Register("helper", "team", graph.version))]
    assert answer.refused is None


def _begin(driver: Driver, run: str) -> None:
    """As a submission by the agent's name does: with the graph that it stands for now."""
    version = driver.engine.fleet.agents["team/helper"].graph
    driver.command(Submit(run, "q", "team", "helper", version, content(x=1)))


@pytest.mark.parametrize("what", NEW)
def test_a_run_under_way_keeps_the_nodes_of_its_version(store: Store, what: str):
    """Nodes were added, removed or renamed, and the controller was replaced: the old run goes the old way,
    a new one the new way."""
    driver = Driver(store, [OLD])
    _register(driver, OLD)
    _begin(driver, "old")
    first = Worker(driver)
    first.step()
    first.step()

    after = Driver(store, [NEW[what]])
    _register(after, NEW[what])
    _begin(after, "new")
    second = Worker(after)
    while second.step():
        pass

    runs = after.engine.runs
    assert {run: (runs[run].status, runs[run].graph) for run in runs} == {
        "old": ("succeeded", OLD.version),
        "new": ("succeeded", NEW[what].version),
    }
    assert first.done == ["old/a", "old/b"]
    assert [step for step in second.done if step.startswith("old/")] == ["old/b", "old/c"]
    assert [step for step in second.done if step.startswith("new/")] == [
        f"new/{node.id}" for node in NEW[what].nodes
    ]


def test_the_graph_of_a_run_under_way_is_loaded_though_no_agent_names_it(store: Store):
    """A controller that starts later knows the version from the run alone."""
    driver = Driver(store, [OLD])
    _register(driver, OLD)
    _begin(driver, "old")
    _register(Driver(store, [NEW["removed"]]), NEW["removed"])

    later = Driver(store, [])

    assert later.engine.fleet.agents["team/helper"].graph == NEW["removed"].version
    assert OLD.version in later.engine.graphs
