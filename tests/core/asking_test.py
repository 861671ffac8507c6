"""Who is asked, one after the other; who may answer; and what holds if nobody does."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from hive_ray.core import events as ev
from hive_ray.core.commands import RaiseLevel, Refused, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.messages import StepContent
from hive_ray.core.run import Run
from hive_ray.graph.asking import ApprovalsPlan, Asked, AskPlan, Final
from tests.core.graphs import HOUR_US, chain, human, mail, nested
from tests.core.story import Story

ANN, BOB, CHIEF = "key:ann", "user:bob", "role:chief"
CHAIN = (Asked(ANN, HOUR_US), Asked(BOB, 2 * HOUR_US), Asked(CHIEF, 4 * HOUR_US))
THREE = AskPlan(CHAIN)


def asking(
    *outputs: str, asks: AskPlan = THREE, principal: str = "key:sue", **fields: Any
) -> tuple[Story, Run]:
    """A run that waits for a person."""
    story = Story(chain(human("h", *(outputs or ("approved",)), asks=asks, **fields)))
    story.engine.command(RaiseLevel(2), story.now)
    return story, story.submit(principal=principal)


def asked(story: Story) -> tuple[str, int, int]:
    """Who is asked now, at which place of the chain, and for how much longer."""
    wait = story.wait()[1]
    return wait.owner, wait.level, wait.deadline_us - story.now_us


def refused(answer: Run | Refused) -> tuple[str, str]:
    assert isinstance(answer, Refused)
    return answer.problem, answer.message


def told(story: Story, kind: type[Any]) -> list[Any]:
    return [event for _, _, event, _ in story.events() if isinstance(event, kind)]


# --- the chain -------------------------------------------------------------------------------------


def test_each_owner_is_asked_in_turn_for_his_own_time():
    """Then the run fails with EXPIRED: three owners, one, two and four hours."""
    story, run = asking()
    seen = [asked(story)]
    for hours in (1, 2):
        story.pass_time(hours * HOUR_US)
        seen.append(asked(story))
    story.pass_time(4 * HOUR_US)

    assert seen == [(ANN, 0, HOUR_US), (BOB, 1, 2 * HOUR_US), (CHIEF, 2, 4 * HOUR_US)]
    assert (run.status, run.failure) == ("failed", "EXPIRED")
    assert [(e.level, e.owner, e.reason) for e in told(story, ev.ApprovalEscalated)] == [
        (1, BOB, "approval"),
        (2, CHIEF, "approval"),
    ]


def test_an_owner_who_comes_on_late_has_his_whole_time():
    """Everything was down for a day: nobody is passed over, and the first tick asks the second owner only."""
    story, run = asking()

    story.pass_time(24 * HOUR_US)

    assert asked(story) == (BOB, 1, 2 * HOUR_US)
    assert run.status == "running"


@pytest.mark.parametrize(
    ("final", "status", "approved"),
    [
        (Final.APPROVE, "succeeded", True),
        (Final.REJECT, "succeeded", False),
        (Final.ANSWER, "succeeded", True),
    ],
)
def test_nobody_answers_and_it_ends_as_configured(final: Final, status: str, approved: bool):
    """By the deadline, which the journal names as the one who decided."""
    default = b'{"approved": true, "amount": 12}'
    story, run = asking("approved", "amount", asks=AskPlan(CHAIN[:1], final), default=default)
    story.pass_time(HOUR_US)

    assert (run.status, story.memory()["approved"]) == (status, approved)
    assert story.memory()["amount"] == (12 if final is Final.ANSWER else None)
    (resolved,) = told(story, ev.ApprovalResolved)
    assert resolved.principal == "deadline"
    assert refused(story.resolve("approve", approval="r.1"))[0] == "conflict"


def test_a_rejection_by_the_deadline_fails_a_node_that_has_no_answer_for_it():
    """REJECTED, and it says that nobody answered."""
    story, run = asking("amount", asks=AskPlan(CHAIN[:1], Final.REJECT))
    story.pass_time(HOUR_US)

    assert (run.status, run.failure) == ("failed", "REJECTED")
    assert "nobody answered r.1 in time" in run.message


def test_the_plan_asks_where_a_graph_says_nothing():
    """An unknown outcome goes along the default chain; nothing but a person can say what happened."""
    story = Story(chain(mail("a")))
    story.plan(approvals=ApprovalsPlan(AskPlan(CHAIN, Final.REJECT)))
    run = story.submit()
    story.fail(story.lease("a"), "TIMEOUT")  # pyright: ignore[reportArgumentType]
    seen = [asked(story)[0]]
    for _ in range(3):
        seen.append(asked(story)[0])
        story.pass_time(4 * HOUR_US)

    assert seen == [ANN, ANN, BOB, CHIEF]
    assert (run.status, run.failure) == ("failed", "OUTCOME_UNKNOWN")


def test_a_replay_stands_where_the_chain_stood():
    """After a restart the same owner is asked until the same moment."""
    story, _ = asking()
    story.pass_time(HOUR_US)
    again: Engine = story.replayed()

    assert again.runs["r"].visits == story.engine.runs["r"].visits


def test_a_state_of_an_earlier_level_refuses_what_it_cannot_hold():
    """It says how to raise it; a plain approval is accepted, also in a body."""
    plain = chain(human("h", "approved"), id="plain")
    body = chain(human("h", "approved", asks=THREE), id="body")
    story = Story(plain, chain(nested("s", body), id="outer", subgraphs=(body,)))
    outer = Submit("x", "q", "team", "agent", "outer", StepContent())
    answer = story.engine.submit(outer, story.now)

    assert isinstance(answer, Refused) and "hive-ray state upgrade" in answer.message
    assert story.submit(plain).status == "running"


# --- who may answer --------------------------------------------------------------------------------


def test_whoever_is_asked_and_whoever_was_may_answer():
    """The second owner not before the question came to him, the first one still."""
    story, run = asking()
    problem, message = refused(story.resolve_as(BOB, "approve"))
    story.pass_time(HOUR_US)

    assert problem == "forbidden" and f"is asked of {ANN}, and {BOB}" in message
    assert refused(story.resolve_as("key:eve", "reject"))[0] == "forbidden"
    assert story.resolve_as(ANN, "approve") is run
    assert run.status == "succeeded"
    assert [(e.principal, e.reason) for e in told(story, ev.AnswerRefused)] == [
        (BOB, "forbidden"),
        ("key:eve", "forbidden"),
    ]


@pytest.mark.parametrize("owner", ["role:chief", "chief", ""])
def test_an_owner_may_be_a_role_or_anyone(owner: str):
    """With and without the prefix; an empty owner is whoever may approve."""
    story, run = asking(asks=AskPlan((Asked(owner, HOUR_US),)))
    if owner:
        assert refused(story.resolve_as("key:eve", "approve", "intern"))[0] == "forbidden"

    assert story.resolve_as("key:eve", "approve", "chief") is run


def test_an_admin_answers_for_anyone():
    """The door says who is one."""
    story, run = asking()

    assert story.resolve("approve") is run and run.status == "succeeded"


# --- four eyes -------------------------------------------------------------------------------------

FOUR = AskPlan((Asked("", HOUR_US),), four_eyes=True)


def test_four_eyes_need_somebody_else_than_the_submitter():
    """Of a child run the submitter is its root's; to reject one pair of eyes is enough."""
    body = chain(human("h", "approved", asks=FOUR), id="body")
    story = Story(chain(nested("s", body), id="outer", subgraphs=(body,)))
    story.engine.command(RaiseLevel(2), story.now)
    story.submit(principal=ANN)
    child = story.engine.live_children("r")[0]
    approval = story.wait(child)[1].approval
    problem, message = refused(story.resolve_as(ANN, "approve", run=child, approval=approval))

    assert problem == "forbidden" and f"{ANN} submitted the run: somebody else must approve" in message
    assert isinstance(story.resolve_as(ANN, "reject", run=child, approval=approval), Run)


