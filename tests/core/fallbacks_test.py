"""Fallbacks: what takes the place of a step that failed for good because something is away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hive_ray.core.breakers import BreakerPlan
from hive_ray.core.commands import ForceBreaker, Refused, Submit
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepKind
from hive_ray.core.run import status_of
from hive_ray.core.values import decode
from hive_ray.graph.asking import Asked, AskPlan, Final
from hive_ray.graph.compiled import (
    FallbackKind,
    FallbackPlan,
    HumanPlan,
    ModelPlan,
    NodeKind,
    NodePlan,
    RetryPlan,
    ToolPlan,
)
from hive_ray.graph.fallback_plans import AWAY
from hive_ray.graph.policies import Effect, RulePlan
from tests.core.graphs import HOUR_US, agent, chain, edge, graph, llm, mail, node, tool
from tests.core.story import Story, content

ONCE = RetryPlan(max_retries=0)
OTHER = ModelPlan("other", max_tokens=20, prompt_bytes=100, output_nanousd_per_mtok=1_000_000)
ASKS = AskPlan((Asked("boss", HOUR_US),))


def to(on: tuple[str, ...] = AWAY, **part: Any) -> FallbackPlan:
    """A fallback of the kind that its part names."""
    ((kind, given),) = part.items()
    return FallbackPlan(FallbackKind(kind), on, **{kind: given})


TO_MODEL = to(model=OTHER)
TO_TOOL = to(tool=ToolPlan("backup", "function", True, 5_000_000, 7))
TO_VALUE = to(value=b'{"a": "none"}')
TO_HUMAN = to(human=HumanPlan("the CRM is away", b"{}", HOUR_US, asks=ASKS))


def crm(*fallbacks: FallbackPlan, **fields: Any) -> NodePlan:
    given = {"function": "crm", "retry": ONCE, **fields}
    return node("a", NodeKind.TOOL, fallbacks=fallbacks, **given)


def story_of(*nodes: NodePlan, **fields: Any) -> Story:
    story = Story(chain(*nodes, **fields))
    story.plan()
    return story


def away(*fallbacks: FallbackPlan, kind: FailureKind = FailureKind.TOOL_UNAVAILABLE, **fields: Any) -> Story:
    """A run whose tool node has failed for good."""
    story = story_of(crm(*fallbacks, **fields), node("b"))
    story.submit()
    story.fail(story.lease("a"), kind, **({} if fields.get("idempotent", True) else {"started": False}))
    return story


def routed(fallback: FallbackPlan) -> Story:
    """A run at a router whose model is away."""
    routes = ("left", "right")
    router = llm("a", NodeKind.ROUTER, output_keys=(), routes=routes, retry=ONCE, fallbacks=(fallback,))
    edges = [edge("a", "b", "route", route="left"), edge("a", "c", "route", route="right")]
    story = Story(graph([router, node("b"), node("c")], edges))
    story.plan()
    story.submit()
    return story


# --- what takes the place ---------------------------------------------------------------------------


def test_another_tool_is_a_call_of_its_own_on_its_own_terms():
    """Its pool, time and cost; another call, so another idempotency key; its outputs are the node's."""
    story = away(TO_TOOL)

    lease = story.lease("a")
    assert (lease.name, lease.call, lease.attempt, lease.timeout_us) == ("backup", 1, 1, 5_000_000)
    assert story.engine.runs["r"].reserved_nanousd == 7
    story.succeed(lease, a="found")
    story.run_to_end("b")
    assert story.memory()["a"] == "found"


def test_the_event_says_what_failed_and_what_took_its_place():
    event = next(e for _, _, e, _ in away(TO_TOOL).events() if type(e).__name__ == "FallbackTaken")

    assert (event.fallback, event.kind, event.node_id) == ("tool", "TOOL_UNAVAILABLE", "a")
    assert (event.instead_of, event.name) == ("crm", "backup")


