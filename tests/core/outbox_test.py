"""What is told outside, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.core import events as ev
from hive_ray.core import outbox
from hive_ray.core.hooks import KINDS, HookPlan, HooksPlan
from hive_ray.core.outbox import Item
from hive_ray.core.plan import AccountPlan
from tests.core.graphs import agent, chain, human, nested, node, tool
from tests.core.story import Story

ALL = HookPlan("all", "https://all.example/")


def told(story: Story) -> list[tuple[str, str]]:
    return [(item.hook, item.kind) for item in story.engine.fleet.outbox.pending.values()]


def watched(*hooks: HookPlan, graph: Any = None, **parts: Any) -> Story:
    top = graph or chain(node("a", cost_nanousd=9))
    story = Story(top)
    story.plan(hooks=HooksPlan(hooks), **parts)
    return story


def test_a_receiver_hears_what_it_wants_of_the_teams_that_it_wants():
    """All of it if it names nothing."""
    ends = HookPlan("ends", "https://x/", ("run.finished",))
    others = HookPlan("others", "https://x/", (), ("acme",))
    story = watched(ALL, ends, others, graph=chain(human("h", "approved")))
    story.submit()
    story.resolve("approve")

    assert told(story) == [("all", "approval.requested"), ("all", "run.finished"), ("ends", "run.finished")]


def test_a_budgets_warning_is_told_to_its_team():
    """An account of a pool is nobody's: only those hear of it who want all teams'."""
    acme, mine = HookPlan("acme", "https://x/", (), ("acme",)), HookPlan("mine", "https://x/", (), ("team",))
    accounts = {"team/team": AccountPlan(10), "pool/function": AccountPlan(10)}
    story = watched(ALL, acme, mine, accounts=accounts)
    story.submit()
    story.succeed(story.lease("a"), cost_nanousd=9)
    warned = [item for item in story.engine.fleet.outbox.pending.values() if item.kind == "budget.warned"]

    assert [(item.hook, item.facts["account"]) for item in warned] == [
        ("all", "team/team"),
        ("mine", "team/team"),
        ("all", "pool/function"),
    ]
    assert warned[0].facts["spent_nanousd"] == 9


def test_an_opened_breaker_is_told_to_those_who_want_all_teams():
    """It belongs to nobody."""
    story = watched(ALL, HookPlan("mine", "https://x/", (), ("team",)))
    story.engine.record([ev.Draft(ev.BreakerOpened("", "tool/crm", "failures", 1, 10, 9))], story.now)
    (item,) = story.engine.fleet.outbox.pending.values()

    assert (item.hook, item.kind, item.facts["breaker"]) == ("all", "breaker.opened", "tool/crm")


def test_a_child_run_asks_and_its_end_is_its_parents_matter():
    """Only the run that was submitted is finished for others."""
    body = chain(human("h", "approved"), id="body")
    story = watched(ALL, graph=chain(nested("s", body), id="outer", subgraphs=(body,)))
    story.submit(callback="https://submitter.example/")
    child = story.engine.live_children("r")[0]
    story.resolve("approve", run=child)

    assert told(story) == [
        ("all", "approval.requested"),
        ("all", "run.finished"),
        ("", "run.finished"),
    ]


def test_a_conversation_tells_its_client_and_nobody_else():
    """A turn is no approval."""
    story = watched(ALL, graph=chain(agent("a", tool("read"), client_facing=True)))
    story.submit()
    story.turn(story.lease("a"), question="which one?")

    assert story.wait()[1].reason == "client"
    assert told(story) == []


def test_nobody_is_told_where_nobody_is_named():
    """Not an event more than before."""
    story = Story(chain(human("h", "approved")))
    story.submit()
    story.resolve("approve")

    assert not [e for _, _, e, _ in story.events() if isinstance(e, ev.NotificationQueued)]


def test_beyond_a_bound_notifications_are_given_up_by_name(monkeypatch: pytest.MonkeyPatch):
    """The journal tells of each of them."""
    monkeypatch.setattr(outbox, "MOST_PENDING", 2)
    story = watched(ALL, graph=chain(human("h", "approved")))
    for number in range(4):
        story.submit(run=f"r{number}")
    ended = list(story.engine.fleet.outbox.ended.values())

    assert len(told(story)) == 2
    assert [(item.state, item.error) for item in ended] == [
        ("failed", "2 notifications are pending already")
    ] * 2


def test_a_replay_has_the_same_outbox():
    """Decided once; a receiver that was added later hears nothing of it."""
    story = watched(ALL, graph=chain(human("h", "approved")))
    story.submit(callback="https://submitter.example/")
    story.plan(hooks=HooksPlan((ALL, HookPlan("late", "https://x/"))))
    story.resolve("approve")
    item: Item = next(iter(story.engine.fleet.outbox.pending.values()))
    story.engine.sent(item.id, outbox.Sent("answered 500", 500), story.now)

    assert story.replayed().fleet.outbox == story.engine.fleet.outbox


def test_of_those_that_are_over_only_the_newest_are_kept():
    """What they told is gone with their delivery."""
    story = watched(ALL, graph=chain(human("h", "approved")))
    last = outbox.MOST_ENDED + 4
    for number in range(last + 1):
        story.submit(run=f"r{number}")
        (item,) = story.engine.fleet.outbox.pending.values()
        story.engine.sent(item.id, outbox.Sent(), story.now)
    kept = list(story.engine.fleet.outbox.ended.values())

    assert len(kept) == outbox.MOST_ENDED
    assert (kept[-1].run, kept[-1].state, kept[-1].facts) == (f"r{last}", "delivered", {})


def test_the_configuration_knows_the_same_kinds():
    """A kind that hive.yaml cannot name could not be chosen."""
    from typing import get_args

    from hive_ray.config_hooks import Kind

    assert get_args(Kind) == KINDS


def test_two_notifications_of_one_moment_have_two_ids():
    """An account that is warned of twice at once, as when its limit was lowered between."""
    story = watched(ALL)
    warning = ev.BudgetWarned("", "team/team", 0, 9, 0, 10, -1)
    story.engine.record([ev.Draft(warning), ev.Draft(warning)], story.now)

    assert len(told(story)) == 2
