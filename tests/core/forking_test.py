"""Forks: where a run can be cut, what goes on from there, and that the parent does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from hive_ray.core import forking
from hive_ray.core.commands import Cancel, Pause, Refused, Resume
from hive_ray.core.events import ConversationCarried
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import ERASED, Lease, StepContent
from hive_ray.core.run import ERROR_KEY, Run, RunStatus, decode_run, encode_run
from hive_ray.core.values import decode
from hive_ray.graph.compiled import CompiledGraph, RetryPlan
from tests.core.graphs import agent, chain, edge, graph, human, llm, mail, mapping, nested, node, tool
from tests.core.histories import state_of
from tests.core.story import Story, content

NO_RETRY = RetryPlan(0)
BODY = chain(node("x", input_keys=("item",)), id="body")

EVERYTHING = graph(
    [
        node("a", input_keys=("name",)),
        node("b", input_keys=("a",)),
        node("c", input_keys=("a",)),
        node("d", input_keys=("c",)),
        node("j", input_keys=("b", "d"), output_keys=("j", "list")),
        mapping("m", "list", BODY, window=2),
        node("w", input_keys=("n", "m"), output_keys=("n", "again")),
        node("z", input_keys=("tone", "m", "n")),
    ],
    [
        edge("a", "b"),
        edge("a", "c"),
        edge("c", "d"),
        edge("b", "j"),
        edge("d", "j"),
        edge("j", "m"),
        edge("m", "w"),
        edge("w", "m", when="again"),
        edge("w", "z", when="not again"),
    ],
    subgraphs=(BODY,),
)
"""A fan-out with branches of different length, a join, a map and a loop around it."""

GIVEN: dict[str, Any] = {"name": "Ada", "n": 0, "tone": "kind"}


def answer(story: Story, lease: Lease) -> StepContent:
    """What a step produces: a function of its inputs alone."""
    given = {key: decode(value) for key, value in lease.inputs.items()}
    name = story.engine.graphs[lease.graph].nodes[lease.node].id
    if lease.kind == "collect":
        return content(m=sorted(given.items()))
    if name == "w":
        return content(n=given["n"] + 1, again=given["n"] < 1)
    if name == "j":
        return content(j=given, list=[1, 2, 3])
    return content(**{name: given})


def steps(story: Story, run: str) -> Iterator[None]:
    """Do the work of a run and its children, one step after the other, until there is none."""
    held: list[Lease] = []
    while True:
        held += story.leases().values()
        mine = [lease for lease in held if lease.run.startswith(run)]
        if not mine:
            return
        held.remove(mine[-1])
        story.report(mine[-1], answer(story, mine[-1]))
        yield


def finished(story: Story, run: str) -> dict[str, Any]:
    for _ in steps(story, run):
        pass
    assert story.engine.runs[run].status is RunStatus.SUCCEEDED
    return story.memory(run)


def undisturbed(**given: Any) -> dict[str, Any]:
    story = Story(EVERYTHING)
    story.submit(run="u", input=GIVEN | given)
    return finished(story, "u")


def places(story: Story, run: str = "r") -> list[forking.Boundary]:
    return forking.boundaries(story.told(run), story.engine.graphs[story.engine.runs[run].graph])


def test_a_fork_before_any_visit_ends_like_an_undisturbed_run():
    """Fan-out, join, map and loop included; what is given anew reaches every node that reads it."""
    story = Story(EVERYTHING, slots=64)
    story.submit(input=GIVEN)
    finished(story, "r")
    before = encode_run(story.engine.runs["r"])
    expected = undisturbed(tone="stern")

    for number, place in enumerate(places(story)):
        forked = story.fork(place.node, new=f"f{number}", visit=place.visit, given={"tone": "stern"})
        assert isinstance(forked, Run), forked
        assert finished(story, forked.id) == expected, place

    assert [place[:2] for place in places(story)] == [
        ("a", 1), ("b", 1), ("c", 1), ("d", 1), ("j", 1), ("m", 1), ("w", 1), ("m", 2), ("w", 2), ("z", 1),
    ]  # fmt: skip
    assert encode_run(story.engine.runs["r"]) == before
    assert state_of(story.replayed()) == state_of(story.engine)


def test_a_run_that_is_under_way_can_be_forked_at_every_moment():
    """Before every visit that it has made so far; parent and fork end alike, whatever was under way."""
    expected = undisturbed()
    moments = len(list(steps(_started(), "r")))
    for moment in range(1, moments):
        story = _started()
        going = steps(story, "r")
        for _ in range(moment):
            next(going)
        last = places(story)[-1]

        forked = story.fork(last.node, visit=last.visit)

        assert isinstance(forked, Run)
        assert finished(story, "f") == expected, (moment, last)
        assert not story.engine.runs["r"].terminal


def _started() -> Story:
    story = Story(EVERYTHING, slots=64)
    story.submit(input=GIVEN)
    return story


def test_a_fork_of_a_fork_can_be_cut_where_visits_began_again():
    """Also before a visit that it took over: that is where the fork began."""
    story = Story(EVERYTHING, slots=64)
    story.submit(input=GIVEN)
    finished(story, "r")
    story.fork("d", new="f")
    finished(story, "f")

    for place in places(story, "f"):
        forked = story.fork(place.node, "f", new=f"g-{place.node}-{place.visit}", visit=place.visit)
        assert isinstance(forked, Run)
        assert finished(story, forked.id) == undisturbed()

    assert places(story, "f")[0].node == "b"


# --- what a fork has of its own ------------------------------------------------------------------


def test_a_fork_has_its_own_money_answers_and_names():
    """It names its parent and the event that it was cut behind; nothing of the parent's money is its."""
    story = Story(chain(node("a", cost_nanousd=5), human("h", "approved"), node("b", cost_nanousd=5)))
    story.submit(budget_nanousd=20)
    story.succeed(story.lease("a"), cost_nanousd=5, a=1)
    story.resolve("approve")
    story.succeed(story.lease("b"), cost_nanousd=5, b=2)
    entered = next(told[0] for told in story.told() if getattr(told[2], "node_id", "") == "h")

    forked = story.fork("h", budget_nanousd=7, idempotency_key="other", digest="d")

    assert isinstance(forked, Run)
    assert (forked.spent_nanousd, forked.budget_nanousd, forked.attempts) == (0, 7, 0)
    assert forked.origin is not None
    assert (forked.origin.run, forked.origin.seq) == ("r", entered - 1)
    assert story.wait("f")[1].approval == "f.1"
    assert forked.status is not RunStatus.SUCCEEDED
    story.resolve("approve", "f")
    lease = story.lease("b")
    assert lease.idempotency_key.startswith("f:")
    story.succeed(lease, b=3)
    assert (story.engine.runs["r"].spent_nanousd, forked.spent_nanousd) == (10, 0)
    assert story.memory("r")["b"] == 2


