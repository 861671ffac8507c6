"""Breakers: what opens them, the one probe, and what of them outlives a crash."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.core.breakers import BreakerPlan, Counts, Window, attempt_name, attempt_of, opens
from hive_ray.core.commands import Cancel, ForceBreaker
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Lease
from hive_ray.graph.compiled import NodeKind, RetryPlan
from tests.core.graphs import agent, chain, graph, node, tool
from tests.core.story import Story, content

SECOND_US = 1_000_000
PLAN = BreakerPlan(10 * SECOND_US, min_calls=4, failure_percent=50, open_us=5 * SECOND_US)
SLOW = BreakerPlan(10 * SECOND_US, 4, 50, SECOND_US, 75, 5 * SECOND_US)
ONCE = RetryPlan(max_retries=0)


def crm(**fields: Any) -> Any:
    return node("a", NodeKind.TOOL, function="crm", retry=ONCE, **fields)


def story_of(plan: BreakerPlan = PLAN, slots: int = 16) -> Story:
    story = Story(chain(crm()), slots=slots)
    story.plan(breakers={"tool/*": plan})
    return story


def call(story: Story, run: str, failure: str = "TOOL_UNAVAILABLE", duration_us: int = 1000) -> None:
    """A run whose only step ends so."""
    story.submit(run=run)
    lease = story.lease("a")
    if failure:
        story.fail(lease, FailureKind(failure), duration_us=duration_us)
    else:
        story.report(lease, content(a=1), duration_us=duration_us)


def opened(story: Story) -> Story:
    for number in range(4):
        call(story, f"bad{number}")
    assert story.engine.fleet.breakers["tool/crm"].mode == "open"
    return story


def half_open(story: Story) -> Lease:
    """The probe, under way."""
    opened(story)
    story.now_us += 5 * SECOND_US
    story.submit(run="probe")
    return story.lease("a")


def told(story: Story) -> list[str]:
    return [type(event).__name__ for _, _, event, _ in story.events() if "Breaker" in type(event).__name__]


# --- what opens one --------------------------------------------------------------------------------


def test_it_opens_at_the_share_of_failures_and_not_before_the_least_number_of_calls():
    story = story_of()
    for number, failure in enumerate(["TOOL_UNAVAILABLE", "TIMEOUT", ""]):
        call(story, f"r{number}", failure)
    assert told(story) == []

    call(story, "r3", "")

    assert told(story) == ["BreakerOpened"]
    event = next(e for _, _, e, _ in story.events() if "Opened" in type(e).__name__)
    assert (event.name, event.reason) == ("tool/crm", "2 of 4 calls failed in 10 s")


@pytest.mark.parametrize(
    "kind", ["BAD_INPUT", "TOOL_ERROR", "WORKER_LOST", "RESOURCE_LIMIT", "POLICY_DENIED"]
)
def test_failures_that_do_not_speak_of_the_other_side_do_not_count(kind: str):
    """A wrong argument says nothing about the CRM, nor does a worker that died."""
    story = story_of()
    for number in range(8):
        call(story, f"r{number}", kind)

    assert told(story) == []


def test_other_failures_count_where_they_are_configured():
    story = story_of(BreakerPlan(10 * SECOND_US, 4, kinds=("TOOL_ERROR",)))
    for number in range(4):
        call(story, f"r{number}", "TOOL_ERROR")

    assert told(story) == ["BreakerOpened"]


def test_slow_calls_count_though_they_succeed():
    story = story_of(SLOW)
    for number, duration_us in enumerate([2 * SECOND_US, 2 * SECOND_US, 1000, 2 * SECOND_US]):
        call(story, f"r{number}", "", duration_us)

    assert story.engine.fleet.breakers["tool/crm"].reason == "3 of 4 calls took more than 1 s in 10 s"


def test_what_lies_behind_the_window_does_not_count():
    story = story_of()
    for number in range(3):
        call(story, f"r{number}")
    story.now_us += 11 * SECOND_US
    call(story, "late")

    assert told(story) == []


def test_a_window_slides_by_a_tenth():
    window = Window(1000)
    for at in (0, 100, 950):
        window.add(True, False, at)

    assert [window.counts(at).calls for at in (950, 1000, 1100, 1899, 1999, 9999)] == [3, 2, 1, 1, 0, 0]
    assert opens(PLAN, Counts(3, 3, 0)) == ""


def test_each_tool_and_model_has_its_own():
    story = Story(chain(crm()), graph([node("a", NodeKind.TOOL, function="mail", retry=ONCE)], id="h"))
    story.plan(breakers={"tool/*": PLAN})
    opened(story)
    story.submit(story.graphs[1], run="other")

    assert story.lease("a").name == "mail"


# --- open ------------------------------------------------------------------------------------------


def test_open_fails_fast_without_an_attempt():
    """The node fails with TOOL_UNAVAILABLE, and nothing was leased."""
    story = opened(story_of())
    run = story.submit(run="fast")

    assert story.leases() == {}
    assert (run.failure, run.attempts) == ("TOOL_UNAVAILABLE", 0)
    assert run.message == "the breaker of tool/crm is open: 4 of 4 calls failed in 10 s"


def test_an_agents_model_is_told():
    """A tool call of a loop fails; its LLM goes on."""
    story = Story(chain(crm()), chain(agent("talk", tool("crm")), id="h"))
    story.plan(breakers={"tool/*": PLAN})
    opened(story)
    story.submit(story.graphs[1], run="loop")
    story.turn(story.lease("talk"), "crm")

    said = story.lease("talk").conversation[-1]
    assert said.failed and b"TOOL_UNAVAILABLE: the breaker of tool/crm is open" in said.value.data


# --- the probe -------------------------------------------------------------------------------------


def test_exactly_one_probe_begins_when_the_time_is_over():
    """All others still fail fast, however many are ready at once."""
    story = opened(story_of())
    story.now_us += 5 * SECOND_US
    for number in range(10):
        story.submit(run=f"r{number}")

    assert len(story.leases()) == 1
    assert sum(run.failure == "TOOL_UNAVAILABLE" for run in story.engine.runs.values()) == 4 + 9


def test_a_probe_that_succeeds_closes_it():
    story = story_of()
    story.succeed(half_open(story))

    assert told(story) == ["BreakerOpened", "BreakerHalfOpened", "BreakerClosed"]
    call(story, "after", "")
    assert story.engine.runs["after"].status == "succeeded"


def test_after_it_closed_it_counts_anew():
    """What opened it is no reason to open it again."""
    story = story_of()
    story.succeed(half_open(story))
    for number in range(3):
        call(story, f"again{number}")

    assert told(story)[-1] == "BreakerClosed"


def test_a_probe_that_fails_opens_it_for_as_long_again():
    story = story_of()
    story.fail(half_open(story), FailureKind.TIMEOUT)
    story.submit(run="fast")

    assert story.leases() == {}
    assert story.engine.fleet.breakers["tool/crm"].reason == "the probe failed: TIMEOUT"
    story.now_us += 5 * SECOND_US
    story.submit(run="second")
    assert "a" in story.leases()


def test_a_slow_probe_opens_it_again():
    story = story_of(SLOW)
    story.report(half_open(story), content(a=1), duration_us=2 * SECOND_US)

    assert story.engine.fleet.breakers["tool/crm"].reason == "the probe took 2 s"


def _lost(story: Story, lease: Lease) -> None:
    story.lose("function-1")
    story.attach("function-2")


def _returned(story: Story, lease: Lease) -> None:
    story.engine.return_lease(lease.key, story.now)
    story.tell(Cancel("probe", "no longer needed"))


def _cancelled(story: Story, lease: Lease) -> None:
    story.tell(Cancel("probe", "no longer needed"))
    story.fail(lease, FailureKind.CANCELLED)


def _told_nothing(story: Story, lease: Lease) -> None:
    story.fail(lease, FailureKind.BAD_INPUT)


@pytest.mark.parametrize("ends", [_lost, _returned, _cancelled, _told_nothing])
def test_a_probe_that_ends_in_any_other_way_makes_room_for_the_next(ends: Any):
    """A lost worker, a returned lease, a cancelled run, an end that says nothing."""
    story = story_of()
    ends(story, half_open(story))
    story.engine.breaking.sweep(story.now)
    story.tell(Cancel("probe", "no longer needed"))

    assert story.engine.fleet.breakers["tool/crm"].probe == ""
    story.submit(run="next")
    assert story.lease("a").run == "next"


def test_an_orphaned_probe_still_decides():
    """Its run was cancelled; what it says when it comes back holds."""
    story = story_of()
    lease = half_open(story)
    story.tell(Cancel("probe", "no longer needed"))
    story.engine.breaking.sweep(story.now)
    story.submit(run="fast")
    assert story.leases() == {}, "the probe is still under way"

    story.succeed(lease)

    assert story.engine.fleet.breakers == {}


# --- what outlives a crash -------------------------------------------------------------------------


def test_an_open_breaker_survives_a_crash_for_the_rest_of_its_time():
    """Its state is in the journal; how long it has been open, the wall clock tells."""
    story = opened(story_of())
    story.submit(run="fast")
    story.engine = story.replayed()
    assert story.engine.fleet.breakers["tool/crm"].mode == "open"
    assert story.leases() == {}

    story.now_us += 5 * SECOND_US
    story.engine.dispatch.sweep()
    story.submit(run="later")

    assert story.lease("a").run == "later"


def test_a_probe_under_way_survives_a_crash():
    """No second one begins, and its end is the verdict."""
    story = story_of()
    lease = half_open(story)
    story.engine = story.replayed()
    story.submit(run="fast")
    assert story.leases() == {}

    story.succeed(lease)

    assert story.engine.fleet.breakers == {}


def test_a_jump_of_the_wall_clock_does_not_end_its_time():
    story = opened(story_of())
    breaker = story.engine.fleet.breakers["tool/crm"]
    now = story.now
    later = type(now)(now.wall_us + 3600 * SECOND_US, now.chance, now.mono_us + SECOND_US)

    assert story.engine.breaking.refusal("tool/crm", later) is not None
    assert breaker.mode == "open"


# --- people ----------------------------------------------------------------------------------------


def force(story: Story, mode: str, name: str = "tool/crm") -> Any:
    return story.steer(ForceBreaker(name, mode, content(), "ann"))


def test_a_breaker_is_held_open_until_it_may_decide_again():
    """No time ends it, and no probe begins."""
    story = story_of()
    assert force(story, "open") is None
    story.now_us += 3600 * SECOND_US
    run = story.submit(run="fast")
    assert story.leases() == {}
    assert run.message == "the breaker of tool/crm is held open by ann: an operator decided so"

    force(story, "auto")
    call(story, "after", "")

    assert told(story) == ["BreakerForced", "BreakerForced"]


def test_a_breaker_is_held_closed_whatever_fails():
    story = opened(story_of())
    force(story, "closed")
    for number in range(8):
        call(story, f"r{number}")

    assert told(story) == ["BreakerOpened", "BreakerForced"]


def test_the_same_force_again_changes_nothing():
    story = story_of()
    for mode in ("auto", "open", "open", "auto", "auto"):
        assert force(story, mode) is None

    assert told(story) == ["BreakerForced", "BreakerForced"]


@pytest.mark.parametrize(("mode", "name"), [("ajar", "tool/crm"), ("open", "team/a"), ("open", "tool/*")])
def test_what_cannot_be_forced_is_refused(mode: str, name: str):
    assert force(story_of(), mode, name).problem == "invalid"


def test_a_breaker_that_is_no_longer_configured_closes():
    story = opened(story_of())
    story.plan()
    story.submit(run="goes")
    assert "a" in story.leases()

    story.engine.breaking.sweep(story.now)

    assert story.engine.fleet.breakers == {}


def test_a_probes_name_is_that_of_its_attempt():
    attempt = ("0197_1-2:x", 3, 4, 5)

    assert attempt_of(attempt_name(attempt)) == attempt
