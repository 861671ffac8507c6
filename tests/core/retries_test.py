"""What bounds retries: their number, what a server may ask for, and the deadlines of run and node."""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.core.failures import FailureKind
from hive_ray.core.plan import InForce
from hive_ray.graph.compiled import RetryPlan
from tests.core.graphs import chain, edge, graph, human, mapping, node
from tests.core.story import Story

SECOND_US = 1_000_000
RETRY = RetryPlan(max_retries=3, base_us=SECOND_US, cap_us=4 * SECOND_US)


def one(**fields: Any) -> Story:
    return Story(chain(node("a", retry=RETRY, **fields)))


def test_who_asks_for_too_much_time_is_not_asked_again():
    """The step fails at once and says which bound it was."""
    story = one()
    run = story.submit()

    story.fail(story.lease("a"), FailureKind.RATE_LIMITED, retry_after_us=301 * SECOND_US)

    assert (run.failure, run.attempts) == ("RATE_LIMITED", 1)
    assert (
        run.message == "it broke; it asked to come back in 301 s, longer than retries.longest_wait_s (300 s)"
    )


def test_the_longest_wait_is_the_plans():
    """An installation may bear more, or less."""
    story = one()
    run = story.submit()
    plan = msgspec.structs.replace(story.engine.fleet.plan, longest_wait_us=SECOND_US)
    story.engine.force = InForce(plan, story.engine.fleet.changes)

    story.fail(story.lease("a"), FailureKind.RATE_LIMITED, retry_after_us=2 * SECOND_US)

    assert run.terminal


def test_a_storm_of_429_makes_as_many_attempts_as_were_allowed():
    """Four for each of fifty runs, none before the time that the server asked for."""
    story = Story(chain(node("a", retry=RETRY)), slots=64)
    for number in range(50):
        story.submit(run=f"r{number}")
    worker = story.engine.fleet.workers["function-1"]
    attempts = 0
    for _ in range(10):
        for lease in story.engine.dispatch.admit(worker, story.now, 64):
            attempts += 1
            story.fail(lease, FailureKind.RATE_LIMITED, retry_after_us=5 * SECOND_US, started=False)
        assert not story.engine.dispatch.admit(worker, story.now, 64)
        story.pass_time(10 * SECOND_US)

    assert attempts == 50 * 4
    assert {run.failure for run in story.engine.runs.values()} == {"RATE_LIMITED"}


def test_no_retry_is_planned_past_the_runs_deadline():
    """The run fails now and with the reason, rather than later with a deadline."""
    story = one()
    run = story.submit(deadline_us=story.now_us + 3 * SECOND_US)

    story.fail(story.lease("a"), FailureKind.RATE_LIMITED, retry_after_us=5 * SECOND_US)

    assert run.failure == "RATE_LIMITED"
    assert run.message == "it broke; not tried again in 5.5 s, since the time of the run is over in 3 s"


def test_a_childs_retries_obey_the_deadline_of_its_root():
    """A child run has none of its own that could end it."""
    body = chain(node("x", retry=RETRY), id="body")
    story = Story(chain(node("a"), mapping("m", "list", body), subgraphs=(body,)))
    run = story.submit(input={"list": [1]}, deadline_us=story.now_us + 3 * SECOND_US)
    story.run_to_end("a")

    story.fail(story.lease("0:x"), FailureKind.RATE_LIMITED, retry_after_us=5 * SECOND_US)

    assert run.failure


def test_a_deadline_that_stands_still_does_not_cut_retries_off():
    """While a branch waits for a person, the time of the run does not pass."""
    story = Story(
        graph([node("a"), human("h", "y"), node("b", retry=RETRY)], [edge("a", "h"), edge("a", "b")])
    )
    run = story.submit(deadline_us=story.now_us + 3 * SECOND_US)
    story.run_to_end("a")
    story.pass_time(60 * SECOND_US)

    story.fail(story.lease("b"), FailureKind.TOOL_ERROR)

    assert story.kinds()[-1] == "RetryScheduled" and not run.terminal


def test_no_retry_is_planned_past_the_nodes_deadline():
    """It counts from the moment at which the node was entered, over all attempts."""
    story = one(deadline_us=4 * SECOND_US)
    run = story.submit()
    story.pass_time(3 * SECOND_US)

    story.fail(story.lease("a"), FailureKind.RATE_LIMITED, retry_after_us=SECOND_US)

    assert run.message == "it broke; not tried again in 1.5 s, since the time of the node is over in 1 s"


def test_an_attempt_has_no_more_time_than_its_node():
    """What is left of the node's time cuts the step's own."""
    story = one(deadline_us=4 * SECOND_US)
    story.submit()
    story.pass_time(3 * SECOND_US)

    assert story.lease("a").timeout_us == SECOND_US


def test_a_step_that_waited_too_long_does_not_begin():
    """Its node's time was over before there was a worker for it."""
    story = one(deadline_us=4 * SECOND_US)
    run = story.submit()
    story.pass_time(5 * SECOND_US)

    assert story.leases() == {}
    assert (run.failure, run.message) == ("TIMEOUT", "the time of node a (deadline_s) is over")
