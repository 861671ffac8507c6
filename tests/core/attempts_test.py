"""What follows the end of an attempt: success, retry, failure, a question, a late outcome; and its money."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.core.failures import CAN_PASS, FailureKind
from hive_ray.core.messages import Lease, StepContent
from hive_ray.core.run import StepStatus
from hive_ray.graph.compiled import ModelPlan, RetryPlan
from tests.core.graphs import chain, edge, graph, llm, mail, node
from tests.core.story import Story

RETRY = RetryPlan(max_retries=3, base_us=1_000_000, cap_us=3_000_000)
UNSEEN = (
    FailureKind.TIMEOUT,
    FailureKind.WORKER_LOST,
    FailureKind.CANCELLED,
    FailureKind.OUTCOME_UNKNOWN,
)


def one(**fields: Any) -> Story:
    return Story(chain(node("a", retry=RETRY, **fields)))


def mails(**fields: Any) -> Story:
    return Story(chain(mail("a", retry=RETRY, **fields)))


# --- retries ---------------------------------------------------------------------------------------


def test_backoff_is_exponential_with_full_jitter_and_a_cap():
    """Delay = chance * min(cap, base * 2**n), for each attempt of its own."""
    story = one()
    story.submit()
    delays: list[int] = []
    for chance in (1.0, 0.5, 0.5):
        story.chance = chance
        story.fail(story.lease("a"), FailureKind.TOOL_ERROR)
        delays.append(story.events()[-1][2].delay_us)
        assert story.leases() == {}, "not before its time"
        story.pass_time(delays[-1])

    assert delays == [1_000_000, 1_000_000, 1_500_000]
    assert story.lease("a").attempt == 4


def test_retry_after_is_honoured():
    """A server that asks for time gets it; the jitter lies behind, since others were told the same time."""
    story = one()
    story.submit()

    story.fail(story.lease("a"), FailureKind.RATE_LIMITED, retry_after_us=60_000_000)

    assert story.events()[-1][2].delay_us == 60_500_000


def test_retries_end_and_then_the_node_fails():
    """With the last failure's kind."""
    story = one()
    run = story.submit()
    for _ in range(4):
        story.fail(story.lease("a"), FailureKind.TOOL_ERROR)
        story.pass_time(3_000_000)

    assert (run.status, run.failure, run.attempts) == ("failed", "TOOL_ERROR", 4)


@pytest.mark.parametrize("kind", FailureKind)
def test_only_kinds_that_can_pass_are_retried(kind: FailureKind):
    """All others fail the node at once. An LLM's answer of the wrong shape may be right next time."""
    story = Story(chain(llm("a")))
    run = story.submit()

    story.fail(story.lease("a"), kind)

    assert run.terminal is (kind not in CAN_PASS)


def test_a_function_is_not_repeated_for_the_shape_of_its_output():
    """The same code would give the same shape."""
    story = one()
    run = story.submit()

    story.fail(story.lease("a"), FailureKind.INVALID_OUTPUT)

    assert run.failure == "INVALID_OUTPUT"


def test_retry_on_narrows_what_is_retried():
    """A kind that is not listed fails at once; a lost worker is always worth another attempt."""
    story = Story(chain(node("a", retry=RetryPlan(retry_on=("TOOL_ERROR",)))))
    run = story.submit()

    story.fail(story.lease("a"), FailureKind.WORKER_LOST)
    story.pass_time(1_000_000)
    story.fail(story.lease("a"), FailureKind.TIMEOUT)

    assert run.failure == "TIMEOUT"


def test_work_that_is_not_idempotent_is_not_retried():
    """An error that it reported is final, even one that could pass."""
    story = mails()
    run = story.submit()

    story.fail(story.lease("a"), FailureKind.TOOL_ERROR)

    assert run.failure == "TOOL_ERROR"


def test_work_that_certainly_did_not_begin_is_retried():
    """Whatever it is: refused before the call went out."""
    story = mails()
    story.submit()

    story.fail(story.lease("a"), FailureKind.TOOL_UNAVAILABLE, started=False)
    story.pass_time(1_000_000)

    assert story.lease("a").attempt == 2


def test_a_poison_step_is_dead_lettered():
    """One that kills every worker it meets ends after its retries, marked."""
    story = one()
    run = story.submit()
    for number in range(4):
        story.attach(f"w{number}")
        assert "a" in story.leases(f"w{number}")
        story.lose(f"w{number}")
        story.pass_time(3_000_000)

    assert (run.status, run.failure, run.dead_lettered) == ("failed", "WORKER_LOST", True)


