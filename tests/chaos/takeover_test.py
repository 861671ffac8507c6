"""Two controllers, each a process, recover one partition at once: one wins, the other ends itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayError

from benchmarks.cluster import Cluster, started
from hive_ray.config import Settings
from hive_ray.control.actor import ControllerActor
from hive_ray.names import NAMESPACE, controller_name
from hive_ray.state.access import open_state
from tests.chaos.journal_reader import read_history
from tests.chaos.runs import all_ended, begin, effects_chain, function_pool
from tests.cluster.installation import eventually
from tests.servers.effects import CountingServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

ROUNDS = 3 * int(os.environ.get("HIVE_CHAOS_ROUNDS", "1"))
RUNS = 10
STEPS = 2


@pytest.fixture
async def running(ray_cluster: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    settings = Settings.model_validate(
        {
            "state": {"url": tmp_path.as_uri()},
            "pools": function_pool(RUNS, 1),
            "tools": {"modules": ["tests.chaos.effects"]},
            "lease": {"heartbeat_s": 0.2, "stale_s": 20},
            "observe": {"log_level": "ERROR"},
        }
    )
    async with started(settings) as cluster:
        yield cluster


def rival(running: Cluster, number: int) -> Any:
    """A controller of a cluster of its own, told to take over; it has not begun yet."""
    name = f"rival-{number}-{time.time_ns()}"
    return ControllerActor.options(  # pyright: ignore[reportAttributeAccessIssue]
        name=name, namespace=NAMESPACE, max_concurrency=100, num_cpus=0, max_restarts=-1
    ).remote(0, running.settings.model_dump_json().encode(), name, True)


async def standing(actor: Any) -> str:
    """What a controller says of itself; ``dead`` when it has ended for good."""
    try:
        return (await Cluster.standing(Cluster(None, actor)))["standing"]  # pyright: ignore[reportArgumentType]
    except ActorDiedError:
        return "dead"
    except RayError:
        return "away"


async def one_is_left(rivals: list[Any]) -> bool:
    told = sorted([await standing(actor) for actor in rivals])
    return told[0] == "dead" and told[1].startswith("epoch")


async def test_of_two_controllers_that_recover_at_once_one_wins_and_the_other_ends(
    running: Cluster, counting: CountingServer
):
    """Whoever claims last goes on with every run; no effect is repeated, no segment is written behind it."""
    counting.hold()
    runs = await begin(running, effects_chain(STEPS), RUNS)
    await eventually(lambda: all_under_way(counting, runs))
    ray.kill(running.controller, no_restart=True)
    for number in range(ROUNDS):
        rivals = [rival(running, 2 * number), rival(running, 2 * number + 1)]
        await asyncio.gather(*(actor.start.remote() for actor in rivals))
        await eventually(lambda rivals=rivals: one_is_left(rivals), 90)
        for actor in rivals:
            ray.kill(actor, no_restart=True)
    running.controller = named(running)
    counting.release()
    views = await all_ended(running, runs)
    history = read_history(open_state(running.settings))
    counts = {key: count for key, count in counting.counts().items() if key.split(":")[0] in runs}

    assert {view["status"] for view in views} == {"succeeded"}, views[0]["message"]
    assert len(history.epochs) == 2 + 2 * ROUNDS
    assert [epoch.segments for epoch in history.epochs[1:-1]] == [0] * (2 * ROUNDS)
    assert history.ends() == {"RunSucceeded": RUNS}
    assert len(counts) == RUNS * STEPS
    assert set(counts.values()) == {1}


async def all_under_way(counting: CountingServer, runs: list[str]) -> bool:
    return {key.split(":")[0] for key in counting.counts()} >= set(runs)


def named(running: Cluster) -> Any:
    """A controller under the name at which the workers look for one."""
    return ControllerActor.options(  # pyright: ignore[reportAttributeAccessIssue]
        name=controller_name(0),
        namespace=NAMESPACE,
        max_concurrency=10_000,
        num_cpus=0,
        max_restarts=-1,
    ).remote(0, running.settings.model_dump_json().encode(), "last", True)