def test_an_edit_under_four_eyes_waits_for_somebody_else():
    """Who edited cannot approve it, and who approves must have seen the edit."""
    story, run = asking("approved", "amount", asks=FOUR)
    story.resolve_as(ANN, "edit", answer={"amount": 7}, digest="1")
    assert story.resolve_as(ANN, "edit", answer={"amount": 7}, digest="1") is run, "once is enough"
    stale = refused(story.resolve_as(BOB, "approve"))
    own = refused(story.resolve_as(ANN, "approve", edition=1))
    story.resolve_as(BOB, "edit", answer={"amount": 8}, digest="2")
    early = refused(story.resolve_as("key:eve", "approve", edition=1))
    story.resolve_as(ANN, "approve", edition=2)

    assert (stale[0], early[0]) == ("stale", "stale") and "with edition 1" in stale[1]
    assert own[0] == "forbidden" and f"{ANN} edited the answer" in own[1]
    assert (run.status, story.memory()["amount"], story.memory()["approved"]) == ("succeeded", 8, True)
    assert [e.edition for e in told(story, ev.ApprovalEdited)] == [1, 2]


def test_an_edit_that_nobody_approved_does_not_hold():
    """The deadline gives the plan's answer, not the edited one."""
    asks = AskPlan((Asked("", HOUR_US),), Final.ANSWER, True)
    story, _ = asking("approved", "amount", asks=asks, default=b'{"amount": 1}')
    story.resolve_as(ANN, "edit", answer={"amount": 7})
    story.pass_time(HOUR_US)

    assert story.memory()["amount"] == 1


