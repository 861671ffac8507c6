"""The degrade ladder: down on latency, errors and budgets, up on trials, and what a rung makes different."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hive_ray.core.failures import FailureKind
from hive_ray.core.ladder import (
    LadderPlan,
    Level,
    Rung,
    Sample,
    is_calm,
    leads_down,
    leads_up,
    level_by_budget,
    lowered,
    percentile_95,
)
from hive_ray.core.messages import Lease, Usage
from hive_ray.core.plan import AccountPlan, Action
from hive_ray.core.values import decode
from hive_ray.graph.compiled import ModelPlan, RetryPlan
from hive_ray.graph.policies import Effect, RulePlan
from tests.core.graphs import agent, chain, llm, tool
from tests.core.story import Story, content

SECOND_US = 1_000_000
CHEAP = ModelPlan("cheap", max_tokens=8, prompt_bytes=0, output_nanousd_per_mtok=1_000_000)
DEAR = ModelPlan("small", max_tokens=10, prompt_bytes=100, output_nanousd_per_mtok=10_000_000)
PLAN = LadderPlan((Rung("cheap"), Rung(max_tokens=4)), 10 * SECOND_US, 4, SECOND_US, 50)
ONCE = RetryPlan(max_retries=0)


def story_of(plan: LadderPlan = PLAN, *nodes: Any, **parts: Any) -> Story:
    story = Story(chain(*(nodes or (llm("a", retry=ONCE, model=DEAR),))))
    story.plan(ladders={"small": plan}, models={"cheap": CHEAP}, **parts)
    return story


def call(story: Story, took_us: int, failure: str = "") -> Lease:
    """A run whose only call takes so long; then the ladder is looked at."""
    story.submit(run=f"r{len(story.engine.runs)}")
    lease = story.lease("a")
    story.now_us += took_us
    if failure:
        story.fail(lease, FailureKind(failure), duration_us=took_us)
    else:
        story.report(lease, content(a=1), usage=Usage(1, 1, latency_us=took_us))
    story.engine.lowering.sweep(story.now)
    return lease


def slow(story: Story, calls: int = 4) -> Story:
    for _ in range(calls):
        call(story, 2 * SECOND_US)
    return story


def level(story: Story) -> int:
    return story.engine.fleet.ladders.get("small", Level()).level


def told(story: Story) -> list[str]:
    return [type(e).__name__ for _, _, e, _ in story.events() if type(e).__name__.startswith("Model")]


# --- down -------------------------------------------------------------------------------------------


def test_slow_calls_lead_a_rung_down_and_the_event_says_what_is_different():
    story = slow(story_of())

    event = next(e for _, _, e, _ in story.events() if type(e).__name__ == "ModelDegraded")
    assert (event.name, event.level, event.model) == ("small", 1, "cheap")
    assert event.reason == "p95 of 4 calls in 10 s is 2 s"
    lease = call(story, 1000)
    assert (lease.name, lease.max_tokens) == ("cheap", 8)


def test_errors_lead_a_rung_down():
    story = story_of()
    for failure in ("LLM_UNAVAILABLE", "", "RATE_LIMITED", ""):
        call(story, 1000, failure)

    assert story.engine.fleet.ladders["small"].reason == "2 of 4 calls failed in 10 s"


def test_failures_that_are_no_news_of_a_model_do_not_count():
    story = story_of()
    for _ in range(8):
        call(story, 1000, "BAD_INPUT")

    assert told(story) == []


def test_too_few_calls_and_old_ones_lead_nowhere():
    story = slow(story_of(), 3)
    story.now_us += 11 * SECOND_US
    slow(story, 3)

    assert told(story) == []


def test_the_next_rung_needs_calls_of_its_own():
    """What was slow is the model above; the other one must be slow itself."""
    story = slow(story_of())
    story.engine.lowering.sweep(story.now)
    assert level(story) == 1
    names = [call(story, 3 * SECOND_US // 2).name for _ in range(6)]

    assert (set(names), level(story)) == ({"cheap"}, 2)
    assert lowered(PLAN.rungs) == Rung("cheap", 4)


def test_a_cheaper_models_prices_are_held():
    """The worst case is that of the model that is asked."""
    story = slow(story_of())
    story.now_us += SECOND_US
    for number in range(5):
        story.submit(run=f"w{number}")
    leases = story.engine.dispatch.admit(story.engine.fleet.workers["llm-1"], story.now, 9)

    assert [lease.name for lease in leases] == ["cheap"] * 4 + ["small"], "the last one is a trial"
    held = [story.engine.runs[lease.run].reserved_nanousd for lease in leases]
    assert held == [8] * 4 + [100]


# --- up ---------------------------------------------------------------------------------------------


def test_trials_that_go_well_lead_up_again():
    """A call in a tenth of the window is made as if one rung higher; all others stay down."""
    story = slow(story_of())
    names = [call(story, SECOND_US // 4).name for _ in range(25)]

    assert told(story) == ["ModelDegraded", "ModelRestored"]
    assert (names.count("small"), names.count("cheap")) == (5, 20)
    assert call(story, 1000).name == "small"


def test_a_trial_that_goes_badly_begins_the_row_anew():
    story = slow(story_of())
    tried: list[int] = []
    for _ in range(9 * 5):
        story.submit(run=f"r{len(story.engine.runs)}")
        lease = story.lease("a")
        trial = lease.name == "small"
        took_us = SECOND_US if trial and len(tried) == 3 else SECOND_US // 4
        tried += [took_us] if trial else []
        story.now_us += SECOND_US // 2
        story.report(lease, content(a=1), usage=Usage(1, 1, latency_us=took_us))
        story.engine.lowering.sweep(story.now)

    assert [took // (SECOND_US // 4) for took in tried] == [1, 1, 1, 4, 1, 1, 1, 1, 1]
    assert level(story) == 0


def test_a_model_that_comes_and_goes_makes_the_ladder_flap_once_in_its_calm_time():
    """The second way up waits, however well the trials go."""
    story = slow(story_of(msgspec.structs.replace(PLAN, calm_us=60 * SECOND_US)))
    for _ in range(25):
        call(story, SECOND_US // 4)
    slow(story)
    assert told(story) == ["ModelDegraded", "ModelRestored", "ModelDegraded"]
    for _ in range(300):
        call(story, SECOND_US // 4)

    ups = [at for _, at, e, _ in story.events() if type(e).__name__ == "ModelRestored"]
    assert len(ups) == 2 and 60 * SECOND_US <= ups[1] - ups[0] <= 61 * SECOND_US


def test_the_rung_survives_a_crash():
    """What was counted does not: it begins anew."""
    story = slow(story_of())
    story.engine = story.replayed()

    assert call(story, 1000).name == "cheap"


def test_a_ladder_that_is_no_longer_configured_ends():
    story = slow(story_of())
    story.plan()
    story.engine.lowering.sweep(story.now)

    assert level(story) == 0
    assert call(story, 1000).name == "small"


# --- budgets and policies ---------------------------------------------------------------------------

BY_BUDGET = LadderPlan((Rung("cheap", budget_percent=50), Rung(max_tokens=4, budget_percent=90)))


def test_a_run_steps_down_when_most_of_its_budget_is_spent():
    """That run alone, and its event says why."""
    nodes = [llm("a", retry=ONCE, model=DEAR), llm("b", model=DEAR), llm("c", model=DEAR)]
    story = story_of(BY_BUDGET, *nodes)
    story.submit(budget_nanousd=1000)
    story.succeed(story.lease("a"), cost_nanousd=500)
    assert story.lease("b").name == "cheap"

    event = next(e for _, _, e, _ in story.events() if type(e).__name__ == "RunDegraded")
    assert (event.model, event.level, event.reason) == ("small", 1, "50 % of run/r is spent")
    story.submit(run="other")
    assert story.lease("a").name == "small"


def test_a_teams_budget_leads_down_too():
    story = story_of(BY_BUDGET, accounts={"team/*": AccountPlan(1000)})
    story.submit(run="first")
    story.succeed(story.lease("a"), cost_nanousd=900)
    story.submit(run="second")

    lease = story.lease("a")
    assert (lease.name, lease.max_tokens) == ("cheap", 4)
    assert story.engine.runs["second"].lowered == {"small": 2}


def test_an_account_that_degrades_goes_on_at_the_bottom():
    """Though no rung names a share of a budget."""
    story = story_of(PLAN, accounts={"team/*": AccountPlan(100, action=Action.DEGRADE)})
    story.submit(run="first")
    story.succeed(story.lease("a"), cost_nanousd=100)
    story.submit(run="second")

    lease = story.lease("a")
    assert (lease.name, lease.max_tokens) == ("cheap", 4)


def test_a_policy_leads_down_at_once():
    rule = RulePlan("cheap", Effect.DEGRADE, nodes=("a",), level=1)
    story = story_of(PLAN, policies=(rule,))
    story.submit()

    assert story.lease("a").name == "cheap"


# --- context ----------------------------------------------------------------------------------------


def conversing(context_bytes: int) -> Story:
    """An agent after three turns, each with a tool call, on a rung with little room."""
    plan = LadderPlan((Rung(context_bytes=context_bytes),))
    story = story_of(plan, agent("a", tool("crm"), model=DEAR))
    story.submit()
    for number in range(3):
        story.turn(story.lease("a"), "crm", tokens=7)
        story.succeed(story.lease("a/crm"), result=f"result {number}")
    story.engine.fleet.ladders["small"] = Level(1)
    return story


def test_with_little_room_the_last_turn_is_shown_and_how_much_is_left_out():
    lease = conversing(1).lease("a")

    assert [turn.role for turn in lease.conversation] == ["assistant", "tool"]
    assert lease.dropped == 4


def test_a_call_that_was_shown_less_measures_nothing_for_the_next():
    """The next one may be shown all of it again: its bound counts bytes."""
    story = conversing(1)
    lease = story.lease("a")
    assert story.engine.runs["r"].visits[lease.serial].loop.measured_tokens == 7  # pyright: ignore
    story.turn(lease, "crm", tokens=7)

    loop = story.engine.runs["r"].visits[lease.serial].loop
    assert loop is not None and (loop.measured_tokens, loop.measured_model) == (0, "small")


def test_what_is_asked_is_never_cut():
    """A task with its inputs is shown whole, at its whole price; too long, it fails once and plainly."""
    plan = LadderPlan((Rung(context_bytes=1), Rung("cheap")), 10 * SECOND_US, 1, error_percent=1)
    story = story_of(plan, llm("a", model=DEAR, input_keys=("x",)))
    story.engine.fleet.ladders["small"] = Level(1)
    run = story.submit(input={"x": "long " * 1000})
    lease = story.lease("a")
    assert decode(lease.inputs["x"]) == "long " * 1000
    assert story.engine.runs["r"].reserved_nanousd >= 100

    story.fail(lease, FailureKind.CONTEXT_TOO_LONG)
    story.engine.lowering.sweep(story.now)
    assert (run.status, run.failure, run.attempts) == ("failed", "CONTEXT_TOO_LONG", 1)
    assert level(story) == 1


def test_with_enough_room_nothing_is_left_out():
    lease = conversing(100_000).lease("a")

    assert (len(lease.conversation), lease.dropped) == (6, 0)


# --- the arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95)])
def test_the_percentile_is_the_nearest_rank(count: int, expected: int):
    assert percentile_95(list(range(1, count + 1))) == expected


def samples(*durations: int, bad: int = 0) -> list[Sample]:
    return [Sample(0, duration, index < bad) for index, duration in enumerate(durations)]


def test_five_trials_in_a_row_lead_up():
    assert leads_up(PLAN, samples(*[700_000] * 5))
    assert not leads_up(PLAN, samples(*[700_000] * 4))
    assert not leads_up(PLAN, samples(*[700_000] * 4, 700_001))
    assert not leads_up(PLAN, samples(*[1] * 5, bad=1))


def test_a_threshold_itself_does_not_lead_down():
    assert not leads_down(PLAN, samples(*[SECOND_US] * 9))
    assert leads_down(PLAN, samples(*[SECOND_US + 1] * 4))


def test_calm_is_asked_for_after_a_fall_only():
    """Several rungs up, one after the other, are no flapping."""
    assert is_calm(PLAN, Level(1, 5, "", 0), 6)
    assert is_calm(PLAN, Level(1, 5, "", 5), 6)
    assert not is_calm(PLAN, Level(1, 9, "", 5), 10)
    assert is_calm(PLAN, Level(1, 9, "", 5), 5 + 300 * SECOND_US)


def test_a_share_leads_to_the_lowest_rung_that_it_reaches():
    assert [level_by_budget(BY_BUDGET.rungs, share) for share in (0, 49.9, 50, 89, 90, 200)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert level_by_budget(PLAN.rungs, 500) == 0