def test_another_tool_has_retries_of_its_own():
    story = away(TO_TOOL, retry=RetryPlan(max_retries=1, base_us=1, cap_us=1))
    story.pass_time(10)
    story.fail(story.lease("a"), FailureKind.TOOL_UNAVAILABLE)
    story.fail(story.lease("a"), FailureKind.TOOL_UNAVAILABLE)
    story.pass_time(10)

    assert (story.lease("a").name, story.engine.runs["r"].attempts) == ("backup", 4)


def test_a_default_value_ends_the_node_well():
    """With the facts that edges read."""
    story = Story(graph([crm(TO_VALUE), node("b")], [edge("a", "b", when="a")]))
    story.plan()
    run = story.submit()
    story.fail(story.lease("a"), FailureKind.TIMEOUT)
    story.run_to_end("b")

    assert (story.memory()["a"], run.status) == ("none", "succeeded")


def test_a_routers_default_value_names_the_route():
    value = to(value=b'{"route": "left"}')
    story = routed(value)
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)

    assert list(story.leases()) == ["b"]


def test_another_model_is_asked_and_its_worst_case_is_held():
    story = story_of(llm("a", retry=ONCE, fallbacks=(TO_MODEL,)))
    story.submit()
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)

    lease = story.lease("a")
    assert (lease.kind, lease.name, lease.max_tokens) == (StepKind.LLM, "other", 20)
    assert story.engine.runs["r"].reserved_nanousd == 20


def test_an_agent_stays_with_the_model_that_took_the_place():
    """For the rest of its visit; what the first one was measured to use bounds nothing of the second."""
    dear = msgspec.structs.replace(OTHER, input_nanousd_per_mtok=1_000_000, output_nanousd_per_mtok=0)
    talk = agent("a", tool("crm"), retry=ONCE, fallbacks=(to(model=dear),))
    story = story_of(talk)
    story.submit()
    story.turn(story.lease("a"), "crm", tokens=1)
    story.succeed(story.lease("a/crm"), result=1)
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)

    lease = story.lease("a")
    assert lease.name == "other"
    assert story.engine.runs["r"].reserved_nanousd > 100, "bytes of the whole prompt, not one token"
    story.turn(lease, "crm", tokens=300)
    story.succeed(story.lease("a/crm"), result=1)
    assert story.lease("a").name == "other"


def test_what_fails_in_an_agents_loop_is_told_to_its_model():
    """A fallback of the node is one of its LLM's steps; a tool call that fails is the LLM's matter."""
    story = story_of(agent("a", tool("crm"), retry=ONCE, fallbacks=(TO_VALUE,)))
    story.submit()
    story.turn(story.lease("a"), "crm")
    story.fail(story.lease("a/crm"), FailureKind.TOOL_UNAVAILABLE)

    assert story.lease("a").conversation[-1].failed


# --- in the loop of an agent ------------------------------------------------------------------------


def in_loop(*fallbacks: FallbackPlan, **fields: Any) -> Story:
    """An agent whose model has just called ``crm`` and ``wiki``."""
    tools = (tool("crm", **fields), tool("wiki"))
    story = story_of(agent("a", *tools, retry=ONCE, fallbacks=fallbacks))
    story.submit()
    story.turn(story.lease("a"), "crm", "wiki")
    return story


CALL_TOOL = FallbackPlan(
    FallbackKind.TOOL, AWAY, tool=ToolPlan("backup", "function", True, 5_000_000, 7), instead_of="crm"
)
CALL_THIRD = FallbackPlan(FallbackKind.TOOL, AWAY, tool=ToolPlan("third", "function", True), instead_of="crm")
CALL_VALUE = FallbackPlan(FallbackKind.VALUE, AWAY, value=b'{"note": "not known"}', instead_of="crm")


def told(story: Story) -> dict[str, tuple[bool, Any]]:
    """What an agent's model is told of its calls: whether each failed, and its result."""
    said = story.lease("a").conversation
    return {turn.name: (turn.failed, decode(turn.value)) for turn in said if turn.role == "tool"}


