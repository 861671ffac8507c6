"""Policies about steps that are about to start: what follows in the run."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.core.commands import Refused, Resolve, Submit
from hive_ray.core.failures import FailureKind
from hive_ray.core.ladder import LadderPlan, Rung
from hive_ray.core.messages import Lease, StepContent
from hive_ray.core.run import RunStatus
from hive_ray.core.values import Value, decode, inline
from hive_ray.graph.asking import Asked, AskPlan
from hive_ray.graph.compiled import FallbackKind, FallbackPlan, ModelPlan, NodeKind, ToolPlan
from hive_ray.graph.expressions import Evaluator
from hive_ray.graph.policies import Effect, RulePlan
from hive_ray.graph.rule_conditions import compile_condition
from tests.core.graphs import agent, chain, llm, mapping, node
from tests.core.story import Story

PAY = ToolPlan("pay", "function", False, tags=("moves_money",), schema=b'{"type":"object"}')
WIPE = ToolPlan("wipe", "function", False, tags=("destructive",))
LOOK = ToolPlan("look", "function", True)
CALLING = chain(node("pay", NodeKind.TOOL, input_keys=("amount",), idempotent=False, tools=(PAY,)))
TALKING = chain(agent("talk", PAY, WIPE, LOOK))


def rule(id: str, effect: str, when: str = "", **fields: Any) -> RulePlan:
    condition = compile_condition(when) if when else None
    cel, reads = condition if condition is not None else ("", ())
    return RulePlan(id, Effect(effect), when, cel, reads, **fields)


def ruled(graph: Any, *rules: RulePlan, **given: Any) -> Story:
    story = Story(graph)
    story.engine.evaluator = Evaluator()
    story.plan(policies=rules)
    story.submit(input=given)
    return story


def decisions(story: Story) -> list[tuple[str, str]]:
    found = [event for _, _, event, _ in story.events() if type(event).__name__ == "PolicyDecided"]
    return [(event.effect, event.rule) for event in found]


def arguments(lease: Lease) -> dict[str, Any]:
    return {key: decode(value) for key, value in lease.inputs.items()}


# --- deny, allow ---------------------------------------------------------------------------------


def test_a_denied_step_fails_its_node():
    story = ruled(CALLING, rule("no-money", "deny", "args.amount > 100", reason="too much"), amount=101)
    assert story.leases() == {}

    run = story.engine.runs["r"]
    assert (run.status, run.failure) == (RunStatus.FAILED, FailureKind.POLICY_DENIED)
    told = "the call of the tool pay at node pay is denied by the policy no-money: too much"
    assert run.message == told
    assert decisions(story) == [("deny", "no-money")]


def test_a_rule_that_does_not_hold_changes_and_says_nothing():
    story = ruled(CALLING, rule("no-money", "deny", "args.amount > 100"), amount=100)
    story.succeed(story.lease("pay"))
    assert story.engine.runs["r"].status is RunStatus.SUCCEEDED
    assert decisions(story) == []


def test_the_model_of_a_loop_is_told_that_its_call_was_denied():
    """And goes on with it; nobody else's call of the turn is touched."""
    story = ruled(TALKING, rule("no-money", "deny", tags=("moves_money",)))
    story.turn(story.lease("talk"), "pay", "look")
    story.succeed(story.lease("talk/look"), result="fine")

    said = [turn for turn in story.lease("talk").conversation if turn.role == "tool"]
    assert [(turn.name, turn.failed) for turn in said] == [("pay", True), ("look", False)]
    assert decode(said[0].value).startswith("POLICY_DENIED: the call of the tool pay")


def test_an_allow_is_told_when_the_step_starts():
    story = ruled(CALLING, rule("ok", "allow", tools=("p*",)), amount=1)
    story.succeed(story.lease("pay"))
    assert decisions(story) == [("allow", "ok")]
    kinds = story.kinds()
    assert kinds.index("PolicyDecided") + 1 == kinds.index("StepStarted")


def test_a_condition_without_an_answer_denies_and_the_event_names_it():
    """The amount is absent; why it failed is content."""
    story = ruled(CALLING, rule("no-money", "deny", "args.amount > 100"))
    assert story.leases() == {}
    assert story.engine.runs["r"].failure == FailureKind.POLICY_DENIED
    ((event, said),) = [(e, c) for _, _, e, c in story.events() if type(e).__name__ == "PolicyDecided"]
    assert (event.rules, event.errors) == (("no-money",), ("no-money",))
    assert said.message == "no-money: `args.amount > 100`: > does not apply to (null_type, int64)"