def test_what_is_given_anew_changes_conditions():
    """Facts of the old value go, also those that the new value no longer has."""
    top = graph([node("a"), node("b"), node("c")], [edge("a", "b", when="k"), edge("a", "c", when="not k")])
    story = Story(top)
    story.submit(input={"k": True})
    story.run_to_end("a", "b")

    story.fork("a", given={"k": False})
    story.run_to_end("a", "c")

    assert story.memory("f")["k"] is False


def test_a_repeated_fork_is_the_same_run():
    """Under its run id or its key; another body under the key is refused."""
    story = Story(chain(node("a"), node("b")))
    story.submit()
    story.run_to_end("a")

    first = story.fork("b", idempotency_key="k", digest="1")
    again = story.fork("b", new="g", idempotency_key="k", digest="1")
    other = story.fork("b", new="g", idempotency_key="k", digest="2")

    assert first is again
    assert isinstance(other, Refused)
    assert other.problem == "mismatch"
    assert "g" not in story.engine.runs


@pytest.mark.parametrize(
    ("node_id", "visit", "why"),
    [
        ("c", 0, "node c was never visited"),
        ("nope", 0, "the graph has no node nope"),
        ("b", 3, "node b had no visit 3"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_those_that_are(node_id: str, visit: int, why: str):
    """The visited nodes are listed with their visits."""
    story = Story(graph([node("a"), node("b"), node("c")], [edge("a", "b"), edge("b", "b", when="k")]))
    story.submit(input={"k": True})
    story.run_to_end("a", "b")

    refused = story.fork(node_id, visit=visit)

    assert refused == Refused("invalid", f"{why}; the run has visited: a, b (visits 1 to 2)")


# --- what was under way --------------------------------------------------------------------------


def beside(*nodes: Any, subgraphs: Any = ()) -> CompiledGraph:
    """``a`` divides into ``b``, before which the run is cut later, and what is under way then."""
    others = nodes[0]
    return graph(
        [node("a"), node("b"), node("b2"), *nodes],
        [edge("a", "b"), edge("b", "b2"), edge("a", others.id)],
        subgraphs=subgraphs,
    )


def test_an_agent_beside_the_cut_begins_again():
    """With an empty conversation, at its first turn; its tool calls so far are named as repeats."""
    story = Story(beside(agent("g", tool("send", idempotent=False))))
    story.submit()
    story.run_to_end("a")
    leases = story.leases()
    story.turn(leases["g"], "send")
    story.succeed(story.lease("g/send"), result="sent")
    story.succeed(leases["b"])

    forked = story.fork("b2")

    assert isinstance(forked, Run)
    assert forked.origin is not None
    assert (forked.origin.again, forked.origin.repeats) == (("g",), ("g",))
    (visit,) = [visit for visit in forked.visits.values() if visit.loop is not None]
    assert visit.loop is not None
    assert (visit.loop.turns, visit.loop.conversation) == (0, [])


def test_a_person_beside_the_cut_is_asked_again():
    """Under an approval of the fork's own; the parent's stays open."""
    story = Story(beside(human("h", "approved")))
    story.submit()
    story.run_to_end("a", "b")

    story.fork("b2")

    assert (story.wait("r")[1].approval, story.wait("f")[1].approval) == ("r.1", "f.1")


@pytest.mark.parametrize("kind", ["map", "subgraph"])
def test_children_beside_the_cut_begin_again(kind: str):
    """As new runs of the fork; the parent's go on."""
    under_way = mapping("m", "list", BODY) if kind == "map" else nested("m", BODY)
    story = Story(beside(under_way, subgraphs=(BODY,)))
    story.submit(input={"list": [1, 2]})
    story.run_to_end("a")
    held = story.leases()
    if kind == "map":
        story.succeed(held["0:x"])
    story.succeed(held["b"])
    own = set(story.engine.children.get("r", ()))

    forked = story.fork("b2")

    assert isinstance(forked, Run)
    assert forked.origin is not None
    assert (forked.origin.again, forked.origin.repeats) == (("m",), ())
    born = set(story.engine.children["f"])
    assert len(born) == (2 if kind == "map" else 1)
    assert set(story.engine.children.get("r", ())) == own
    assert not born & own


def test_edges_that_were_being_decided_are_decided_again_without_the_work():
    """The node's outputs are there: only the LLM's choice begins again."""
    top = graph(
        [node("a"), node("b"), node("b2"), llm("d"), node("e")],
        [edge("a", "b"), edge("b", "b2"), edge("a", "d"), edge("d", "e", "llm_decide")],
    )
    story = Story(top)
    story.submit()
    story.run_to_end("a")
    leases = story.leases()
    story.succeed(leases["d"], d="done")
    story.succeed(leases["b"])

    forked = story.fork("b2")
    again = [lease for lease in story.leases().values() if lease.run == "f"]

    assert isinstance(forked, Run)
    assert sorted(lease.kind for lease in again) == ["decide", "function"]
    assert story.memory("f")["d"] == "done"


def test_a_step_beside_the_cut_that_may_have_happened_is_named():
    """A mail that was under way at the cut is sent again by the fork; whoever forks is told."""
    story = Story(beside(mail("send")))
    story.submit()
    story.run_to_end("a")
    leases = story.leases()
    story.succeed(leases["b"])
    assert "send" in leases

    forked = story.fork("b2")

    assert isinstance(forked, Run)
    assert forked.origin is not None
    assert (forked.origin.again, forked.origin.repeats) == (("send",), ("send",))


@pytest.mark.parametrize("path", [["send"], ["c", "send"]])
def test_what_the_parent_did_beside_the_cut_is_named(path: list[str]):
    """The other branch had not begun at the cut, or was on its way: its mail is sent again all the same."""
    edges = [edge(source, target) for source, target in pairwise(["a", *path])]
    other = [mail(id) if id == "send" else node(id) for id in path]
    story = Story(
        graph([node("a"), node("b"), mail("b2"), *other], [edge("a", "b"), *edges, edge("b", "b2")])
    )
    story.submit()
    story.run_to_end("a")
    while leases := story.leases():
        for lease in leases.values():
            story.succeed(lease)

    forked = story.fork("b")

    assert isinstance(forked, Run)
    assert forked.origin is not None
    assert forked.origin.repeats == ("send",)


def test_what_had_started_in_a_grandparent_is_named():
    """Its fork was given up before it came to it: whoever resumes that one is told too."""
    story = Story(chain(node("a"), mail("send")))
    story.submit()
    story.run_to_end("a")
    story.fail(story.lease("send"))
    story.resume_ended()
    story.tell_cancel("f")

    resumed = story.resume_ended("f", "g")

    assert isinstance(resumed, Run)
    assert resumed.origin is not None
    assert resumed.origin.repeats == ("send",)


def test_a_paused_and_a_waiting_run_can_be_forked():
    """The fork is not paused."""
    story = Story(chain(node("a"), human("h", "approved"), node("b")))
    story.submit()
    story.run_to_end("a")
    story.tell(Pause("r"))

    forked = story.fork("a")

    assert isinstance(forked, Run)
    assert not forked.paused
    story.run_to_end("a")
    assert story.engine.runs["r"].paused


# --- resuming what failed ------------------------------------------------------------------------


def test_a_failed_run_is_resumed_before_the_visit_that_failed():
    """What had ended is not done again, and the error is forgotten."""
    story = Story(chain(node("a"), node("b", retry=NO_RETRY), node("c")))
    failed = story.submit()
    story.run_to_end("a")
    story.fail(story.lease("b"), FailureKind.TOOL_ERROR)
    before = encode_run(failed)

    resumed = story.resume_ended()
    story.run_to_end("b", "c")

    assert isinstance(resumed, Run)
    assert (failed.status, resumed.status) == (RunStatus.FAILED, RunStatus.SUCCEEDED)
    assert encode_run(failed) == before
    assert ERROR_KEY not in resumed.memory
    assert resumed.origin is not None
    assert (resumed.origin.run, resumed.origin.resumes, resumed.origin.node) == ("r", True, "")


def test_an_error_from_before_is_still_there():
    """``_error`` of a failure that an edge had caught is part of the state."""
    top = graph([node("a", retry=NO_RETRY), node("b", retry=NO_RETRY)], [edge("a", "b", "on_failure")])
    story = Story(top)
    story.submit()
    story.fail(story.lease("a"), FailureKind.BAD_INPUT)
    caught = story.memory()[ERROR_KEY]
    story.fail(story.lease("b"), FailureKind.TOOL_ERROR)
    assert story.memory()[ERROR_KEY] != caught

    story.resume_ended()

    assert story.memory("f")[ERROR_KEY] == caught


def test_what_went_on_beside_the_failure_is_not_done_again():
    """The branch that had ended stays ended; only the visit that failed begins again."""
    top = graph(
        [node("a"), node("b", retry=NO_RETRY), mail("c"), mail("d"), node("j")],
        [edge("a", "b"), edge("a", "c"), edge("c", "d"), edge("b", "j"), edge("d", "j")],
    )
    story = Story(top)
    story.submit()
    story.run_to_end("a")
    leases = story.leases()
    story.succeed(leases["c"])
    story.run_to_end("d")
    story.fail(leases["b"], FailureKind.TOOL_ERROR)

    resumed = story.resume_ended()
    story.run_to_end("b", "j")

    assert isinstance(resumed, Run)
    assert resumed.status is RunStatus.SUCCEEDED
    assert resumed.origin is not None
    assert resumed.origin.repeats == ()


def test_a_second_resume_gives_the_same_run():
    """However often it is asked, a failed run has one successor, also after recovery; forks do not count."""
    story = Story(chain(node("a", retry=NO_RETRY)))
    story.submit()
    story.fail(story.lease("a"))
    story.fork("a", new="fork")

    first = story.resume_ended(new="f")
    again = story.resume_ended(new="g")

    assert first is again
    assert story.replayed().successors == story.engine.successors == {"r": "f"}


def test_a_run_that_ran_out_of_visits_gets_as_many_again():
    """Resuming grants ``max_steps`` and ``max_node_visits`` once more; a fork does not."""
    top = graph([node("a", max_visits=2)], [edge("a", "a", when="k")], max_steps=50)
    story = Story(top)
    run = story.submit(input={"k": True})
    story.run_to_end("a", "a")
    assert (run.status, run.failure) == (RunStatus.FAILED, "LIMIT_EXCEEDED")

    resumed = story.resume_ended()
    story.run_to_end("a", "a")
    forked = story.fork("a", new="g", visit=2)
    story.run_to_end("a")

    assert isinstance(resumed, Run)
    assert isinstance(forked, Run)
    assert (resumed.visit_counts, resumed.failure) == ({0: 4}, "LIMIT_EXCEEDED")
    assert (forked.visit_counts, forked.failure) == ({0: 2}, "LIMIT_EXCEEDED")


def test_a_run_without_money_is_resumed_with_more():
    """The step that could not be paid is the first of the new run."""
    story = Story(chain(node("a", cost_nanousd=5), node("b", cost_nanousd=50)))
    run = story.submit(budget_nanousd=10)
    story.succeed(story.lease("a"), cost_nanousd=5)
    assert story.leases() == {}
    assert run.failure == "BUDGET_EXCEEDED"

    resumed = story.resume_ended(budget_nanousd=100)
    story.run_to_end("b")

    assert isinstance(resumed, Run)
    assert resumed.status is RunStatus.SUCCEEDED


def test_a_run_out_of_time_is_resumed_with_what_was_outstanding():
    """All branches begin again, under a deadline of their own."""
    story = Story(graph([node("a"), node("b"), node("c")], [edge("a", "b"), edge("a", "c")]))
    run = story.submit()
    story.run_to_end("a")
    story.leases()
    story.now_us += run.deadline_us
    story.engine.fire_deadlines("r", story.now)
    assert run.failure == "EXPIRED"

    resumed = story.resume_ended()

    assert isinstance(resumed, Run)
    assert resumed.deadline_us > run.deadline_us
    assert sorted(lease.run for lease in story.leases().values()) == ["f", "f"]


def test_a_cancelled_run_is_resumed_and_a_succeeded_one_is_not():
    """Success is final; the refusal says what to do instead."""
    story = Story(chain(node("a"), node("b")))
    for run in ("r", "s"):
        story.submit(run=run)
    story.tell(Cancel("s"))
    story.run_to_end("a", "b")

    refused = story.resume_ended("r")
    resumed = story.resume_ended("s", new="t")
    story.run_to_end("a", "b")

    assert isinstance(refused, Refused)
    assert "fork it from a node" in refused.message
    assert isinstance(resumed, Run)
    assert resumed.status is RunStatus.SUCCEEDED


def test_a_condition_without_a_truth_value_begins_with_its_node_again():
    """The node whose outputs had none may say something else."""
    story = Story(graph([node("a"), node("b")], [edge("a", "b", when="broken")]))
    run = story.submit()
    story.run_to_end("a")
    assert run.failure == "INVALID_OUTPUT"

    story.resume_ended()

    assert story.lease("a").run == "f"


def test_a_live_run_cannot_take_the_place_of_itself():
    """Resuming in this sense is for runs that have ended."""
    story = Story(chain(node("a")))
    story.submit()

    refused = story.resume_ended()

    assert isinstance(refused, Refused)
    assert refused.problem == "conflict"
    assert isinstance(story.tell(Resume("r")), Run)


def test_a_cut_that_is_too_large_is_refused():
    """It has to fit into a segment beside others."""
    story = Story(chain(node("a"), node("b")))
    story.submit(input={"text": "x" * forking.MOST_BYTES})
    story.run_to_end("a")

    refused = story.fork("b")

    assert isinstance(refused, Refused)
    assert str(forking.MOST_BYTES) in refused.message
    assert "f" not in story.engine.runs


def test_a_state_of_the_first_release_holds_no_forks_until_it_is_raised():
    """That release could not open it any more; runs that are there go on."""
    story = Story(chain(node("a"), node("b")))
    story.submit()
    story.run_to_end("a")

    refused = story.fork("b", upgraded=False)
    story.run_to_end("b")

    assert isinstance(refused, Refused)
    assert "hive-ray state upgrade" in refused.message
    assert "RunForked" not in [type(told[2]).__name__ for told in story.events()]


def test_events_that_do_not_follow_from_each_other_are_named():
    """A run that does not fit its journal is not forked."""
    story = Story(chain(node("a"), node("b")))
    story.submit()
    story.run_to_end("a", "b")
    told = story.told()
    torn = [one for one in told if type(one[2]).__name__ != "NodeEntered"]

    with pytest.raises(ValueError, match=r"event \d+ \(StepStarted\) does not fit"):
        forking.replayed(torn, told[-1][0])


def test_a_cut_does_not_need_conversations_that_were_erased():
    """What an agent's turns and tool calls said is gone when its run has ended; what it wrote is not."""
    top = chain(agent("g", tool("look"), tool("read"), client_facing=True), node("z", input_keys=("g",)))
    story = Story(top)
    story.submit()
    story.turn(story.lease("g"), "look", "read")
    for lease in story.leases().values():
        story.succeed(lease, result="seen")
    story.turn(story.lease("g"), question="which one?")
    story.signal("that one")
    story.turn(story.lease("g"), g="done")
    story.run_to_end("z")
    erased = [
        (seq, at_us, event, StepContent() if _is_said(event) else told)
        for seq, at_us, event, told in story.told()
    ]

    cut = forking.before_node(erased, top, "z")

    assert isinstance(cut, forking.Cut)
    assert decode(cut.state.memory["g"]) == "done"
    assert cut.state.tokens


def _is_said(event: Any) -> bool:
    return type(event).__name__ in ("StepSucceeded", "ApprovalRequested", "ApprovalResolved")


def test_a_fork_carries_the_conversation_in_an_event_of_its_own():
    """What was said must not outlive the fork, and the state it begins with must."""
    talks = [agent("a", client_facing=True), agent("b", client_facing=True)]
    story = Story(graph(talks, [edge("a", "b")], continuous=True))
    story.submit()
    story.turn(story.lease("a"), a="done")
    story.lease("b")

    assert isinstance(story.fork("b"), Run)
    begun, carried, *_ = story.told("f")

    assert decode_run(begun[3].state).conversation == []
    assert isinstance(carried[2], ConversationCarried)
    assert [turn.role for turn in story.engine.runs["f"].conversation] == ["assistant"]
    erased = [(*told[:3], ERASED if told[0] == carried[0] else told[3]) for told in story.told("f")]
    assert forking.replayed(erased, 10**9).conversation == []


def test_a_fork_of_a_fork_takes_over_what_was_carried():
    """Cut where visits began again: that is behind the event that carries what was said."""
    talks = [agent("a", client_facing=True), agent("b", client_facing=True), node("c"), node("d")]
    edges = [edge("a", "b"), edge("a", "c"), edge("c", "d")]
    story = Story(graph(talks, edges, continuous=True))
    story.submit()
    story.turn(story.lease("a"), a="done")
    story.succeed(story.leases()["c"])
    first = story.fork("d")
    assert isinstance(first, Run)
    assert first.origin is not None
    assert first.origin.again == ("b",)

    second = story.fork("b", run="f", new="g")

    assert isinstance(second, Run)
    assert [turn.role for turn in second.conversation] == ["assistant"]
    assert second.conversation == first.conversation
