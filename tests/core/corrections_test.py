"""Corrections change what was charged: once, by name, of live and ended runs, in all who paid."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.core.commands import CorrectCost, Refused
from hive_ray.core.messages import StepContent
from hive_ray.core.run import Run
from tests.core.graphs import chain, graph, mapping, node
from tests.core.story import Story


def one(cost_nanousd: int = 40) -> Story:
    """One step, charged that."""
    story = Story(chain(node("a", cost_nanousd=cost_nanousd)))
    story.submit(budget_nanousd=1_000)
    story.succeed(story.lease("a"), cost_nanousd=cost_nanousd)
    return story


def correct(story: Story, nanousd: int, id: str = "c1", run: str = "r", **fields: Any) -> Run | Refused:
    message = fields.pop("message", "the bill says so")
    return story.tell(CorrectCost(run, id, nanousd, StepContent(message=message), **fields))


def spent(story: Story, run: str = "r") -> int:
    return story.engine.runs[run].spent_nanousd


def test_a_correction_changes_the_sum_of_an_ended_run():
    """Upwards and downwards; nothing else happens to the run."""
    story = one(40)
    before = story.engine.runs["r"].status

    correct(story, -15, serial=1, attempt=1)
    correct(story, 5, "c2")

    assert spent(story) == 30
    assert story.engine.runs["r"].status == before == "succeeded"
    assert story.kinds()[-2:] == ["CostCorrected", "CostCorrected"]


def test_the_same_correction_again_changes_nothing():
    """A retried request is answered as at first."""
    story = one(40)

    first = correct(story, -15, serial=1, attempt=1)
    again = correct(story, -15, serial=1, attempt=1)

    assert isinstance(first, Run) and first is again
    assert spent(story) == 25
    assert story.kinds().count("CostCorrected") == 1


@pytest.mark.parametrize("other", [{"nanousd": -14, "serial": 1, "attempt": 1}, {"nanousd": -15}])
def test_another_correction_under_the_same_id_is_refused(other: dict[str, Any]):
    """Another amount, or of another attempt."""
    story = one(40)
    correct(story, -15, serial=1, attempt=1)

    refused = correct(story, **other)

    assert isinstance(refused, Refused) and refused.problem == "conflict"
    assert spent(story) == 25


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"nanousd": -41}, "below 0"),
        ({"nanousd": 0}, "anything but 0"),
        ({"nanousd": 10**15 + 1}, "million"),
        ({"nanousd": 1, "id": ""}, "1 to 200 characters"),
        ({"nanousd": 1, "serial": 2, "attempt": 1}, "none of that number"),
        ({"nanousd": 1, "serial": 1}, "none of that number"),
    ],
)
def test_what_cannot_be_right_is_refused(fields: dict[str, Any], said: str):
    """And changes nothing."""
    story = one(40)

    refused = correct(story, **fields)

    assert isinstance(refused, Refused)
    assert refused.problem == "invalid" and said in refused.message
    assert spent(story) == 40
    assert "CostCorrected" not in story.kinds()


def test_a_run_that_is_not_there_is_not_corrected():
    refused = correct(one(), 5, run="nobody")

    assert isinstance(refused, Refused) and refused.problem == "not_found"


def test_what_a_child_is_corrected_by_its_parents_pay():
    """The sum of a run is that of its attempts and of its children's."""
    body = chain(node("x", cost_nanousd=30), id="body")
    story = Story(graph([mapping("m", "list", body)], [], subgraphs=(body,)))
    story.submit(input={"list": [1]}, budget_nanousd=1_000)
    (lease,) = story.leases().values()
    story.succeed(lease, cost_nanousd=30, x=1)

    correct(story, -10, run=lease.run, serial=1, attempt=1)

    assert spent(story, lease.run) == 20
    assert spent(story) == 20


def test_what_a_parent_is_corrected_by_is_not_taken_off_again():
    """Both claims together would give a run money that nobody had spent."""
    body = chain(node("x", cost_nanousd=30), id="body")
    story = Story(graph([mapping("m", "list", body)], [], subgraphs=(body,)))
    story.submit(input={"list": [1]}, budget_nanousd=1_000)
    (lease,) = story.leases().values()
    story.succeed(lease, cost_nanousd=30, x=1)
    correct(story, -20)

    refused = correct(story, -11, "c2", run=lease.run, serial=1, attempt=1)

    assert isinstance(refused, Refused) and "run r was charged less" in refused.message
    assert (spent(story), spent(story, lease.run)) == (10, 30)


def test_a_sum_below_0_makes_no_room_beyond_the_budget():
    """A whole run was corrected, and then the attempt that was meant told its cost itself."""
    story = Story(chain(node("a", cost_nanousd=40), node("b", cost_nanousd=41)))
    story.submit(budget_nanousd=40)
    lease = story.lease("a")
    story.lose("function-1")
    story.attach("function-2")
    correct(story, -40)
    story.succeed(lease, cost_nanousd=10)
    assert spent(story) == -30

    story.pass_time(60_000_000)
    story.run_to_end("a")

    assert story.leases() == {}
    assert story.engine.runs["r"].failure == "BUDGET_EXCEEDED"


def test_a_correction_makes_room_in_a_budget():
    """What is given back can be spent again."""
    story = Story(chain(node("a", cost_nanousd=60), node("b", cost_nanousd=60)))
    story.submit(budget_nanousd=100)
    story.succeed(story.lease("a"), cost_nanousd=60)

    correct(story, -30, serial=1, attempt=1)

    assert list(story.leases()) == ["b"]


def test_a_late_outcome_replaces_a_corrected_guess():
    """An unseen attempt was charged its reservation, then corrected; its own word is the last one."""
    story = Story(chain(node("a", cost_nanousd=40)))
    story.submit(budget_nanousd=1_000)
    lease = story.lease("a")
    story.lose("function-1")
    assert spent(story) == 40

    correct(story, -15, serial=1, attempt=1)
    assert spent(story) == 25
    story.succeed(lease, cost_nanousd=10)

    assert spent(story) == 10


def test_replaying_corrections_gives_the_same_sum():
    """They are events like all others."""
    story = one(40)
    correct(story, -15, serial=1, attempt=1)
    correct(story, 7, "c2")

    replayed = story.replayed().runs["r"]

    assert replayed.spent_nanousd == 32
    assert replayed.corrections == story.engine.runs["r"].corrections
