"""An endpoint that bills more than was reserved: it counts, it is flagged, and nothing more is spent."""

from __future__ import annotations

from hive_ray.core import events as ev
from hive_ray.core.failures import FailureKind
from tests.core.graphs import chain, nested, node
from tests.core.story import Story

TWO = chain(node("a", cost_nanousd=40), node("b", cost_nanousd=1))


def overruns(story: Story) -> list[int]:
    kinds = (ev.StepSucceeded, ev.StepFailed, ev.LateOutcome)
    return [event.overrun_nanousd for _, _, event, _ in story.events() if isinstance(event, kinds)]


def test_a_bill_beyond_the_reservation_is_charged_and_flagged():
    """It was billed: hiding it would make the ledger false. No further step that costs is admitted."""
    story = Story(TWO)
    run = story.submit(budget_nanousd=100)
    story.succeed(story.lease("a"), cost_nanousd=170)
    assert story.leases() == {}

    assert (run.spent_nanousd, run.overrun_nanousd) == (170, 130)
    assert run.failure == "BUDGET_EXCEEDED"
    assert overruns(story) == [130]


def test_a_bill_within_the_reservation_is_not_flagged():
    """Nor is one of exactly as much."""
    story = Story(TWO)
    run = story.submit(budget_nanousd=100)
    story.succeed(story.lease("a"), cost_nanousd=40)
    story.succeed(story.lease("b"))

    assert run.overrun_nanousd == 0
    assert overruns(story) == [0, 0]


def test_a_failed_attempt_can_exceed_its_reservation_too():
    """What it cost beyond stands on the event of its failure."""
    story = Story(TWO)
    run = story.submit(budget_nanousd=100)
    story.fail(story.lease("a"), FailureKind.BAD_INPUT, cost_nanousd=45)

    assert (run.spent_nanousd, overruns(story)) == (45, [5])


def test_a_late_bill_is_held_against_what_was_charged_for_the_loss():
    """The reservation was charged when the worker was lost; the rest is beyond it."""
    story = Story(TWO)
    run = story.submit(budget_nanousd=100)
    zombie = story.lease("a")
    story.lose("function-1")
    story.succeed(zombie, cost_nanousd=65)

    assert (run.spent_nanousd, run.overrun_nanousd) == (65, 25)
    assert overruns(story) == [0, 25]


def test_the_budget_of_the_root_is_blocked_by_a_childs_overrun():
    """Children spend their root's money, and pass it together."""
    body = chain(node("inner", cost_nanousd=10), id="body")
    story = Story(chain(nested("outer", body), node("b", cost_nanousd=1), subgraphs=(body,)), body)
    run = story.submit(budget_nanousd=50)
    story.succeed(story.lease("0:inner"), cost_nanousd=80)
    story.leases()

    assert (run.spent_nanousd, run.overrun_nanousd, run.failure) == (80, 70, "BUDGET_EXCEEDED")