def test_another_tool_is_called_for_a_call_of_an_agent():
    """With the call's arguments, on terms of its own; its result is the call's."""
    story = in_loop(CALL_TOOL)
    leases = story.leases()
    story.succeed(leases["a/wiki"], result="text")
    story.fail(leases["a/crm"], FailureKind.TOOL_UNAVAILABLE)

    lease = story.lease("a/backup")
    assert (lease.inputs, lease.timeout_us) == (leases["a/crm"].inputs, 5_000_000)
    assert lease.call not in (leases["a/crm"].call, leases["a/wiki"].call), "an idempotency key of its own"
    assert story.engine.runs["r"].reserved_nanousd == 7
    story.succeed(lease, result="found")
    assert told(story) == {"crm": (False, "found"), "wiki": (False, "text")}


def test_an_agents_call_may_have_a_default_result():
    story = in_loop(CALL_VALUE)
    leases = story.leases()
    story.fail(leases["a/crm"], FailureKind.TIMEOUT)
    story.succeed(leases["a/wiki"], result="text")

    assert told(story) == {"crm": (False, {"note": "not known"}), "wiki": (False, "text")}


def test_the_fallbacks_of_a_call_are_taken_in_order_and_each_once():
    """Each call begins with the first; those of the node's own steps and of other tools are passed over."""
    story = in_loop(TO_VALUE, CALL_TOOL, CALL_THIRD)
    leases = story.leases()
    story.succeed(leases["a/wiki"], result="text")
    story.fail(leases["a/crm"], FailureKind.TIMEOUT)
    story.fail(story.lease("a/backup"), FailureKind.TIMEOUT)
    story.fail(story.lease("a/third"), FailureKind.TIMEOUT)
    lease = story.lease("a")
    assert [turn.failed for turn in lease.conversation if turn.role == "tool"] == [True, False]

    story.turn(lease, "wiki", "crm")
    leases = story.leases()
    story.fail(leases["a/crm"], FailureKind.TIMEOUT)
    story.fail(leases["a/wiki"], FailureKind.TIMEOUT)
    assert list(story.leases()) == ["a/backup"]


def test_an_open_breaker_leads_an_agents_call_to_its_fallback():
    """Without one its model is told that the tool is away, and goes on."""
    for fallbacks, expected in (
        ((CALL_VALUE,), (False, {"note": "not known"})),
        (
            (),
            (
                True,
                "TOOL_UNAVAILABLE: the breaker of tool/crm is held open by operator: an operator decided so",
            ),
        ),
    ):
        story = in_loop(*fallbacks)
        story.plan(breakers={"tool/*": BreakerPlan()})
        story.steer(ForceBreaker("tool/crm", "open", content()))
        story.succeed(story.lease("a/wiki"), result="text")

        assert told(story)["crm"] == expected
        assert story.engine.runs["r"].attempts == 3


def test_what_may_have_happened_in_an_agents_loop_has_no_fallback():
    story = in_loop(CALL_TOOL, idempotent=False)
    story.fail(story.lease("a/crm"), FailureKind.TOOL_UNAVAILABLE)
    story.succeed(story.lease("a/wiki"), result="text")

    assert told(story)["crm"] == (True, "TOOL_UNAVAILABLE: it broke")


def test_what_a_person_changed_is_not_handed_to_another_tool():
    """It would be called with the arguments as they were before."""
    story = in_loop(CALL_TOOL, CALL_VALUE)
    story.plan(policies=(RulePlan("ask", Effect.REQUIRE_APPROVAL, tools=("crm",)),))
    story.succeed(story.lease("a/wiki"), result="text")
    story.resolve("edit", x=1)
    story.fail(story.lease("a/crm"), FailureKind.TIMEOUT)

    assert told(story)["crm"] == (False, {"note": "not known"})