# --- unknown outcomes ------------------------------------------------------------------------------


def unknown(kind: FailureKind = FailureKind.TIMEOUT, **fields: Any) -> tuple[Story, Lease]:
    """A mail whose end nobody saw."""
    story = mails(**fields)
    story.submit()
    lease = story.lease("a")
    story.fail(lease, kind)
    return story, lease


@pytest.mark.parametrize("kind", UNSEEN)
def test_an_unseen_end_of_a_mail_waits_for_a_person(kind: FailureKind):
    """It is not repeated; the question says what was tried and what to answer."""
    story, _ = unknown(kind)

    name, wait = story.wait()
    assert (name, wait.reason) == ("a", "outcome_unknown")
    assert "attempt 1" in wait.message and "did_not_happen" in wait.message
    story.pass_time(3_600_000_000)
    assert story.leases() == {}


def test_a_lost_worker_asks_about_its_mail_and_retries_the_rest():
    """Each attempt that it held is decided by itself."""
    story = Story(graph([node("a"), mail("b"), node("c")], [edge("a", "b"), edge("a", "c")]))
    story.submit()
    story.run_to_end("a")
    story.leases("function-1")

    story.lose("function-1")

    assert story.wait()[0] == "b"
    story.attach("function-2")
    story.pass_time(30_000_000)
    assert story.lease("c").attempt == 2


def test_happened_goes_on_with_the_answers_outputs():
    """The step has succeeded, resolved by a human; edges read facts of the answer."""
    story = Story(graph([mail("a"), node("b")], [edge("a", "b", when="a")]))
    run = story.submit()
    story.fail(story.lease("a"), FailureKind.TIMEOUT)

    story.resolve("happened", a="sent")
    story.run_to_end("b")

    assert (run.status, story.memory()["a"]) == ("succeeded", "sent")


def test_did_not_happen_runs_the_step_again():
    """At once, as the next attempt."""
    story, _ = unknown()

    story.resolve("did_not_happen")

    assert story.lease("a").attempt == 2


def test_abort_fails_the_node():
    """With OUTCOME_UNKNOWN."""
    story, _ = unknown()

    story.resolve("abort")

    assert story.engine.runs["r"].failure == "OUTCOME_UNKNOWN"


def test_nobody_answers():
    """The question expires, and the node fails with OUTCOME_UNKNOWN."""
    story, _ = unknown()

    story.pass_time(72 * 3_600_000_000)

    assert story.engine.runs["r"].failure == "OUTCOME_UNKNOWN"


def test_a_late_outcome_answers_the_open_question():
    """The mail went out after all: nobody need be asked, and it is not sent again."""
    story, lease = unknown()

    story.succeed(lease, a="sent")

    assert story.engine.runs["r"].status == "succeeded"
    assert story.events()[-4][2].decision == "late"


def test_a_late_definite_failure_answers_it_too():
    """It certainly failed: the node fails with what it said."""
    story, lease = unknown()

    story.fail(lease, FailureKind.TOOL_ERROR)

    assert story.engine.runs["r"].failure == "TOOL_ERROR"


def test_the_same_unseen_end_twice_asks_once():
    """A repeated report of a timeout is no news."""
    story, lease = unknown()
    before = len(story.journal)

    story.fail(lease, FailureKind.TIMEOUT)

    assert len(story.journal) == before


@pytest.mark.parametrize("decision", ["happened", "did_not_happen"])
@pytest.mark.parametrize("failed", [True, False])
def test_a_late_outcome_that_contradicts_the_human_is_an_alert(decision: str, failed: bool):
    """Once; one that agrees is none."""
    story, lease = unknown()
    story.resolve(decision)

    for _ in range(2):
        story.fail(lease, FailureKind.TOOL_ERROR) if failed else story.succeed(lease)

    late = [event for _, _, event, _ in story.events() if type(event).__name__ == "LateOutcome"]
    assert [event.contradicts for event in late] == [failed is (decision == "happened")]


# --- leases that come back, outcomes that come late -------------------------------------------------


def test_a_lease_that_never_arrived_is_the_same_attempt_again():
    """Even of work that must not run twice: it did not begin."""
    story = mails()
    run = story.submit()
    lease = story.lease("a")

    story.engine.return_lease(lease.key, story.now)
    story.check()

    assert story.lease("a").attempt == 1
    assert run.attempts == 1


