"""Accounts above runs: windows, holds, limits and their actions, warnings, stops."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from hive_ray.core import events as ev
from hive_ray.core.accounts import KEPT_WINDOWS, Account, Experience, window
from hive_ray.core.commands import (
    AllowSpending,
    Cancel,
    ChangeBudget,
    Maintain,
    Pause,
    Refused,
    Resume,
    StopSpending,
    Submit,
)
from hive_ray.core.failures import FailureKind
from hive_ray.core.fleet import decode_fleet, encode_fleet
from hive_ray.core.plan import AccountPlan, Action
from hive_ray.core.run import RunStatus
from tests.core.graphs import edge, graph, node
from tests.core.story import Story, content

COST = 1_000_000_007
LIMIT = 20 * COST + COST // 2
PAID = graph([node("pay", cost_nanousd=COST)], [])
OTHER = graph([node("pay", cost_nanousd=COST)], [], id="h")
TWICE = graph([node("pay", cost_nanousd=COST), node("again", cost_nanousd=COST)], [edge("pay", "again")])
SCOPES = ("team/team", "agent/team/agent", "workflow/team/g", "pool/function")


def crowd(runs: int, **accounts: AccountPlan) -> Story:
    """Runs of one paid step each, under limits by account (``team__team`` for ``team/team``)."""
    story = Story(PAID, slots=100)
    story.plan(accounts={name.replace("__", "/"): plan for name, plan in accounts.items()})
    for number in range(runs):
        story.submit(run=f"r{number}")
    return story


def spent(story: Story, name: str) -> int:
    return story.engine.fleet.accounts.get(name).present.spent_nanousd


def held(story: Story, name: str) -> int:
    return story.engine.fleet.accounts.get(name).present.held_nanousd


# --- windows


@pytest.mark.parametrize("kind", ["team", "agent", "workflow", "pool", "model", "tool"])
def test_windows_are_those_of_the_calendar_in_utc(kind: str):
    """Held against the standard library's calendar, over five hundred years."""
    chance = random.Random(kind)
    for _ in range(2_000):
        at_us = chance.randrange(0, 500 * 366 * 86_400) * 1_000_000
        begin, end = window(f"{kind}/x", at_us)
        time = datetime.fromtimestamp(at_us // 1_000_000, UTC)
        hour = time.replace(minute=0, second=0)
        first = {"team": hour.replace(day=1, hour=0), "agent": hour.replace(hour=0)}
        first["workflow"] = first["team"]
        assert datetime.fromtimestamp(begin // 1_000_000, UTC) == first.get(kind, hour)
        assert begin <= at_us < end
        assert window(f"{kind}/x", end)[0] == end, "the next one begins where it ends"


def test_a_charge_goes_to_the_window_in_which_its_attempt_began_however_late():
    """A new window begins with nothing spent and nothing held; old ones are kept for a while."""
    story = Story(PAID)
    story.plan()
    story.submit()
    lease = story.lease("pay")
    account = story.engine.fleet.accounts.get("pool/function")
    begun = account.window_us
    story.now_us += 2 * 3_600_000_000
    story.submit(run="s")
    other = story.lease("pay")
    story.succeed(lease, COST)

    assert (account.past[begun].spent_nanousd, account.past[begun].held_nanousd) == (COST, 0)
    assert (account.present.spent_nanousd, account.present.held_nanousd) == (0, COST)
    story.succeed(other, 1)
    assert account.present.spent_nanousd == 1


def test_a_window_in_which_something_is_held_is_not_forgotten():
    """Others are, but for the last few."""
    account = Account("pool/p")
    for hour in range(10):
        account.at(hour * 3_600_000_000).held_nanousd = int(hour == 1)
    assert len(account.past) == KEPT_WINDOWS + 1
    assert account.past[3_600_000_000].holds


def test_a_wall_clock_that_goes_back_does_not_reopen_a_window():
    """What begins then is held in the newest window that anything began in."""
    story = Story(PAID)
    story.plan()
    story.now_us += 3_600_000_000
    story.submit()
    story.succeed(story.lease("pay"), 5)
    story.now_us -= 3_600_000_000
    story.submit(run="s")
    story.succeed(story.lease("pay"), 7)

    account = story.engine.fleet.accounts.get("pool/function")
    assert (account.present.spent_nanousd, account.past) == (12, {})


# --- limits that stop


@pytest.mark.parametrize("scope", SCOPES)
def test_of_fifty_runs_as_many_begin_as_the_budget_pays_for(scope: str):
    """The others wait while reservations may be released, and fail when the money is spent."""
    story = crowd(50, **{scope.replace("/", "__"): AccountPlan(LIMIT)})
    out = story.given()
    assert (len(out), held(story, scope)) == (20, 20 * COST)

    for lease in out:
        story.succeed(lease, COST)
    assert story.leases() == {}
    failed = [run for run in story.engine.runs.values() if run.status is RunStatus.FAILED]
    assert (len(failed), {run.failure for run in failed}) == (30, {"BUDGET_EXCEEDED"})
    assert scope in failed[0].message
    assert (spent(story, scope), held(story, scope)) == (20 * COST, 0)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_calls_cost_no_account_is_passed_by_a_nano_dollar(seed: int):
    """Limits on four levels at once; crashes between hold and settlement; the ledger is what was charged."""
    chance = random.Random(seed)
    limits = {scope: LIMIT * chance.randint(2, 5) // 4 for scope in SCOPES}
    limits |= {"agent/team/b": LIMIT // 3, "workflow/team/h": LIMIT // 2}
    story = Story(PAID, OTHER, slots=100)
    story.plan(accounts={name: AccountPlan(limit) for name, limit in limits.items()})
    for number in range(50):
        story.submit(chance.choice((PAID, OTHER)), f"r{number}", agent=chance.choice(("agent", "b")))
    charged = 0
    out = story.given()
    while out:
        lease = out.pop(chance.randrange(len(out)))
        kind = chance.choice(("", "", "", FailureKind.BAD_INPUT, FailureKind.TIMEOUT, "cancel"))
        cost = COST if kind == FailureKind.TIMEOUT else chance.choice((0, 1, COST // 2, COST))
        charged += cost
        if kind == "cancel":
            story.tell(Cancel(lease.run))
            kind = ""
        if kind:
            story.fail(lease, FailureKind(kind), cost_nanousd=cost)
        else:
            story.succeed(lease, cost)
        for name, limit in limits.items():
            assert spent(story, name) + held(story, name) <= limit
        replayed = story.replayed().fleet.accounts
        assert replayed.by_name == story.engine.fleet.accounts.by_name
        out += story.given()

    assert {spent(story, name) for name in ("team/team", "pool/function")} == {charged}
    assert sum(run.spent_nanousd for run in story.engine.runs.values()) == charged


def test_the_next_window_pays_again():
    """What waits is not failed while something is held, and starts when the window turns."""
    story = crowd(2, pool__function=AccountPlan(COST))
    lease = story.lease("pay")
    story.now_us += 3_600_000_000
    story.engine.dispatch.sweep()
    story.succeed(story.lease("pay"), COST)
    story.succeed(lease, COST)
    assert [run.status for run in story.engine.runs.values()] == [RunStatus.SUCCEEDED] * 2


def test_a_limit_below_what_is_spent_blocks_and_is_no_breach():
    """It is changed live; the configuration's own comes back when the change is undone."""
    story = crowd(1, team__team=AccountPlan(2 * COST))
    story.succeed(story.lease("pay"), COST)
    assert story.steer(ChangeBudget("team/team", AccountPlan(1), content(), "ann")) is None
    story.submit(run="s")
    assert story.leases() == {}
    assert story.engine.runs["s"].failure == "BUDGET_EXCEEDED"
    assert story.steer(ChangeBudget("team/team", None)) is None
    story.submit(run="t")
    assert len(story.leases()) == 1


@pytest.mark.parametrize("name", ["team", "team/a/b", "agent/a", "nothing/x", "run/r", "pool/"])
def test_a_budget_of_nobody_is_refused(name: str):
    """Nothing changes."""
    story = crowd(0)
    before = len(story.journal)
    refused = story.steer(ChangeBudget(name, AccountPlan(1)))
    assert refused is not None
    assert (refused.problem, len(story.journal)) == ("invalid", before)


def test_a_pattern_gives_each_a_limit_of_its_own():
    """``team/*`` is no common purse; a name goes before it."""
    story = Story(PAID, slots=100)
    story.plan(accounts={"team/*": AccountPlan(COST), "team/rich": AccountPlan(3 * COST)})
    for team in ("a", "b", "rich"):
        for number in range(5):
            story.submit(run=f"{team}{number}", team=team)
    story.leases()
    assert {team: held(story, f"team/{team}") // COST for team in ("a", "b", "rich")} == {
        "a": 1,
        "b": 1,
        "rich": 3,
    }


# --- tokens and experience


def test_experience_is_never_above_the_worst_case_nor_far_below_what_calls_take():
    """Steady calls are known after some; one that is dearer widens what is expected."""
    known = Experience()
    assert known.expect(1_000) == 1_000
    for _ in range(50):
        known.learn(100, 1_000)
    assert 100 <= known.expect(1_000) <= 150
    known.learn(900, 1_000)
    assert 300 <= known.expect(1_000) <= 1_000


# --- pausing


def paused() -> Story:
    story = Story(TWICE)
    story.plan(accounts={"team/team": AccountPlan(COST + 5, action=Action.PAUSE, owner="role:finance")})
    story.submit()
    story.succeed(story.lease("pay"), COST)
    assert story.leases() == {}
    return story


def test_at_a_pausing_limit_a_person_is_asked_and_may_let_the_run_go_on():
    """Without an amount, as far as the step needs; the account's own limit stays as it is."""
    story = paused()
    place, wait = story.wait()
    assert (place, wait.reason, wait.owner) == ("again", "budget", "role:finance")
    assert story.replayed().runs == story.engine.runs
    story.resolve("approve")
    story.succeed(story.lease("again"), COST)
    assert story.engine.runs["r"].status is RunStatus.SUCCEEDED
    assert story.engine.runs["r"].allowances["team/team"].nanousd == COST - 5


def test_an_amount_that_is_too_small_is_asked_for_again():
    """Each answer adds to the allowance."""
    story = paused()
    story.resolve("approve", usd=0.5)
    assert story.leases() == {}
    assert story.wait()[1].reason == "budget"
    story.resolve("approve", usd=1)
    story.succeed(story.lease("again"), COST)
    assert story.engine.runs["r"].allowances["team/team"].nanousd == 1_500_000_000


def test_a_rejected_request_for_money_fails_the_step():
    story = paused()
    story.resolve("reject", message="no more this month")
    run = story.engine.runs["r"]
    assert (run.status, run.failure, run.message) == ("failed", "BUDGET_EXCEEDED", "no more this month")


def test_a_run_that_is_paused_by_hand_meanwhile_goes_on_when_both_have_ended():
    """Paused, approved, resumed: in this order the step starts once."""
    story = paused()
    story.tell(Pause("r"))
    story.resolve("approve")
    assert story.leases() == {}
    story.tell(Resume("r"))
    story.succeed(story.lease("again"), COST)
    assert story.engine.runs["r"].status is RunStatus.SUCCEEDED


# --- warnings, stops, maintenance


def test_a_warning_is_given_once_in_a_window():
    """At four fifths of the limit by default."""
    story = crowd(0, pool__function=AccountPlan(10 * COST))
    warned: list[ev.BudgetWarned] = []
    for hour in range(2):
        for number in range(10):
            story.submit(run=f"r{hour}{number}")
            story.succeed(story.lease("pay"), COST)
            warned = [event for _, _, event, _ in story.events() if isinstance(event, ev.BudgetWarned)]
            assert len(warned) == hour + (number >= 7)
        story.now_us += 3_600_000_000
    assert warned[0].spent_nanousd == 8 * COST


@pytest.mark.parametrize("scope", SCOPES)
def test_spending_is_stopped_at_once_and_goes_on_where_it_stood(scope: str):
    """What runs may end; nothing more starts; no run is lost."""
    story = crowd(3)
    lease = story.given(1)[0]
    assert story.steer(StopSpending(scope, content(), "ann")) is None
    assert story.leases() == {}
    story.succeed(lease, COST)
    story.engine.dispatch.sweep()
    assert story.leases() == {}
    assert story.replayed().fleet.stopped == {scope: "ann"}
    assert story.steer(AllowSpending(scope)) is None
    assert len(story.given()) == 2


def test_during_maintenance_nothing_new_is_admitted_and_all_else_goes_on():
    story = crowd(2)
    assert story.steer(Maintain(True, content(), "ann")) is None
    new = Submit("n", "q", "team", "agent", PAID.version, content())
    refused = story.engine.submit(new, story.now)
    assert isinstance(refused, Refused)
    assert (refused.problem, "ann" in refused.message) == ("maintenance", True)
    assert story.submit(run="r0").id == "r0", "a repeat of what was accepted is not new"
    for lease in story.given():
        story.succeed(lease, COST)
    assert story.steer(Maintain(False)) is None
    story.submit(run="n")


def test_a_snapshot_of_the_fleet_gives_its_accounts_and_changes_back():
    story = crowd(3, team__team=AccountPlan(LIMIT))
    story.succeed(story.given(1)[0], 17)
    story.steer(ChangeBudget("pool/function", AccountPlan(5)))
    story.steer(StopSpending("pool/llm"))
    fleet = story.engine.fleet
    again = decode_fleet(encode_fleet(fleet))
    assert (again.plan, again.changes, again.stopped) == (fleet.plan, fleet.changes, fleet.stopped)
    assert again.accounts.by_name["team/team"].present.spent_nanousd == 17
