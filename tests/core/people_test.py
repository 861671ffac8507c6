"""People in a run: approvals, conversations, pauses, and the time that waiting for them takes."""

from __future__ import annotations

import pytest

from hive_ray.core.commands import Cancel, Complete, Pause, Refused, Resume, Signal
from hive_ray.core.failures import FailureKind
from hive_ray.core.run import Run, status_of
from hive_ray.core.values import decode
from hive_ray.graph.compiled import CompiledGraph
from tests.core.graphs import HOUR_US, agent, chain, edge, graph, human, mapping, nested, node
from tests.core.story import Story, content, values


def reviewed(*outputs: str) -> Story:
    """A draft, a person's review, and a mail that goes out if it was approved."""
    return Story(
        graph(
            [node("draft"), human("review", *outputs, input_keys=("draft",)), node("mail")],
            [edge("draft", "review"), edge("review", "mail", when="approved" if outputs else "")],
        )
    )


def at_review(*outputs: str) -> tuple[Story, Run]:
    story = reviewed(*outputs)
    run = story.submit()
    story.run_to_end("draft")
    return story, run


def refused(answer: Run | Refused) -> str:
    assert isinstance(answer, Refused)
    return answer.problem


# --- approvals -------------------------------------------------------------------------------------


def test_a_human_node_asks_and_holds_no_slot():
    """The question has a reason, an owner, a form, a deadline, and shows the node's inputs."""
    story, run = at_review("approved")

    _, wait = story.wait()
    assert (wait.reason, wait.message, wait.owner, wait.form) == (
        "approval",
        "may it go out?",
        "boss",
        b"{}",
    )
    assert wait.shown == content(draft="draft!").outputs
    assert wait.deadline_us == story.now_us + 72 * HOUR_US
    assert (status_of(run), story.leases()) == ("waiting", {})


def test_approve_fills_approved_with_true():
    """And the edge that asks for it is taken."""
    story, run = at_review("approved")

    story.resolve("approve")
    story.run_to_end("mail")

    assert (run.status, story.memory()["approved"]) == ("succeeded", True)


def test_reject_with_an_approved_output_succeeds_with_false():
    """The graph decides what a rejection means: here nothing is mailed."""
    story, run = at_review("approved", "feedback")

    story.resolve("reject", feedback="too long")

    assert (run.status, run.reason) == ("succeeded", "no_edge")
    assert (story.memory()["approved"], story.memory()["feedback"]) == (False, "too long")


def test_reject_without_an_approved_output_fails_the_node():
    """REJECTED, with the person's words."""
    story, run = at_review()

    story.resolve("reject", message="not like this")

    assert (run.status, run.failure, run.message) == ("failed", "REJECTED", "not like this")


def test_edit_writes_the_persons_values():
    """An edit approves; keys that it leaves out are null."""
    story, _ = at_review("approved", "subject", "note")

    story.resolve("edit", subject="better")
    story.run_to_end("mail")

    memory = story.memory()
    assert (memory["approved"], memory["subject"], memory["note"]) == (True, "better", None)


def test_an_answer_writes_only_the_nodes_own_outputs():
    """Memory is scoped for people too."""
    story, _ = at_review("approved")

    story.resolve("approve", draft="overwritten")

    assert story.memory()["draft"] == "draft!"


def test_an_unanswered_approval_expires_and_fails():
    """EXPIRED; the message names what was needed."""
    story, run = at_review("approved")

    story.pass_time(72 * HOUR_US)

    assert (run.status, run.failure) == ("failed", "EXPIRED")
    assert "may it go out?" in run.message


def test_an_approval_is_resolved_exactly_once():
    """The identical answer again changes nothing, a different one is a conflict."""
    story, run = at_review("approved")
    approval = story.wait()[1].approval
    story.resolve("approve", digest="d1")
    before = len(story.journal)

    assert story.resolve("approve", approval=approval, digest="d1") is run
    assert refused(story.resolve("approve", approval=approval, digest="d2")) == "conflict"
    assert refused(story.resolve("reject", approval=approval, digest="d1")) == "conflict"
    assert len(story.journal) == before


def test_an_answer_after_the_deadline_is_a_conflict():
    """Whoever comes second has lost, be it the clock or the person."""
    story, _ = at_review("approved")
    approval = story.wait()[1].approval
    story.pass_time(72 * HOUR_US)

    assert refused(story.resolve("approve", approval=approval)) == "conflict"


def test_answers_that_do_not_fit_are_refused():
    """A decision of another kind, an approval that does not exist, a run that does not."""
    story, _ = at_review("approved")

    assert refused(story.resolve("happened")) == "invalid"
    assert refused(story.resolve("approve", approval="r.9")) == "not_found"
    assert refused(story.resolve("approve", approval="x.1", run="x")) == "not_found"


def test_an_answer_after_a_cancel_is_refused():
    """The run has one terminal state."""
    story, run = at_review("approved")
    approval = story.wait()[1].approval
    story.tell_cancel()

    assert refused(story.resolve("approve", approval=approval)) == "not_found"
    assert run.status == "cancelled"