def test_a_late_result_of_an_earlier_attempt_changes_nothing():
    """A zombie worker's answer must not complete the retried node."""
    story = one()
    run = story.submit()
    zombie = story.lease("a")
    story.lose("function-1")
    story.attach("function-2")
    story.pass_time(3_000_000)
    story.lease("a")

    story.succeed(zombie, a="late")

    assert not run.terminal
    assert "a" not in story.memory()


def test_a_repeated_outcome_changes_nothing():
    """Not even the cost: a worker repeats what it does not know to be durable."""
    story = Story(chain(node("a"), node("b")))
    run = story.submit()
    lease = story.lease("a")
    story.succeed(lease, cost_nanousd=5)

    story.succeed(lease, cost_nanousd=5)

    assert (run.spent_nanousd, run.serial) == (5, 2)


def test_cancel_leaves_orphans_that_hold_slot_and_reservation():
    """Until their worker reports; what they cost is charged though the run has ended."""
    story = Story(chain(node("a", cost_nanousd=50)), slots=1)
    run = story.submit(budget_nanousd=100)
    lease = story.lease("a")
    story.tell_cancel()
    assert (run.status, run.reserved_nanousd) == ("cancelled", 50)
    assert story.engine.fleet.workers["function-1"].room == 0

    story.succeed(lease, cost_nanousd=20)

    assert (run.reserved_nanousd, run.spent_nanousd, run.status) == (0, 20, "cancelled")
    assert story.engine.fleet.workers["function-1"].room == 1


def test_an_orphans_lease_that_never_arrived_costs_nothing():
    """It releases slot and reservation."""
    story = Story(chain(node("a", cost_nanousd=50)))
    run = story.submit(budget_nanousd=100)
    lease = story.lease("a")
    story.tell_cancel()

    story.engine.return_lease(lease.key, story.now)
    story.check()

    assert (run.reserved_nanousd, run.spent_nanousd) == (0, 0)


def test_a_failing_branch_leaves_the_other_one_running():
    """Until the run fails: then what runs is an orphan, and no outcome of it brings the run back."""
    story = Story(graph([node("a"), node("b"), node("c")], [edge("a", "b"), edge("a", "c")]))
    run = story.submit()
    story.run_to_end("a")
    leases = story.leases()

    story.fail(leases["b"])
    story.succeed(leases["c"])

    assert run.status == "failed"
    assert not run.orphans


# --- money -----------------------------------------------------------------------------------------


def test_a_step_reserves_its_worst_case_and_settles_on_the_actual():
    """Reserved while it runs, spent when it has."""
    story = Story(chain(node("a", cost_nanousd=50)))
    run = story.submit(budget_nanousd=100)

    lease = story.lease("a")
    assert (run.reserved_nanousd, run.spent_nanousd) == (50, 0)
    story.succeed(lease, cost_nanousd=30)

    assert (run.reserved_nanousd, run.spent_nanousd) == (0, 30)


def test_a_step_waits_while_others_may_release_what_it_needs():
    """And is admitted when they have."""
    nodes = [node("a"), node("b", cost_nanousd=60), node("c", cost_nanousd=60)]
    story = Story(graph(nodes, [edge("a", "b"), edge("a", "c")]))
    run = story.submit(budget_nanousd=100)
    story.run_to_end("a")

    first = story.lease("b")
    assert story.leases() == {}
    story.succeed(first, cost_nanousd=40)
    story.succeed(story.lease("c"), cost_nanousd=60)

    assert (run.status, run.spent_nanousd) == ("succeeded", 100)


def test_a_step_that_no_release_can_pay_for_fails_its_node():
    """BUDGET_EXCEEDED, with the amounts; nothing of it was started."""
    story = Story(chain(node("a", cost_nanousd=60), node("b", cost_nanousd=60)))
    run = story.submit(budget_nanousd=100)
    story.succeed(story.lease("a"), cost_nanousd=60)

    assert story.leases() == {}

    assert (run.status, run.failure, run.failed_at) == ("failed", "BUDGET_EXCEEDED", "b")
    assert "0.00000006 USD" in run.message and run.spent_nanousd == 60


def test_a_lease_does_not_leave_when_its_run_fails_in_the_same_decision():
    """The other branch's step could never be paid for; what was just leased did not begin."""
    nodes = [node("a"), mail("b", cost_nanousd=10), node("c", cost_nanousd=200)]
    story = Story(graph(nodes, [edge("a", "b"), edge("a", "c")]))
    run = story.submit(budget_nanousd=100)
    story.succeed(story.lease("a"))

    assert story.leases() == {}

    assert (run.failure, run.orphans, run.reserved_nanousd) == ("BUDGET_EXCEEDED", {}, 0)