def test_without_keys_four_eyes_are_refused_unless_there_is_one_user():
    """The refusal says what to do; with ``single_user`` an edit approves as ever."""
    story, run = asking("approved", "amount", asks=FOUR, principal="operator")
    problem, message = refused(story.resolve("approve"))
    story.plan(approvals=ApprovalsPlan(single_user=True))
    story.resolve("edit", amount=3)

    assert problem == "forbidden" and "approvals.single_user" in message
    assert (run.status, story.memory()["amount"]) == ("succeeded", 3)


# --- races -----------------------------------------------------------------------------------------

MOVES: dict[str, Any] = {
    "ann": lambda story: story.resolve_as(ANN, "approve", digest="1", approval="r.1"),
    "bob": lambda story: story.resolve_as(BOB, "reject", digest="2", approval="r.1"),
    "time": lambda story: story.pass_time(HOUR_US),
    "cancel": lambda story: story.tell_cancel(),
}


@pytest.mark.parametrize("order", [*permutations(MOVES, 3), *permutations(MOVES, 4)], ids="-".join)
def test_in_every_order_a_question_is_resolved_once_and_all_is_told(order: tuple[str, ...]):
    """Two people, two owners' deadlines and a cancel: one answer counts, each other one is in the journal."""
    asks = AskPlan((Asked(ANN, HOUR_US), Asked("", HOUR_US)), Final.APPROVE)
    story, run = asking(asks=asks)
    answers = {name: MOVES[name](story) for name in order}
    story.pass_time(HOUR_US)
    story.pass_time(HOUR_US)
    resolved = told(story, ev.ApprovalResolved)
    counted = [name for name in ("ann", "bob") if isinstance(answers.get(name), Run)]

    assert run.status in ("succeeded", "cancelled")
    assert len(resolved) == (run.status == "succeeded")
    assert len(counted) <= 1
    if counted:
        assert resolved[0].principal == {"ann": ANN, "bob": BOB}[counted[0]]
    lost = [a for a in answers.values() if isinstance(a, Refused) and a.problem != "not_found"]
    assert [e.reason for e in told(story, ev.AnswerRefused)] == [
        a.problem for a in lost if "has ended already" not in a.message
    ]
    assert msgspec.msgpack.encode(story.replayed().runs["r"]) == msgspec.msgpack.encode(run)


def test_an_answer_at_the_moment_of_escalation_counts_once():
    """Before it, the first owner decides; after it, both may and the first of them does."""
    story, run = asking(asks=THREE)
    story.pass_time(HOUR_US)
    first, second = story.resolve_as(BOB, "reject"), story.resolve_as(ANN, "approve", approval="r.1")

    assert first is run and refused(second)[0] == "conflict"
    assert story.memory()["approved"] is False