def test_a_value_in_a_blob_is_too_large_for_a_rule_that_reads_it():
    story = Story(CALLING)
    story.engine.evaluator = Evaluator()
    rules = (rule("short", "deny", "args.other == 1"), rule("long", "allow", "args.amount == 1"))
    story.plan(policies=rules)
    large = StepContent(outputs={"amount": Value(b"", "blobs/x", 100_000)})
    story.engine.command(Submit("r", "q", "team", "agent", CALLING.version, large), story.now)
    story.lease("pay")
    ((event, said),) = [(e, c) for _, _, e, c in story.events() if type(e).__name__ == "PolicyDecided"]
    assert (event.effect, event.errors) == ("", ("long",))
    assert "the value of args.amount is too large for a condition (100000 bytes)" in said.message


# --- approval ------------------------------------------------------------------------------------

CFO = AskPlan((Asked("role:cfo", 1_000_000),))
BIG = rule("big", "require_approval", "args.amount > 100", asks=CFO, reason="it is much")


def test_a_step_waits_for_approval_and_then_runs_with_what_was_shown():
    story = ruled(CALLING, BIG, amount=200)
    assert story.leases() == {}
    place, wait = story.wait()
    assert (place, wait.reason, wait.owner) == ("pay", "policy", "role:cfo")
    assert wait.message == "the call of the tool pay at node pay needs approval by the policy big: it is much"
    assert {key: decode(value) for key, value in wait.shown.items()} == {"amount": 200}
    assert wait.form == b'{"type":"object"}'

    # Whatever becomes of memory meanwhile: what was shown is what runs.
    story.engine.runs["r"].memory["amount"] = inline(999)
    story.resolve("approve")
    lease = story.lease("pay")
    assert arguments(lease) == {"amount": 200}
    story.succeed(lease)
    assert story.engine.runs["r"].status is RunStatus.SUCCEEDED
    assert decisions(story) == [("require_approval", "big"), ("allow", "big")]


def test_a_rejected_step_fails_with_what_was_said():
    story = ruled(CALLING, BIG, amount=200)
    story.leases()
    story.resolve("reject", message="not now")
    run = story.engine.runs["r"]
    assert (run.status, run.failure, run.message) == (RunStatus.FAILED, FailureKind.REJECTED, "not now")
    assert story.leases() == {}


def test_the_model_of_a_loop_is_told_of_a_rejection():
    story = ruled(TALKING)
    story.turn(story.lease("talk"), "wipe")
    assert story.leases() == {}
    story.resolve("reject", message="keep it")
    said = [turn for turn in story.lease("talk").conversation if turn.role == "tool"]
    assert [decode(turn.value) for turn in said] == ["REJECTED: keep it"]


def test_the_model_of_a_loop_is_told_of_other_arguments_and_of_no_others():
    """Whatever comes of the call; what was approved as it stood is the model's own."""
    story = ruled(TALKING, rule("money", "require_approval", tags=("moves_money",)))
    story.turn(story.lease("talk"), "pay", "pay", "pay")
    answers: list[dict[str, Any]] = [{"n": 7}, {"n": 8}, {}]
    for answer in answers:
        assert "talk" not in story.leases()
        story.resolve("edit" if answer else "approve", **answer)
        lease = story.lease("talk/pay")
        if answer == {"n": 8}:
            story.fail(lease, FailureKind.BAD_INPUT)
        else:
            story.succeed(lease, result="done")

    said = [turn for turn in story.lease("talk").conversation if turn.role == "tool"]
    assert [(turn.edited, turn.failed) for turn in said] == [
        ({"n": inline(7)}, False),
        ({"n": inline(8)}, True),
        (None, False),
    ]
    assert story.replayed().runs["r"].visits == story.engine.runs["r"].visits


def test_an_edit_gives_other_arguments_and_the_same_rule_does_not_ask_again():
    story = ruled(CALLING, BIG, amount=200)
    story.leases()
    story.resolve("edit", amount=150)
    lease = story.lease("pay")
    assert arguments(lease) == {"amount": 150}
    assert decisions(story) == [("require_approval", "big"), ("allow", "big")]


def test_an_edit_passes_the_other_rules_again():
    """A deny denies; another question is asked about the new arguments, and the first is not repeated."""
    rules = (
        rule("never", "deny", "args.amount > 1000"),
        rule("huge", "require_approval", "args.amount > 500"),
        BIG,
    )
    story = ruled(CALLING, *rules, amount=200)
    story.leases()
    first = story.wait()[1].approval
    story.resolve("edit", amount=600)
    assert story.leases() == {}
    _, wait = story.wait()
    assert wait.approval != first
    assert {key: decode(value) for key, value in wait.shown.items()} == {"amount": 600}
    story.resolve("edit", amount=2000)
    assert story.leases() == {}
    assert story.engine.runs["r"].failure == FailureKind.POLICY_DENIED
    asked = [("require_approval", "big"), ("require_approval", "huge"), ("deny", "never")]
    assert decisions(story) == asked


