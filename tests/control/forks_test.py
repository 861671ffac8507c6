"""Forks over the controller's crashes and its store: one run, whatever comes between two actions."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from hive_ray.control import replaying
from hive_ray.control.replaying import Shown, replay_run
from hive_ray.control.views import Answer, RunView
from hive_ray.core import forking
from hive_ray.core.commands import ChangeBudget, Fork, Refused, Submit
from hive_ray.core.messages import Lease, Outcome, StepContent, encode
from hive_ray.core.plan import AccountPlan
from hive_ray.core.run import Run, decode_run, encode_run
from hive_ray.errors import Corrupt, NotFound
from hive_ray.graph.compiled import NodePlan
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import PlainCodec
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.run_events import RunEvents
from tests.control.driver import Crash, Driver
from tests.core.graphs import chain, edge, graph, human, mapping, node
from tests.core.story import content

BODY = chain(node("x"), id="body")
GRAPH = graph(
    [node("a"), mapping("m", "list", BODY), node("b"), human("h", "approved")],
    [edge("a", "m"), edge("a", "b"), edge("m", "h"), edge("b", "h")],
    subgraphs=(BODY,),
)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    name = request.node.name
    yield MemoryStore(name)
    forget_memory(name)


def work(driver: Driver) -> None:
    """A worker does all there is to do."""
    session = driver.attached().session
    held: list[Outcome] = []
    for n in range(1, 20):
        call = driver.exchange(session, n, *held)
        if call not in driver.replies:
            return
        held = [_done(lease) for lease in driver.replies[call].leases]


def _done(lease: Lease) -> Outcome:
    keys = GRAPH.nodes[lease.node].output_keys if lease.graph == "g" else ("x",)
    return Outcome(*lease.key, "", encode(content(**dict.fromkeys(keys, "!"))), name=lease.name)


def parent(store: MemoryStore) -> Driver:
    """A run that has come to its person."""
    driver = Driver(store, [GRAPH])
    driver.command(Submit("r", "q", "team", "agent", GRAPH.version, content(list=[1, 2])))
    work(driver)
    return driver


def command(store: MemoryStore, node_id: str = "b") -> Fork:
    """As a replica makes it: from what the journal holds."""
    events = list(RunEvents(store, PlainCodec(), 0).read("r"))
    cut = forking.before_node(events, GRAPH, node_id)
    assert isinstance(cut, forking.Cut)
    given = StepContent(state=encode_run(cut.state))
    return Fork("f", "q", "team", "agent", GRAPH.version, given, cut.origin("r"), "d", "key")


def test_a_fork_that_could_never_begin_is_refused_at_the_door(store: MemoryStore):
    """As a submission is: by its own budget, and by an account that stops; a repeat is answered before."""
    driver = parent(store)
    driver.engine.graphs["g"] = msgspec.structs.replace(GRAPH, nodes=tuple(map(dear, GRAPH.nodes)))
    fork = msgspec.structs.replace(command(store), budget_nanousd=999)

    assert refused(driver, fork).problem == "budget_exceeded"
    fork = msgspec.structs.replace(fork, budget_nanousd=1_000)
    driver.command(ChangeBudget("team/team", AccountPlan(nanousd=999)))
    assert "the budget team/team has" in refused(driver, fork).message
    driver.command(ChangeBudget("team/team", None))
    assert shown(driver.replies[driver.command(fork)]).run_id == "f"
    driver.command(ChangeBudget("team/team", AccountPlan(nanousd=999)))
    assert shown(driver.replies[driver.command(fork)]).run_id == "f"


def test_a_fork_is_refused_where_the_queues_of_its_steps_are_full(store: MemoryStore):
    """All of them: a branch that was under way begins again, too."""
    driver = parent(store)
    asked = command(store)
    driver = Driver(store, [GRAPH], queue_limits={"function": 0})

    answer = refused(driver, asked)
    assert (answer.problem, answer.retry_after_s) == ("overloaded", 1.0)
    assert "pools.function.queue_limit" in answer.message


def dear(plan: NodePlan) -> NodePlan:
    return msgspec.structs.replace(plan, cost_nanousd=1_000) if plan.id == "b" else plan


def refused(driver: Driver, asked: Fork) -> Refused:
    seq = driver.engine.seq
    answer: Answer = driver.replies[driver.command(asked)]
    assert answer.refused is not None and driver.engine.seq == seq
    return answer.refused


def shown(answer: Answer) -> RunView:
    assert isinstance(answer.value, RunView), answer
    return answer.value


def test_a_controller_that_dies_around_a_fork_has_made_one_or_none(store: MemoryStore):
    """The same command again gives it; it is whole at once, and the parent is as it was."""
    before = encode_run(parent(store).engine.runs["r"])
    asked = command(store)
    for boundary in range(1, 200):
        driver = Driver(store, [GRAPH], boundary)
        try:
            driver.command(msgspec.structs.replace(asked, run=f"f{boundary}", idempotency_key=str(boundary)))
        except Crash:
            driver = Driver(store, [GRAPH])
        again = driver.command(
            msgspec.structs.replace(asked, run=f"f{boundary}", idempotency_key=str(boundary))
        )
        forks = [run for run in driver.engine.runs.values() if run.id == f"f{boundary}"]
        assert shown(driver.replies[again]).run_id == f"f{boundary}"
        assert len(forks) == 1
        # The map beside the cut has begun again, with both of its children.
        assert len(driver.engine.children[f"f{boundary}"]) == 2
        after = driver.engine.runs["r"]
        after.segments = decode_run(before).segments
        assert encode_run(after) == before
        if driver.performed < boundary:
            return
    raise AssertionError("the story never came to its end")


def test_a_fork_goes_on_after_recovery(store: MemoryStore):
    """Its queue, its children and its origin are made again from its first event."""
    driver = parent(store)
    driver.command(command(store))

    driver = Driver(store, [GRAPH])
    work(driver)

    run = driver.engine.runs["f"]
    assert [visit.wait.approval for visit in run.visits.values() if visit.wait] == ["f.1"]
    assert run.origin is not None
    assert (run.origin.run, run.origin.node, run.origin.again) == ("r", "b", ("m",))


# --- replayed from the store -------------------------------------------------------------------------


def blobs(store: MemoryStore) -> Blobs:
    return Blobs(store, PlainCodec(), b"k" * 32)


def test_runs_and_their_forks_are_replayed_from_the_store(store: MemoryStore):
    """Each run of the family: what its controller shows is what its journal says."""
    driver = parent(store)
    driver.command(command(store))
    work(driver)

    for run in list(driver.engine.runs.values()):
        verdict = replay_run(store, PlainCodec(), blobs(store), run.id, [Shown("controller", run)])
        assert verdict.ok, verdict
        assert verdict.compared == (f"controller at event {run.seq}",)


def test_a_state_that_is_not_the_journals_is_found(store: MemoryStore):
    """By the field; and a run that is nowhere is not found."""
    driver = parent(store)
    run: Run = decode_run(encode_run(driver.engine.runs["r"]))
    run.attempts += 1

    verdict = replay_run(store, PlainCodec(), blobs(store), "r", [Shown("snapshot", run)])

    assert verdict.difference.startswith(f"attempts is {run.attempts - 1} by the journal and {run.attempts}")
    with pytest.raises(NotFound):
        replay_run(store, PlainCodec(), blobs(store), "nope")


def test_a_graph_that_is_not_the_runs_is_detected(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """As if another graph lay under its hash: the first event that does not fit is named, nothing changes."""
    parent(store)
    other = graph(
        [node("a"), node("b"), mapping("m", "list", BODY), human("h", "approved")],
        [edge("a", "b"), edge("a", "m"), edge("b", "h"), edge("m", "h")],
        subgraphs=(BODY,),
    )
    monkeypatch.setattr(replaying, "decode_graph", lambda data: other)

    verdict = replay_run(store, PlainCodec(), blobs(store), "r")

    assert "does not fit its graph" in verdict.misfit
    assert "(EdgesTaken) of run r" in verdict.misfit


def test_a_controller_does_not_start_on_runs_that_are_not_of_their_graphs(store: MemoryStore):
    """The graph and the run are named; nothing but the claim of the epoch is written."""
    driver = Driver(store, [GRAPH])
    driver.command(Submit("r", "q", "team", "agent", GRAPH.version, content(list=[1, 2])))
    other = graph([human("h", "approved"), node("b")], [edge("h", "b")])
    store.delete(f"graphs/{GRAPH.version}")

    with pytest.raises(Corrupt, match="run r is not of this graph: it runs a function step at node h"):
        Driver(store, [other])