def test_an_agents_default_value_leaves_what_it_has_set():
    value = to(value=b'{"a": "none", "b": "none"}')
    story = story_of(agent("a", tool("crm"), output_keys=("a", "b"), retry=ONCE, fallbacks=(value,)))
    story.submit()
    story.turn(story.lease("a"), a="set")
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)

    assert (story.memory()["a"], story.memory()["b"]) == ("set", "none")


def test_fallbacks_are_taken_in_order_and_each_once():
    story = away(TO_TOOL, TO_HUMAN)
    story.fail(story.lease("a"), FailureKind.TIMEOUT)

    assert story.wait()[1].reason == "fallback"
    taken = [e.fallback for _, _, e, _ in story.events() if type(e).__name__ == "FallbackTaken"]
    assert taken == ["tool", "human"]


def test_without_a_further_fallback_the_node_fails():
    story = away(TO_TOOL)
    story.fail(story.lease("a"), FailureKind.TIMEOUT)

    assert story.engine.runs["r"].failure == "TIMEOUT"


def test_the_edges_of_a_node_are_chosen_by_the_other_model():
    """A value or a person has nothing to say about edges: such fallbacks are passed over."""
    chooser = llm("a", retry=ONCE, fallbacks=(TO_VALUE, TO_MODEL))
    story = Story(graph([chooser, node("b")], [edge("a", "b", "llm_decide")]))
    story.plan()
    story.submit()
    story.run_to_end("a")
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)

    lease = story.lease("a")
    assert (lease.kind, lease.name) == (StepKind.DECIDE, "other")


# --- when -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_is_away_has_a_fallback(kind: FailureKind):
    story = story_of(crm(TO_VALUE))
    run = story.submit()
    story.fail(story.lease("a"), kind)

    assert (run.status == "succeeded") is (kind in AWAY)


def test_a_fallback_may_be_for_some_kinds_only():
    story = away(to(on=("TIMEOUT",), value=b'{"a": 1}'), TO_HUMAN)

    assert story.wait()[1].reason == "fallback"


def test_what_may_have_happened_has_no_fallback():
    """The mail may have gone out: another tool could send it again."""
    story = story_of(mail("a", kind=NodeKind.TOOL, function="mail", retry=ONCE, fallbacks=(TO_TOOL,)))
    run = story.submit()
    story.fail(story.lease("a"), FailureKind.TOOL_UNAVAILABLE)

    assert run.failure == "TOOL_UNAVAILABLE"


def test_an_unknown_outcome_is_asked_about_before_anything_takes_its_place():
    story = story_of(mail("a", kind=NodeKind.TOOL, function="mail", retry=ONCE, fallbacks=(TO_TOOL,)))
    story.submit()
    story.fail(story.lease("a"), FailureKind.TIMEOUT)

    assert story.wait()[1].reason == "outcome_unknown"


def test_what_certainly_did_not_begin_has_one():
    assert away(TO_TOOL, idempotent=False).lease("a").name == "backup"


def test_an_open_breaker_leads_to_the_fallback_without_an_attempt():
    story = story_of(crm(TO_HUMAN))
    story.plan(breakers={"tool/*": BreakerPlan()})
    story.steer(ForceBreaker("tool/crm", "open", content()))
    run = story.submit()
    assert story.leases() == {}

    name, wait = story.wait()
    assert (name, wait.owner, run.attempts) == ("a", "boss", 0)
    assert "the breaker of tool/crm is held open" in wait.message


def test_where_the_other_one_has_an_open_breaker_too_the_next_is_taken():
    story = story_of(crm(TO_TOOL, TO_VALUE))
    story.plan(breakers={"tool/*": BreakerPlan()})
    for name in ("tool/crm", "tool/backup"):
        story.steer(ForceBreaker(name, "open", content()))
    run = story.submit()
    assert story.leases() == {}

    assert (run.status, run.attempts, story.memory()["a"]) == ("succeeded", 0, "none")


