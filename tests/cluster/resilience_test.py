"""What a real cluster makes of a CRM that goes away, an LLM that turns slow, and a storm of 429."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.resilience import BREAKER, kind, named, outage, slowness, storm, twice
from hive_ray.state.records import Recorded

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def under_way_at_once(events: Iterable[Recorded], tool: str) -> int:
    """Most attempts of a tool that began between the opening and the closing of its breaker, at one time."""
    is_open, most = False, 0
    live: set[Any] = set()
    calls: set[Any] = set()
    for recorded in events:
        event: Any = recorded.event
        match kind(recorded):
            case "BreakerOpened":
                is_open, live = True, set()
            case "BreakerClosed":
                is_open = False
            case "StepStarted" if is_open and (event.run, event.serial, event.call) in calls:
                live.add((event.run, event.serial, event.call, event.attempt))
                most = max(most, len(live))
            case "StepSucceeded" | "StepFailed":
                live.discard((event.run, event.serial, event.call, event.attempt))
            case "NodeEntered" if event.name == tool:
                calls.add((event.run, event.serial, 0))
            case "StepQueued" if event.name == tool:
                calls.add((event.run, event.serial, event.call))
            case _:
                pass
    return most


async def test_a_crm_goes_away_and_comes_back(ray_cluster: None, tmp_path: Path):
    """Its breaker opens, runs ask a person, one probe at a time; the last one closes it. Nothing that is not
    idempotent happens twice, and every run ends well once the person lets it try again."""
    seen = await outage(tmp_path, away_s=4, open_s=1)

    moves = [kind(recorded) for recorded in named(seen.events, *BREAKER)]
    assert moves[0] == "BreakerOpened" and moves[-1] == "BreakerClosed"
    assert set(pairwise(moves)) == {
        ("BreakerOpened", "BreakerHalfOpened"),
        ("BreakerHalfOpened", "BreakerOpened"),
        ("BreakerHalfOpened", "BreakerClosed"),
    }
    assert under_way_at_once(seen.events, "crm_lookup") == 1
    taken: list[Any] = [recorded.event for recorded in named(seen.events, "FallbackTaken")]
    assert seen.asked == len(taken) > 0
    assert {(event.fallback, event.kind) for event in taken} == {("human", "TOOL_UNAVAILABLE")}
    assert set(seen.statuses) == {"succeeded"}
    assert twice(seen.notes) == 0 and sum(seen.notes.values()) == seen.statuses["succeeded"]


async def test_a_model_turns_slow_and_recovers(ray_cluster: None, tmp_path: Path):
    """Another model is asked meanwhile; trials find out that the first one is well again."""
    seen = await slowness(tmp_path, 3, before_s=4, slow_s=15, after_s=12)

    moves = named(seen.events, "ModelDegraded", "ModelRestored")
    assert [kind(recorded) for recorded in moves] == ["ModelDegraded", "ModelRestored"]
    down, up = (recorded.time_us for recorded in moves)
    assert seen.slow_us < down < seen.well_us < up
    between: list[Any] = [r.event for r in named(seen.events, "StepSucceeded") if down < r.time_us < up]
    assert sum(event.name == "small" for event in between) > len(between) / 2


async def test_a_storm_of_429_is_answered_with_as_many_attempts_as_were_allowed(
    ray_cluster: None, tmp_path: Path
):
    """Three for each of twenty runs, and no more requests than attempts: the SDK does not try by itself."""
    seen = await storm(tmp_path, runs=20, retry_after_s=1)

    assert seen.failures == {"RATE_LIMITED": 20}
    assert len(named(seen.events, "StepStarted")) == seen.requests == 60