def test_two_questions_in_a_row_and_then_it_runs():
    rules = (rule("huge", "require_approval", "args.amount > 500"), BIG)
    story = ruled(CALLING, *rules, amount=200)
    story.leases()
    story.resolve("edit", amount=600)
    story.leases()
    story.resolve("approve")
    assert arguments(story.lease("pay")) == {"amount": 600}


def test_with_four_eyes_an_edit_runs_when_somebody_else_approves_it():
    """And nobody else's arguments do."""
    two = rule("two", "require_approval", asks=AskPlan(four_eyes=True))
    story = ruled(CALLING, two, amount=200)
    story.leases()
    approval = story.wait()[1].approval
    edited = StepContent(outputs={"amount": inline(150)})
    story.tell(Resolve("r", approval, "edit", edited, "key:ann", digest="1"))
    assert story.leases() == {}
    refused = story.tell(Resolve("r", approval, "approve", StepContent(), "key:ann", edition=1))
    assert isinstance(refused, Refused)
    story.tell(Resolve("r", approval, "approve", StepContent(), "key:bob", edition=1))
    assert arguments(story.lease("pay")) == {"amount": 150}


def test_what_a_model_is_given_cannot_be_edited():
    story = ruled(chain(llm("write")), rule("costly", "require_approval", kinds=("llm",)))
    story.leases()
    answer = story.resolve("edit", text="x")
    assert isinstance(answer, Refused)
    assert answer.problem == "invalid"
    assert "approve | reject" in answer.message
    story.resolve("approve")
    story.lease("write")


def test_calls_of_a_turn_ask_one_after_the_other():
    """One question of a visit at a time; the rest of the turn waits for its own."""
    side = ToolPlan("wipe", "function", True, tags=("destructive",))
    story = ruled(chain(agent("talk", side)))
    story.turn(story.lease("talk"), "wipe", "wipe")
    assert story.leases() == {}
    first = story.wait()[1]
    story.resolve("approve")
    leases = story.leases()
    assert [arguments(lease) for lease in leases.values()] == [arguments(next(iter(leases.values())))]
    second = story.wait()[1]
    assert decode(first.shown["n"]) != decode(second.shown["n"])
    story.resolve("approve")
    assert arguments(story.lease("talk/wipe")) == {"n": decode(second.shown["n"])}


def test_a_retry_of_an_approved_step_is_not_asked_again():
    sure = ToolPlan("pay", "function", True, tags=("moves_money",))
    graph = chain(node("pay", NodeKind.TOOL, input_keys=("amount",), tools=(sure,)))
    story = ruled(graph, BIG, amount=200)
    story.leases()
    story.resolve("edit", amount=150)
    story.fail(story.lease("pay"), FailureKind.TOOL_UNAVAILABLE)
    story.pass_time(60_000_000)
    assert arguments(story.lease("pay")) == {"amount": 150}


def test_a_retry_is_decided_anew():
    """What the first attempt cost makes a rule hold that did not."""
    sure = ToolPlan("pay", "function", True, cost_nanousd=9)
    graph = chain(node("pay", NodeKind.TOOL, input_keys=("amount",), tools=(sure,), cost_nanousd=9))
    story = ruled(graph, rule("dear", "require_approval", "cost_usd > 0.0"), amount=200)
    story.fail(story.lease("pay"), FailureKind.TOOL_UNAVAILABLE, cost_nanousd=5)
    story.pass_time(60_000_000)
    assert story.leases() == {}
    story.resolve("approve")
    assert story.lease("pay").attempt == 2


def test_what_people_said_survives_a_restart():
    story = ruled(CALLING, BIG, amount=200)
    story.leases()
    story.resolve("edit", amount=150)
    before = story.engine.runs["r"].visits
    after = story.replayed()
    assert after.runs["r"].visits == before
    assert after.fleet.plan.policies == (BIG,)


def test_a_tool_that_takes_the_place_of_another_is_asked_about_too():
    """Its tags count, and what was allowed of the first says nothing about it."""
    away = FallbackPlan(FallbackKind.TOOL, (FailureKind.TOOL_UNAVAILABLE,), tool=WIPE)
    graph = chain(node("pay", NodeKind.TOOL, input_keys=("amount",), tools=(PAY,), fallbacks=(away,)))
    story = ruled(graph, BIG, amount=200)
    story.leases()
    story.resolve("approve")
    story.fail(story.lease("pay"), FailureKind.TOOL_UNAVAILABLE, started=False)
    story.pass_time(60_000_000)
    while leases := story.leases():
        story.fail(leases["pay"], FailureKind.TOOL_UNAVAILABLE, started=False)
        story.pass_time(60_000_000)
    assert "the tool wipe" in story.wait()[1].message
    story.resolve("approve")
    assert story.lease("pay").name == "wipe"


# --- route, degrade ------------------------------------------------------------------------------