def test_a_budget_failure_takes_the_on_failure_edge():
    """A graph may go on cheaper."""
    nodes = [node("a", cost_nanousd=200), node("b")]
    story = Story(graph(nodes, [edge("a", "b", "on_failure")]))
    run = story.submit(budget_nanousd=100)

    story.run_to_end("b")

    assert run.status == "succeeded"


def test_an_llm_step_reserves_its_prompt_and_its_longest_answer():
    """Bytes count as tokens, those of an input as often as the prompts show it; amounts are rounded up."""
    model = ModelPlan("m", 10, 100, 1_000_000, 5_000_000, mentions={"x": 3})
    story = Story(chain(llm("a", model=model, input_keys=("x",))))
    run = story.submit(budget_nanousd=10_000, input={"x": "abc"})

    story.lease("a")

    assert run.reserved_nanousd == 100 + 2 + 3 * len('"abc"') + 5 * 10


def test_an_attempt_whose_end_nobody_saw_costs_its_reservation():
    """It was probably billed: retries cannot pass the ceiling on lost calls."""
    story = one(cost_nanousd=40)
    run = story.submit(budget_nanousd=100)
    for number in (1, 2):
        story.fail(story.lease("a"), FailureKind.TIMEOUT)
        assert run.spent_nanousd == 40 * number
        story.pass_time(3_000_000)

    assert story.leases() == {}

    assert run.failure == "BUDGET_EXCEEDED"


def test_a_late_outcome_corrects_what_was_charged_for_its_loss():
    """Once, to the actual cost; a repeat of it changes nothing."""
    story = one(cost_nanousd=40)
    run = story.submit(budget_nanousd=100)
    zombie = story.lease("a")
    story.lose("function-1")
    assert run.spent_nanousd == 40

    for _ in range(2):
        story.succeed(zombie, cost_nanousd=15)

    assert run.spent_nanousd == 15


def test_an_orphan_whose_worker_dies_costs_its_reservation():
    """And a late word from it is a correction."""
    story = one(cost_nanousd=40)
    run = story.submit(budget_nanousd=100)
    lease = story.lease("a")
    story.tell_cancel()
    story.lose("function-1")
    assert (run.spent_nanousd, run.reserved_nanousd) == (40, 0)

    story.succeed(lease, cost_nanousd=10)

    assert run.spent_nanousd == 10


def test_a_human_who_says_it_happened_leaves_the_charge():
    """The actual cost is still unknown."""
    story, lease = unknown(cost_nanousd=40)
    story.resolve("happened")
    assert story.engine.runs["r"].spent_nanousd == 40

    story.succeed(lease, cost_nanousd=25)

    assert story.engine.runs["r"].spent_nanousd == 25


# --- the fleet -------------------------------------------------------------------------------------


def test_leases_never_pass_a_workers_slots():
    """Whoever has room gets the rest."""
    story = Story(chain(node("a")), slots=2)
    for number in range(5):
        story.submit(run=f"r{number}")

    assert len(story.engine.dispatch.admit(story.engine.fleet.workers["function-1"], story.now, 100)) == 2
    story.attach("other", slots=2)
    assert len(story.engine.dispatch.admit(story.engine.fleet.workers["other"], story.now, 100)) == 2


def test_a_step_that_waits_for_money_does_not_hold_back_other_runs():
    """It keeps its place in the queue, and those behind it go ahead."""
    nodes = [node("a"), node("b", cost_nanousd=60), node("c", cost_nanousd=60)]
    story = Story(graph(nodes, [edge("a", "b"), edge("a", "c")]))
    story.submit(budget_nanousd=100)
    story.run_to_end("a")
    story.lease("b")
    story.submit(run="other")

    assert list(story.leases()) == ["a"]
    assert story.engine.runs["r"].visits[3].steps[0].status is StepStatus.READY


def test_an_outcome_of_an_unknown_run_is_dropped():
    """Nothing is recorded."""
    story = one()
    lease = Lease("gone", 1, 0, 1, 1, "g", 0, "function", 1, {})  # type: ignore[arg-type]
    before = len(story.journal)

    story.report(lease, StepContent())

    assert len(story.journal) == before
