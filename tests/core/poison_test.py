"""A step that kills its workers is found out; those that merely ran beside it lose nothing."""

from __future__ import annotations

import pytest

from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Outcome, encode
from hive_ray.core.run import Run
from hive_ray.graph.compiled import RetryPlan
from tests.core.graphs import chain, node
from tests.core.story import Story, content

SLOTS = 8
POISON = chain(node("poison"), id="p")
FINE = chain(node("fine", retry=RetryPlan(max_retries=0)), id="f")
"""Its step has no retries: one loss that counted would be its end."""


def crowd(innocents: int) -> Story:
    story = Story(POISON, FINE, slots=SLOTS)
    for number in range(innocents):
        story.submit(FINE, f"f{number}")
    story.submit(POISON, "p")
    return story


def functions(story: Story) -> list[str]:
    return [name for name in story.engine.fleet.workers if name.startswith("function")]


def die_or_finish(story: Story, worker: str, deaths: int) -> int:
    """A worker that has met the poison dies with all that it holds; any other finishes what it holds."""
    held = list(story.engine.fleet.workers[worker].leases)
    if any(ref[0] == "p" for ref in held):
        story.lose(worker)
        story.attach(f"function-{deaths + 2}", slots=SLOTS)
        return deaths + 1
    for ref in held:
        story.engine.report(Outcome(*ref, "", encode(content(fine="done"))), story.now)
        story.check()
    return deaths


def ended(runs: dict[str, Run]) -> bool:
    return all(run.terminal for run in runs.values())


@pytest.mark.parametrize("innocents", [1, 7, 40])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_poison_is_dead_lettered_and_its_neighbours_succeed(innocents: int, workers: int):
    """Each death in company halves the next company: four deaths alone, and few before these."""
    story = crowd(innocents)
    for number in range(1, workers):
        story.attach(f"function-x{number}", slots=SLOTS)
    deaths = rounds = 0
    while not ended(story.engine.runs):
        rounds += 1
        assert rounds < 100, "it hangs"
        story.leases()
        for worker in functions(story):
            deaths = die_or_finish(story, worker, deaths)
        story.pass_time(60_000_000)
    runs = story.engine.runs

    assert runs["p"].failure == "WORKER_LOST" and runs["p"].dead_lettered
    assert {runs[f"f{number}"].status for number in range(innocents)} == {"succeeded"}
    assert 4 <= deaths <= 4 + SLOTS.bit_length()


def test_a_worker_that_dies_under_one_step_alone_counts_against_it():
    """As often as its retries say; then the run is dead-lettered."""
    story = crowd(0)
    for number in range(1, 5):
        story.lease("poison")
        story.lose(f"function-{number}")
        story.attach(f"function-{number + 1}", slots=SLOTS)
        story.pass_time(60_000_000)

    assert story.engine.runs["p"].dead_lettered


def test_losses_do_not_use_up_the_retries_of_other_failures():
    """A step that shared a worker with a poison may still fail three times by itself."""
    story = Story(chain(node("a")), FINE)
    story.submit()
    story.submit(FINE, "f")
    story.leases()
    story.lose("function-1")
    story.attach("function-2")
    for _ in range(3):
        story.pass_time(60_000_000)
        story.fail(story.leases()["a"], FailureKind.TOOL_ERROR)
    story.pass_time(60_000_000)

    story.succeed(story.leases()["a"])

    assert story.engine.runs["r"].status == "succeeded"


def test_a_suspect_is_not_starved_by_a_stream_of_others():
    """The emptiest worker takes nothing more until the suspect can run alone there."""
    story = Story(POISON, FINE, slots=2)
    for name in ("s0", "s1"):
        story.submit(FINE, name)
    story.leases()
    story.lose("function-1")
    for name in ("f0", "f1"):
        story.submit(FINE, name)
    story.attach("function-2", slots=2)
    first, second = story.engine.dispatch.admit(story.engine.fleet.workers["function-2"], story.now, 9)
    story.pass_time(60_000_000)
    for number in range(2, 9):
        story.submit(FINE, f"f{number}")

    story.succeed(first)
    assert not story.leases()
    story.succeed(second)
    assert story.lease("fine").run == "s0"
