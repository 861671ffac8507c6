"""Runs that are older than the history is kept: what cannot be derived from it any more, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hive_ray.state.history import newest_manifest
from hive_ray.state.memory_store import forget_memory
from hive_ray.state.retention import Retention, retain
from tests.control.shell_test import GRAPH, submit
from tests.http.in_process import Face
from tests.state.compaction_test import compact_all, covered, snapshot
from tests.state.retention_test import DAY_US

pytestmark = pytest.mark.anyio


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    """A run that failed at its deadline, a day after it began; only the day of its beginning is deleted."""
    face = Face("retained", [GRAPH])
    store, driver = face.backend.store, face.driver
    driver.command(submit("r"))
    driver.pass_time(DAY_US // 2)
    snapshot(store, driver)
    driver.pass_time(DAY_US // 2)
    for _ in range(2):
        driver.command(submit(f"s{driver.engine.seq}"))
        snapshot(store, driver)
    compact_all(store, covered(driver))
    now_us = driver.clock.wall_us + 30 * DAY_US - DAY_US // 2
    retain(store, newest_manifest(store, 0), Retention(30), [], 1, now_us)
    async with face.http:
        yield face
    forget_memory("retained")


@pytest.mark.parametrize("asked", ["fork", "resume", "replay"])
async def test_what_rests_on_deleted_events_is_refused(face: Face, asked: str):
    """Not as if the state were damaged: the setting that had them deleted is named."""
    if asked == "replay":
        answer = await face.http.get("/v1/runs/r/replay")
    else:
        answer = await face.http.post(f"/v1/runs/r/{asked}", json={"from": "a"} if asked == "fork" else {})

    assert answer.status_code == 409, answer.text
    assert "retention" in answer.json()["detail"]


async def test_what_is_left_of_its_events_is_told(face: Face):
    """From the day that is kept."""
    answer = await face.http.get("/v1/runs/r/events")

    assert [event["kind"] for event in answer.json()["events"]] == ["RunFailed"]