def test_a_routed_step_runs_in_the_other_pool_once_and_for_all():
    """The second rule would send it back; a step is routed once."""
    story = Story(CALLING)
    story.engine.evaluator = Evaluator()
    story.attach("slow-1", "slow")
    there, back = (
        rule("there", "route", 'pool == "function"', pool="slow"),
        rule("back", "route", 'pool == "slow"', pool="function"),
    )
    story.plan(policies=(there, back))
    story.submit(input={"amount": 1})
    assert story.leases("function-1") == {}
    assert list(story.leases("slow-1")) == ["pay"]
    assert story.engine.runs["r"].visits[1].steps[0].pool == "slow"
    assert story.kinds().count("StepRouted") == 1
    assert story.replayed().runs["r"].visits == story.engine.runs["r"].visits


def test_a_degrade_puts_the_run_on_a_rung():
    story = ruled(CALLING, rule("late", "degrade", "cost_usd >= 0.0", level=2), amount=1)
    story.lease("pay")
    assert story.engine.runs["r"].degraded == 2
    assert decisions(story) == [("", "")]


LADDER = {"small": LadderPlan((Rung(model="cheap"),))}
CHEAP = {"cheap": ModelPlan("cheap", 10, 100)}
DOWN = rule("down", "degrade", level=1)


@pytest.mark.parametrize(
    ("rules", "model"),
    [
        ((DOWN,), "cheap"),
        ((DOWN, rule("no", "deny", models=("cheap",))), "small"),
        ((DOWN, rule("no", "require_approval", 'model == "cheap"')), "small"),
        ((DOWN, rule("other", "deny", models=("dear",))), "cheap"),
    ],
)
def test_a_ladder_leads_to_no_model_that_rules_forbid(rules: tuple[RulePlan, ...], model: str):
    """Neither at first, nor when the run stands on the rung already."""
    story = Story(chain(llm("write"), llm("again")))
    story.engine.evaluator = Evaluator()
    story.plan(policies=rules, ladders=LADDER, models=CHEAP)
    story.submit()
    for node_id in ("write", "again"):
        lease = story.lease(node_id)
        assert lease.name == model
        story.succeed(lease)


# --- facts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ('tool.name == "pay" && "moves_money" in tool.tags', True),
        ('node.id == "pay" && node.kind == "tool" && kind == "tool" && pool == "function"', True),
        ('team == "team" && agent == "agent" && model == "" && principal == ""', True),
        ("args.amount == 7 && input.amount == 7 && memory.amount == 7", True),
        ("args.absent == null && memory.deep.er == null && confidence == null", True),
        ('"amount" in args && size(memory) == 2 && memory.deep.key == 1', True),
        ("cost_usd == 0.0 && cost_usd < 1", True),
        ('graph == "somewhere else"', False),
    ],
)
def test_what_rules_may_speak_of(when: str, holds: bool):
    story = ruled(CALLING, rule("r", "allow", when), amount=7, deep={"key": 1})
    story.lease("pay")
    assert decisions(story) == [("allow", "r")] * holds


@pytest.mark.parametrize("said", [2, -0.1, True, "high"])
def test_a_confidence_outside_of_0_to_1_is_no_answer(said: Any):
    """A rule about low confidence then asks."""
    low = rule("low", "require_approval", "confidence < 0.7")
    story = ruled(CALLING, low, amount=1, confidence=said)
    assert story.leases() == {}
    assert story.wait()[1].reason == "policy"


def test_confidence_is_what_the_loop_set_last():
    low = rule("low", "require_approval", "confidence < 0.7", tools=("look",))
    story = ruled(TALKING, low, confidence=0.2)
    story.turn(story.lease("talk"), "look", confidence=0.9)
    assert list(story.leases()) == ["talk/look"]


def test_old_states_know_no_policies():
    """Their events could not be read by the release that wrote them."""
    story = Story(TALKING)
    story.submit(input={})
    story.turn(story.lease("talk"), "wipe")
    assert list(story.leases()) == ["talk/wipe"]


def test_rules_that_are_not_about_a_step_are_found_out_at_once():
    """Nothing of the step is looked at but the names by which rules are found."""
    story = ruled(CALLING, *(rule(f"r{n}", "deny", tools=("other",)) for n in range(3)), amount=1)
    story.lease("pay")
    policies = story.engine.force.policies
    assert policies.known(("g", 0, "pay", "tool", "team", "agent")) == ()


def test_the_results_of_a_map_are_put_together_without_asking_anybody():
    """It is no work that anybody could forbid."""
    body = chain(node("each", input_keys=("item",)), id="body")
    story = Story(chain(mapping("all", "list", body)), body)
    story.engine.evaluator = Evaluator()
    story.plan(policies=(rule("later", "deny", "memory.done == true"),))
    story.submit(input={"list": [1], "done": True})
    story.succeed(story.lease("0:each"))
    story.lease("all")