# --- client-facing loops -----------------------------------------------------------------------------


def talk(**fields: object) -> tuple[Story, Run]:
    story = Story(chain(agent("chat", client_facing=True, output_keys=("name", "mood"), **fields)))
    return story, story.submit()


def test_ask_user_waits_for_a_signal_and_the_answer_joins_the_conversation():
    """The loop goes on with what the client said; it ends when its outputs are set."""
    story, run = talk()
    story.turn(story.lease("chat"), question="who are you?")
    _, wait = story.wait()
    assert wait.reason == "client"
    assert decode(wait.shown["question"]) == "who are you?"

    story.signal("Ann")
    lease = story.lease("chat")
    assert [turn.role for turn in lease.conversation] == ["assistant", "user"]
    assert decode(lease.conversation[-1].value) == "Ann"
    story.turn(lease, name="Ann", mood="good")

    assert (run.status, story.memory()) == ("succeeded", {"name": "Ann", "mood": "good"})


def test_complete_ends_a_conversation_with_what_it_has():
    """The client may add the rest."""
    story, run = talk()
    story.turn(story.lease("chat"), question="who are you?", name="Ann")

    story.tell(Complete("r", content(mood="fine", other=1)))

    assert (run.status, story.memory()) == ("succeeded", {"name": "Ann", "mood": "fine"})


def test_an_idle_client_ends_the_node():
    """EXPIRED at the node's idle deadline."""
    story, run = talk(idle_us=HOUR_US)
    story.turn(story.lease("chat"), question="still there?")

    story.pass_time(HOUR_US)

    assert (run.status, run.failure) == ("failed", "EXPIRED")


def test_a_signal_to_a_run_that_does_not_wait_is_a_conflict():
    """Nothing is stored for later."""
    story, _ = talk()

    assert refused(story.signal("hello?")) == "conflict"
    assert refused(story.tell(Signal("x", content(said="hello")))) == "not_found"


def test_several_client_facing_nodes_must_be_named():
    """A signal without a node fits none of two."""
    nodes = [node("a"), agent("b", client_facing=True), agent("c", client_facing=True)]
    story = Story(graph(nodes, [edge("a", "b"), edge("a", "c")]))
    story.submit()
    story.run_to_end("a")
    for lease in story.leases().values():
        story.turn(lease, question="?")

    assert refused(story.signal("hm")) == "invalid"
    story.tell(Signal("r", content(said="hm"), "c"))
    assert list(story.leases()) == ["c"]


def test_a_client_may_talk_longer_than_max_turns():
    """Turns are counted since the client last spoke."""
    story, run = talk(max_turns=2)
    for _ in range(5):
        story.turn(story.lease("chat"), question="and?")
        story.signal("more")
    story.turn(story.lease("chat"))
    story.turn(story.lease("chat"))

    assert (run.status, run.failure) == ("failed", "LIMIT_EXCEEDED")


def test_continuous_graphs_hand_the_conversation_on():
    """The second node's LLM sees what the first one's said."""
    nodes = [agent("a", client_facing=True), agent("b", client_facing=True)]
    story = Story(graph(nodes, [edge("a", "b")], continuous=True))
    story.submit()
    story.turn(story.lease("a"), a="done")

    assert [turn.role for turn in story.lease("b").conversation] == ["assistant"]


# --- pauses ------------------------------------------------------------------------------------------

BODY = chain(node("x"), id="body")


@pytest.mark.parametrize(
    ("waiting", "label"),
    [
        (node("b", pause=True), "b"),
        (agent("b", pause=True), "b"),
        (nested("b", BODY, pause=True), "0:x"),
        (mapping("b", "list", BODY, pause=True), "0:x"),
    ],
)
def test_a_pause_node_starts_when_the_run_is_resumed(waiting: object, label: str):
    """Whatever kind of node it is; it waits with a deadline."""
    story = Story(graph([node("a"), waiting], [edge("a", "b")], subgraphs=(BODY,)))  # type: ignore[list-item]
    story.submit(input={"list": [1]})
    story.run_to_end("a")
    assert (story.wait()[1].reason, story.leases()) == ("pause", {})

    story.tell(Resume("r"))

    assert list(story.leases()) == [label]


def test_a_paused_run_starts_nothing_and_loses_nothing():
    """What runs may end; what follows waits for resume."""
    story = Story(chain(node("a"), node("b")))
    run = story.submit()
    lease = story.lease("a")

    story.tell(Pause("r", "lunch"))
    story.tell(Pause("r", "lunch"))
    story.succeed(lease)
    assert (story.leases(), status_of(run), run.reason) == ({}, "waiting", "lunch")

    story.tell(Resume("r"))
    story.tell(Resume("r"))
    story.run_to_end("b")
    assert run.status == "succeeded"


