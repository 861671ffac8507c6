"""Rates and parallel runs."""

from __future__ import annotations

import pytest

from hive_ray.control import buckets
from hive_ray.core.commands import Cancel, ChangeRate, ChangeRunsLimit, Moment, Pause, Resume, Submit
from hive_ray.core.messages import Lease, Outcome, encode
from hive_ray.core.plan import Changes, ControlPlan, InForce, RatePlan
from hive_ray.core.rates import Rates
from hive_ray.core.run import Run
from hive_ray.graph.compiled import NodeKind
from hive_ray.graph.policies import Effect, RulePlan
from tests.core.graphs import chain, edge, graph, human, mapping, node, tool
from tests.core.story import Story, content

MINUTE_US = 60_000_000
STEP = graph([node("work")], [])
TALK = graph([node("work"), human("ask", "y"), node("end")], [edge("work", "ask"), edge("ask", "end")])


def later(story: Story, us: int) -> list[Lease]:
    """What can be leased when some time has passed."""
    story.now_us += us
    story.engine.dispatch.fire(story.now_us)
    return story.given()


def rated(runs: int, **rates: RatePlan) -> Story:
    story = Story(STEP, slots=1000)
    story.plan(rates={name.replace("__", "/"): rate for name, rate in rates.items()})
    for number in range(runs):
        story.submit(run=f"r{number}")
    return story


def test_no_minute_sees_more_than_a_burst_and_what_flows_in():
    """A bucket of one minute's worth, then one by one; what waits starts by itself in time."""
    story = rated(200, pool__function=RatePlan(60))
    starts = [0] * len(story.given())
    for second in range(1, 120):
        starts += [second] * len(later(story, 1_000_000))
    assert starts.count(0) == 60
    assert all(starts.count(second) == 1 for second in range(1, 120))


def test_a_rate_is_changed_live():
    story = rated(100, pool__function=RatePlan(6))
    assert len(story.given()) == 6
    assert story.steer(ChangeRate("pool/function", RatePlan(0), content(), "ann")) is None
    assert len(later(story, 1)) == 94
    assert story.steer(ChangeRate("agent/team/agent", RatePlan(6))) is not None


def test_buckets_are_empty_after_a_restart():
    """Nobody knows what the minute before it saw: no more starts than without it."""
    story = rated(100, pool__function=RatePlan(60))
    story.engine.rates.begin_empty(story.now_us)
    assert story.given() == []
    assert len(later(story, 10_000_000)) == 10


def test_tokens_that_a_call_did_not_use_flow_back():
    """What was held for it is more than what it took."""
    force = InForce(ControlPlan(rates={"model/m": RatePlan(0, 1_000)}), Changes())
    rates = Rates(buckets.take)
    assert rates.take(force, ("model/m",), 900, 0) is None
    late = rates.take(force, ("model/m",), 900, 0)
    assert late is not None
    assert 47_000_000 < late.due_us <= 49_000_000
    rates.give_back(force, ("model/m",), 850, 0)
    assert rates.take(force, ("model/m",), 900, 0) is None


def test_a_call_larger_than_its_bucket_takes_the_whole_bucket():
    """It would never start otherwise."""
    force = InForce(ControlPlan(rates={"model/m": RatePlan(0, 1_000)}), Changes())
    rates = Rates(buckets.take)
    assert rates.take(force, ("model/m",), 5_000, 0) is None
    assert rates.take(force, ("model/m",), 1, 0) is not None


def test_a_request_that_one_bucket_refuses_takes_nothing_from_the_others():
    force = InForce(ControlPlan(rates={"pool/p": RatePlan(2), "tool/t": RatePlan(1)}), Changes())
    rates = Rates(buckets.take)
    assert rates.take(force, ("pool/p", "tool/t"), 0, 0) is None
    assert rates.take(force, ("pool/p", "tool/t"), 0, 0) is not None
    assert rates.take(force, ("pool/p", "tool/u"), 0, 0) is None


# --- parallel runs


