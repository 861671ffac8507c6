"""Fifty steps at once at the edge of a budget that pays for twenty and a half."""

from __future__ import annotations

import random

import pytest

from hive_ray.core.messages import Lease, Outcome, StepContent, encode
from tests.core import invariants
from tests.core.graphs import edge, graph, node
from tests.core.story import Story

CALLS = 50
COST = 1_000_000_007
BUDGET = 20 * COST + COST // 2
GRAPH = graph(
    [node("begin"), *(node(f"n{i}", cost_nanousd=COST) for i in range(CALLS))],
    [edge("begin", f"n{i}") for i in range(CALLS)],
)


def at_the_edge() -> tuple[Story, list[Lease]]:
    """All fifty are ready; those that the budget pays for are out."""
    story = Story(GRAPH, slots=2 * CALLS)
    story.submit(budget_nanousd=BUDGET)
    story.run_to_end("begin")
    return story, list(story.leases().values())


def test_of_fifty_calls_twenty_are_let_through_and_the_rest_wait():
    """Not one nano-dollar beyond; nothing is refused while a reservation may still be released."""
    story, out = at_the_edge()
    run = story.engine.runs["r"]

    assert len(out) == 20
    assert (run.reserved_nanousd, run.status) == (20 * COST, "running")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_calls_cost_in_the_end_the_budget_is_never_passed(seed: int):
    """Cheaper ones make room for others, in any order; the ledger is the sum of what was charged."""
    chance = random.Random(seed)
    story, out = at_the_edge()
    run = story.engine.runs["r"]
    charged = 0
    while out and not run.terminal:
        cost = chance.choice((0, 1, COST // 2, COST - 1, COST))
        charged += cost
        story.succeed(out.pop(chance.randrange(len(out))), cost)
        out += story.leases().values()
        assert run.spent_nanousd + run.reserved_nanousd <= BUDGET

    assert run.spent_nanousd == charged <= BUDGET


def test_a_crash_between_reserve_and_settle_neither_loses_nor_doubles():
    """The recovered state holds the same reservations; each is settled once, however often it is reported."""
    story, out = at_the_edge()
    engine = story.replayed()
    run = engine.runs["r"]
    assert (run.reserved_nanousd, run.spent_nanousd) == (20 * COST, 0)
    for lease in out * 2:
        outcome = Outcome(*lease.key, "", encode(StepContent()), cost_nanousd=COST, name=lease.name)
        engine.report(outcome, story.now)
        invariants.check(engine)

    assert (run.reserved_nanousd, run.spent_nanousd) == (0, 20 * COST)