def test_a_backoff_that_ends_during_a_pause_waits_for_resume():
    """Its timer is not lost."""
    story = Story(chain(node("a")))
    run = story.submit()
    story.fail(story.lease("a"), FailureKind.TOOL_ERROR)
    story.tell(Pause("r"))
    story.pass_time(HOUR_US)
    assert story.leases() == {}

    story.tell(Resume("r"))
    story.run_to_end("a")

    assert run.status == "succeeded"


def test_a_pause_reaches_the_children_also_those_born_later():
    """No child of a paused run starts anything."""
    story = Story(graph([node("a"), nested("b", BODY)], [edge("a", "b")], subgraphs=(BODY,)))
    run = story.submit()
    lease = story.lease("a")
    story.tell(Pause("r"))
    story.succeed(lease)
    assert story.leases() == {}

    story.tell(Resume("r"))
    story.run_to_end("0:x")

    assert run.status == "succeeded"


@pytest.mark.parametrize("command", [Pause("r"), Resume("r"), Cancel("r")])
def test_what_has_ended_takes_no_commands(command: Pause | Resume | Cancel):
    """Terminal means terminal."""
    story = Story(chain(node("a")))
    story.submit()
    story.run_to_end("a")

    assert refused(story.tell(command)) == "conflict"


def test_cancelling_twice_is_no_fault():
    """The second time nothing is recorded."""
    story, _ = at_review("approved")
    story.tell_cancel()
    before = len(story.journal)

    assert isinstance(story.tell_cancel(), Run)
    assert len(story.journal) == before


# --- the run's deadline ------------------------------------------------------------------------------


def test_a_run_ends_at_its_deadline():
    """EXPIRED at the nodes where it was; what ran is orphaned."""
    story = Story(chain(node("a")))
    run = story.submit(deadline_us=0)
    story.leases()

    story.pass_time(24 * HOUR_US)

    assert (run.status, run.failure, run.failed_at) == ("failed", "EXPIRED", "a")
    assert list(run.orphans) == ["1.0.1"]


def test_time_spent_waiting_for_people_does_not_count():
    """The deadline moves by as much as the person took."""
    story, run = at_review("approved")
    story.pass_time(60 * HOUR_US)
    story.resolve("approve")

    story.pass_time(24 * HOUR_US - 1)
    assert run.status == "running"
    story.pass_time(1)
    assert run.failure == "EXPIRED"


def test_two_questions_at_once_stop_the_clock_once():
    """Until the last of them is answered."""
    nodes = [node("a"), human("b", "x"), human("c", "y"), node("d")]
    story = Story(graph(nodes, [edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d")]))
    run = story.submit()
    deadline_us = run.deadline_us
    story.run_to_end("a")
    story.pass_time(10)
    story.resolve("approve", approval="r.1")
    story.pass_time(10)
    story.resolve("approve", approval="r.2")

    assert run.deadline_us == deadline_us + 20


def in_child() -> CompiledGraph:
    body = chain(human("h", "approved"), id="body")
    return graph([nested("sub", body), node("z")], [edge("sub", "z")], subgraphs=(body,))


def test_a_child_that_waits_for_a_person_stops_its_parents_clock():
    """And starts it again when it is answered, or ends otherwise."""
    story = Story(in_child())
    run = story.submit()
    deadline_us = run.deadline_us
    story.pass_time(60 * HOUR_US)
    assert run.status == "running"

    story.resolve("approve", run="r_1-0")

    assert (run.waits, run.deadline_us) == (0, deadline_us + 60 * HOUR_US)
    assert list(story.leases()) == ["z"]


def test_a_cancelled_child_no_longer_stops_the_clock():
    """Its open questions go with it."""
    story = Story(in_child())
    run = story.submit()

    story.tell_cancel("r_1-0")

    assert (run.status, run.failure) == ("failed", "CANCELLED")


def test_what_a_person_answers_is_what_edges_read():
    """Facts come from the answer itself, nested ones too, whatever an earlier round had said."""
    loop = human("h", "verdict")
    story = Story(
        graph([loop, node("b")], [edge("h", "b", when="verdict"), edge("h", "h", when="not verdict")])
    )
    story.submit()

    story.resolve("approve", verdict=False)
    story.resolve("approve", verdict=True)

    assert list(story.leases()) == ["b"]
    assert values(verdict=True)["verdict"] == story.engine.runs["r"].memory["verdict"]


def test_a_cancelled_family_counts_its_waits_down_once():
    """A grandchild's question that goes with its parent does not start the root's clock twice."""
    inner = chain(human("h", "x"), id="inner")
    mid = graph([nested("t", inner), human("u", "y")], [edge("t", "u")], id="mid", subgraphs=(inner,))
    top = graph([mapping("m", "list", mid, on_failure="skip", window=2)], subgraphs=(mid,))
    story = Story(top)
    run = story.submit(input={"list": [1, 2]})
    assert run.waits == 2

    story.tell_cancel("r_1-0")

    assert run.waits == 1
