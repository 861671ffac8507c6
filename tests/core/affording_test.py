"""Runs that could never begin are refused at the door, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from hive_ray.core import forking
from hive_ray.core.affording import refuse
from hive_ray.core.beginnings import beginnings
from hive_ray.core.commands import Fork, Submit
from hive_ray.core.messages import StepContent
from hive_ray.core.plan import AccountPlan, Action, Changes, ControlPlan, InForce
from hive_ray.core.run import Run, encode_run
from hive_ray.graph.compiled import CompiledGraph, FallbackKind, FallbackPlan
from hive_ray.graph.policies import Effect, RulePlan
from tests.core.graphs import MODEL, chain, edge, graph, human, llm, node
from tests.core.story import Story, content

COST = 1_000
PAID = node("paid", cost_nanousd=COST)
PRICED = msgspec.structs.replace(MODEL, input_nanousd_per_mtok=1_000_000, output_nanousd_per_mtok=1_000_000)
ASKING = llm("ask", model=PRICED, input_keys=("x",))


def told(
    plan: CompiledGraph,
    budget_nanousd: int = -1,
    limits: Mapping[str, AccountPlan] | None = None,
    rules: tuple[RulePlan, ...] = (),
) -> str:
    """The refusal's text; empty if it is let in."""
    force = InForce(ControlPlan(accounts=dict(limits or {}), policies=rules), Changes())
    given = content(x="y" * 50)
    command = Submit("r", "q", "acme", "bot", plan.version, given, budget_nanousd=budget_nanousd)
    refused = refuse(command, plan, force)
    assert refused is None or refused.problem == "budget_exceeded"
    return refused.message if refused is not None else ""


def limited(plan: CompiledGraph, name: str, **limits: Any) -> str:
    return told(plan, limits={name: AccountPlan(**limits)})


def test_a_first_step_beyond_the_runs_own_budget_is_refused():
    """By name, with what would be right; one that fits to the nano-dollar is let in."""
    assert "the run's budget is 0.000000999 USD" in told(chain(PAID), COST - 1)
    assert "raise budget_usd" in told(chain(PAID), COST - 1)
    assert told(chain(PAID), COST) == ""


ACCOUNTS = ("team/acme", "agent/acme/bot", "workflow/acme/g", "pool/function", "team/*")


@pytest.mark.parametrize("name", ACCOUNTS)
def test_a_first_step_beyond_an_account_that_stops_is_refused(name: str):
    """Whichever of those that pay for it."""
    assert f"the budget {name.replace('*', 'acme')} has" in limited(chain(PAID), name, nanousd=COST - 1)
    assert limited(chain(PAID), name, nanousd=COST) == ""


def test_a_first_llm_call_is_held_against_limits_of_money_and_of_tokens():
    """At its strict bound: the prompt's bytes and all its output."""
    assert "model/small has 0.0 USD" in limited(chain(ASKING), "model/small", nanousd=0)
    assert "team/acme has 50 tokens" in limited(chain(ASKING), "team/acme", tokens=50)
    assert limited(chain(ASKING), "team/acme", tokens=500) == ""


@pytest.mark.parametrize("action", [Action.PAUSE, Action.DEGRADE])
def test_an_account_that_does_not_stop_refuses_nothing(action: str):
    """A person may allow it, or it goes on otherwise."""
    assert limited(chain(PAID), "team/acme", nanousd=0, action=action) == ""


@pytest.mark.parametrize("condition", ["on_failure", "always"])
def test_a_graph_that_goes_on_after_a_failure_is_let_in(condition: str):
    """The first step's refusal is not the end."""
    plan = graph([PAID, human("h", "approved")], [edge("paid", "h", condition)])

    assert told(plan, 0) == ""


def test_a_step_that_something_else_may_take_the_place_of_is_let_in():
    """A fallback, or a rule that sends it to another pool or model."""
    fallback = FallbackPlan(FallbackKind.VALUE, (), value=b"{}")

    assert told(chain(msgspec.structs.replace(PAID, fallbacks=(fallback,))), 0) == ""
    assert told(chain(PAID), 0, rules=(RulePlan("r", Effect.ROUTE, pool="cheap"),)) == ""
    assert told(chain(PAID), 0, rules=(RulePlan("r", Effect.DENY),)) != ""


def test_a_graph_that_begins_with_a_person_is_let_in():
    """What comes later may never be reached."""
    assert told(chain(human("h", "approved"), PAID), 0) == ""


@pytest.mark.parametrize("budget", [0, 100, 154, 155, 156, 400, COST - 1, COST])
@pytest.mark.parametrize("first", [PAID, ASKING])
def test_only_what_would_fail_with_its_first_step_is_refused(first: Any, budget: int):
    """Held against what becomes of the run when it is begun all the same."""
    plan = chain(first)
    story = Story(plan)
    run = story.submit(input={"x": "y" * 50}, budget_nanousd=budget)
    story.leases()

    assert bool(told(plan, budget)) == (run.status == "failed")


def test_a_choice_of_edges_with_which_a_fork_begins_is_held_against_its_limits():
    """The model that chooses has been asked in vain: whoever resumes the run asks it first."""
    chooser = llm("ask", model=msgspec.structs.replace(PRICED, decide_bytes=400))
    plan = graph([chooser, node("b")], [edge("ask", "b", "llm_decide")])
    story = Story(plan)
    story.submit()
    story.run_to_end("ask")
    story.fail(story.lease("ask"))
    cut = forking.before_end(story.told(), plan)
    assert isinstance(cut, forking.Cut)
    state = StepContent(state=encode_run(cut.state))
    fork = Fork("f", "q", "acme", "bot", plan.version, state, cut.origin("r", True))

    (first,) = beginnings(fork, plan)
    assert (first.kind, first.name, first.pool) == ("decide", "small", "llm")
    story.plan()
    resumed = story.resume_ended()
    assert isinstance(resumed, Run)
    story.lease("ask")
    (held,) = [step.hold for visit in resumed.visits.values() for step in visit.steps.values()]
    assert held is not None
    for tokens, is_refused in ((held.tokens - 1, True), (held.tokens, False)):
        force = InForce(ControlPlan(accounts={"team/acme": AccountPlan(tokens=tokens)}), Changes())
        assert (refuse(fork, plan, force) is not None) is is_refused