def limited(runs: int, limit: int, agent: int = 0) -> Story:
    story = Story(TALK, slots=1000)
    story.plan(runs={"team/*": limit, "agent/*": agent or limit})
    for number in range(runs):
        story.submit(run=f"r{number}")
    return story


def test_runs_above_the_limit_wait_and_begin_in_order():
    story = limited(5, 2)
    out = story.given()
    assert [lease.run for lease in out] == ["r0", "r1"]
    story.fail(out[0])
    assert [lease.run for lease in story.given()] == ["r2"]
    assert len(story.engine.entrance) == 2


def test_a_run_that_waits_for_a_person_holds_no_place():
    """It goes on at once when it is answered, even if others took its place."""
    story = limited(3, 1)
    for number in range(3):
        (lease,) = story.given()
        assert lease.run == f"r{number}"
        story.succeed(lease)
    for number in range(3):
        story.resolve("approve", run=f"r{number}")
    assert len(story.given()) == 3


def test_a_run_whose_children_all_wait_for_people_holds_no_place():
    """While one of them has something to do it does; and again as soon as somebody answers."""
    body = chain(node("work"), human("ask", "y"), node("end"), id="body")
    story = Story(chain(mapping("each", "items", body), subgraphs=(body,)), slots=1000)
    story.plan(runs={"team/*": 1})
    for run in ("r0", "r1"):
        story.submit(run=run, input={"items": [1, 2]})
    one, other = story.given()
    story.succeed(one)
    assert (story.given(), len(story.engine.entrance)) == ([], 1)
    story.succeed(other)
    assert len(story.engine.entrance) == 0
    assert [story.engine.payer(story.engine.runs[lease.run]).id for lease in story.given()] == ["r1", "r1"]

    assert story.engine.entrance.under_way()["team/team"] == 1
    story.resolve("approve", run=one.run)
    assert story.engine.entrance.under_way()["team/team"] == 2
    assert story.replayed().entrance.under_way() == story.engine.entrance.under_way()


def test_a_run_whose_step_needs_a_persons_yes_holds_no_place():
    """The question comes when the step would start."""
    story = Story(chain(node("pay", NodeKind.TOOL, tools=(tool("pay"),))), slots=1000)
    rule = RulePlan("ask", Effect.REQUIRE_APPROVAL, tools=("pay",))
    story.plan(runs={"team/*": 1}, policies=(rule,))
    for number in range(3):
        story.submit(run=f"r{number}")
    assert story.given() == []
    assert len(story.engine.entrance) == 0
    assert all(run.waits == 1 for run in story.engine.runs.values())


def test_the_limit_of_an_agent_keeps_no_other_agent_of_its_team_waiting():
    story = limited(3, 10, agent=1)
    story.submit(run="s", agent="other")
    assert sorted(lease.run for lease in story.given()) == ["r0", "s"]


def test_a_cancelled_run_at_the_entrance_never_begins():
    story = limited(3, 1)
    story.tell(Cancel("r1"))
    story.tell(Cancel("r0"))
    assert [lease.run for lease in story.given()] == ["r2"]


def test_higher_classes_go_in_first():
    story = limited(1, 1)
    story.submit(run="b", priority=2)
    story.submit(run="i", priority=0)
    story.fail(story.given()[0])
    assert [lease.run for lease in story.given()] == ["i"]


def test_raising_the_limit_lets_more_in_at_once():
    story = limited(5, 1)
    assert story.steer(ChangeRunsLimit("agent/team/agent", 10)) is None
    assert len(story.engine.entrance) == 4, "the team's own limit still holds"
    assert story.steer(ChangeRunsLimit("team/team", 3)) is None
    assert len(story.given()) == 3
    assert story.steer(ChangeRunsLimit("team/team", -2)) is not None


def test_the_entrance_is_made_again_from_the_runs():
    """After a restart the same runs wait, in the same order."""
    story = limited(5, 2)
    story.fail(story.given()[0])
    again = story.replayed()
    assert len(again.entrance) == len(story.engine.entrance) == 2
    for run in list(again.runs):
        if not again.runs[run].terminal and run not in again.entrance:
            again.cancel(Cancel(run), story.now)
    assert len(again.entrance) == 0


