"""A journal, its events and the graphs of its runs: what does not fit stops recovery by name."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from hive_ray.core import events as ev
from hive_ray.core.commands import Submit
from hive_ray.core.events import Draft
from hive_ray.core.messages import ExchangeReply, Outcome, StepContent, encode
from hive_ray.errors import Corrupt
from hive_ray.graph.compiled import CompiledGraph, encode_graph
from hive_ray.state.blobs import graph_name
from hive_ray.state.content import PlainCodec
from hive_ray.state.journal import Journal, write_pending
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.records import Rows
from tests.control.driver import OWNER, Driver
from tests.core.graphs import chain, node
from tests.core.story import content

GRAPH = chain(node("a"), node("z"))
NAME = graph_name(GRAPH.version)


def sealed(graph: CompiledGraph) -> bytes:
    return PlainCodec().seal(encode_graph(graph), ("graph", graph.version))


DAMAGES = {
    "is cut": (sealed(GRAPH)[:-9], "no graph"),
    "is another graph": (sealed(msgspec.structs.replace(GRAPH, version="h")), "another graph, h"),
    "lacks a node": (sealed(chain(node("a"))), "1 nodes, and run r stands at node 1"),
}


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    """One run, which stands at its second node."""
    name = request.node.name
    store = MemoryStore(name)
    driver = Driver(store, [GRAPH])
    session = driver.attached().session
    driver.command(Submit("r", "q", "team", "agent", GRAPH.version, StepContent()))
    reply: ExchangeReply = driver.replies[driver.exchange(session, 1)]
    lease = reply.leases[0]
    driver.exchange(session, 2, Outcome(*lease.key, "", encode(content(a="!")), name="a"))
    yield store
    forget_memory(name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_graph_that_does_not_fit_its_run_stops_recovery_by_name(store: MemoryStore, damage: str):
    """And with the right one the run goes on where it was."""
    data, said = DAMAGES[damage]
    whole = store.get(NAME)
    store.put(NAME, data)
    with pytest.raises(Corrupt, match=f"{NAME}.*{said}"):
        Driver(store, [])
    store.put(NAME, whole)
    run = Driver(store, []).engine.runs["r"]

    assert [visit.node for visit in run.visits.values()] == [1]


@pytest.mark.parametrize(
    "event", [ev.StepSucceeded("r", 99, 0, 1, True), ev.NodeFailed("nobody", 1, "BAD_INPUT")]
)
def test_an_event_that_does_not_fit_the_state_stops_recovery_by_name(store: MemoryStore, event: ev.Event):
    """A visit that is not open, a run that never began: nothing is guessed, nothing is skipped."""
    journal = Journal(store, 0)
    journal.claim(OWNER, "n" * 32, 1)
    rows = Rows(PlainCodec())
    rows.add(journal.next_seq, 2, Draft(event))
    pending = journal.prepare(rows.take())
    write_pending(store, pending)

    with pytest.raises(Corrupt, match=f"{pending.name}.*{type(event).__name__}.*does not fit"):
        Driver(store, [GRAPH])