def test_policies_look_at_the_tool_that_took_the_place():
    """One that is destructive is asked about, though the node's own is not."""
    destructive = ToolPlan("backup", "function", True, tags=("destructive",))
    story = away(to(tool=destructive))
    assert story.leases() == {}

    assert story.wait()[1].reason == "policy"


# --- a person ---------------------------------------------------------------------------------------


def test_a_person_gives_the_outputs():
    """The question shows what failed, and what the node was given."""
    story = away(TO_HUMAN)
    run = story.engine.runs["r"]
    _, wait = story.wait()
    assert wait.message.startswith("the CRM is away: it broke.")
    assert status_of(run) == "waiting"

    story.resolve("approve", a="by hand")
    story.run_to_end("b")

    assert story.memory()["a"] == "by hand"


def test_a_person_lets_it_try_again_from_the_beginning():
    """The node's own tool, with all its retries and fallbacks."""
    story = away(TO_TOOL, TO_HUMAN)
    story.fail(story.lease("a"), FailureKind.TIMEOUT)

    story.resolve("retry")

    lease = story.lease("a")
    assert (lease.name, lease.call, lease.attempt) == ("crm", 2, 1)
    story.fail(lease, FailureKind.TOOL_UNAVAILABLE)
    assert story.lease("a").name == "backup"


def test_a_person_rejects():
    story = away(TO_HUMAN)
    story.resolve("reject", message="not worth it")

    run = story.engine.runs["r"]
    assert (run.failure, run.message) == ("REJECTED", "not worth it")


def test_nobody_answers():
    story = away(TO_HUMAN)
    story.pass_time(HOUR_US)

    assert story.engine.runs["r"].failure == "EXPIRED"


def test_nobody_answers_and_there_is_an_answer_for_that():
    asks = AskPlan((Asked("", HOUR_US),), Final.ANSWER)
    plan = HumanPlan("away", b"{}", HOUR_US, asks=asks, default=b'{"a": 3}')
    story = away(to(human=plan))
    story.pass_time(HOUR_US)

    assert story.memory()["a"] == 3


def test_a_person_in_the_place_of_a_router_gives_the_route():
    story = routed(TO_HUMAN)
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)
    story.resolve("approve", route="right")

    assert list(story.leases()) == ["c"]


def test_a_person_ends_an_agents_conversation_with_what_is_missing():
    story = story_of(agent("a", output_keys=("a", "b"), retry=ONCE, fallbacks=(TO_HUMAN,)), node("c"))
    story.submit()
    story.turn(story.lease("a"), a="set")
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)
    story.resolve("approve", b="by hand")

    assert {key: story.memory()[key] for key in "ab"} == {"a": "set", "b": "by hand"}


def test_an_agent_goes_on_where_it_was_when_a_person_lets_it():
    story = story_of(agent("a", tool("crm"), retry=ONCE, fallbacks=(TO_HUMAN,)))
    story.submit()
    story.turn(story.lease("a"), "crm")
    story.succeed(story.lease("a/crm"), result=1)
    story.fail(story.lease("a"), FailureKind.LLM_UNAVAILABLE)
    story.resolve("retry")

    assert [turn.role for turn in story.lease("a").conversation] == ["assistant", "tool"]


# --- elsewhere --------------------------------------------------------------------------------------


def test_a_state_of_an_older_level_takes_no_graph_with_fallbacks():
    story = Story(chain(crm(TO_VALUE)))
    answer = story.engine.submit(Submit("r", "q", "team", "agent", "g", content()), story.now)

    assert isinstance(answer, Refused)
    assert answer.message.startswith("a fallback needs state feature level 2")


def test_a_fallback_survives_a_crash():
    """Replayed from the journal, the run is where it was."""
    story = away(TO_TOOL)
    story.engine = story.replayed()

    assert story.lease("a").name == "backup"