@pytest.mark.parametrize("resumes", [False, True])
def test_a_fork_stands_in_line_like_any_other_run(resumes: bool):
    """Nothing of it starts before it is let in, after a crash neither; then all of it does."""
    story = limited(1, 1)
    story.fail(story.given()[0])
    story.submit(run="s")
    fork = story.resume_ended("r0") if resumes else story.fork("work", "r0")
    assert isinstance(fork, Run)
    (other,) = story.given()
    assert other.run == "s"
    assert (fork.begun, len(story.engine.entrance)) == (False, 1)
    again = story.replayed()
    assert "f" in again.entrance and not again.runs["f"].begun

    story.succeed(other)
    (lease,) = story.given()
    assert (lease.run, fork.begun, len(story.engine.entrance)) == ("f", True, 0)
    assert story.kinds("f")[:2] == ["RunForked", "RunLetIn"]
    assert not story.replayed().entrance


def test_a_fork_at_the_entrance_can_be_paused_resumed_and_cancelled():
    """Without beginning."""
    story = limited(1, 1)
    story.fail(story.given()[0])
    story.submit(run="s")
    story.fork("work", "r0")
    story.tell(Pause("f"))
    story.tell(Resume("f"))
    assert [lease.run for lease in story.given()] == ["s"]
    story.tell(Cancel("f"))
    assert story.engine.runs["f"].status == "cancelled"
    assert len(story.engine.entrance) == 0
    assert "RunLetIn" not in story.kinds("f")


def test_priorities_come_from_the_plan_where_a_submission_names_none():
    """The agent's goes before the team's."""
    story = Story(STEP)
    story.plan(priorities={"team/team": 2, "agent/team/agent": 0})
    assert story.submit(run="a").priority == 0
    assert story.submit(run="b", agent="other").priority == 2
    assert story.submit(run="c", team="others").priority == 1
    assert story.submit(run="d", priority=1).priority == 1


def test_one_teams_ten_thousand_steps_keep_another_team_waiting_for_a_worker_only():
    """Scenario 20, in the core: the next free slot is the other team's."""
    engine = Story(STEP, slots=4).engine
    worker = engine.fleet.workers["function-1"]
    for number in range(10_000):
        engine.submit(Submit(f"many{number}", "q", "many", "agent", STEP.version, content()), Moment(1))
    out = engine.dispatch.admit(worker, Moment(1), 1000)
    engine.submit(Submit("few", "q", "few", "agent", STEP.version, content()), Moment(2))
    engine.report(Outcome(*out[0].key, "", encode(content())), Moment(3))
    assert [lease.run for lease in engine.dispatch.admit(worker, Moment(4), 1000)] == ["few"]


def shared(slots: int, spare: int) -> Story:
    """A pool that one team would fill, while another one is known."""
    story = Story(STEP, slots=slots)
    story.plan(spare_slots={"function": spare})
    story.submit(run="early", team="few")
    story.fail(story.lease("work"))
    for number in range(2 * slots):
        story.submit(run=f"many{number}", team="many")
    return story


def test_the_last_slots_are_kept_for_teams_that_have_few():
    """Whoever comes need not wait for an end."""
    story = shared(32, 2)
    assert len(story.given()) == 30
    for number in range(3):
        story.submit(run=f"few{number}", team="few")
    assert [lease.run for lease in story.given()] == ["few0", "few1"]


def test_a_team_alone_fills_the_pool_and_so_does_one_in_a_small_pool():
    alone = Story(STEP, slots=32)
    alone.plan(spare_slots={"function": 2})
    for number in range(40):
        alone.submit(run=f"r{number}")
    assert len(alone.given()) == 32
    assert len(shared(4, 2).given()) == 4


def test_two_teams_that_want_everything_share_what_is_not_kept():
    story = shared(32, 4)
    for number in range(64):
        story.submit(run=f"few{number}", team="few")
    teams = [lease.team for lease in story.given()]
    assert sorted((teams.count("few"), teams.count("many"))) == [14, 14]
