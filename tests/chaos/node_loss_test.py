"""A whole node is lost at once: its raylet, its workers, and the controller that ran there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster

from benchmarks.cluster import Cluster, until_ready
from hive_ray.config import Settings
from hive_ray.control.actor import ControllerActor
from hive_ray.control.queries import GetRun
from hive_ray.core.commands import Resolve
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from hive_ray.names import NAMESPACE, controller_name
from hive_ray.state.access import open_state
from tests.chaos.journal_reader import read_history
from tests.chaos.runs import all_ended, answered, begin, effects_chain, function_pool
from tests.cluster.installation import eventually
from tests.servers.effects import CountingServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

RUNS = 8
STEPS = 2
PLACE = "place"
"""A resource that the controller and its workers need; the head does not have it."""
FAST = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """A head for the driver, and one node after another for everything else."""

    def __init__(self) -> None:
        self._cluster = RayCluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": FAST}
        )
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False)
        self._node: Any = None

    def add(self) -> None:
        self._node = self._cluster.add_node(num_cpus=2, resources={PLACE: 10})

    def lose(self) -> None:
        """End every process of the node, its raylet first, without a word to anybody."""
        self._cluster.remove_node(self._node, allow_graceful=False)

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture
def nodes(counting: CountingServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("EFFECTS_URL", counting.url)
    nodes = Nodes()
    nodes.add()
    yield nodes
    nodes.close()


@pytest.fixture
async def running(nodes: Nodes, tmp_path: Path) -> AsyncIterator[Cluster]:
    pools = {name: pool | {"resources": {PLACE: 1}} for name, pool in function_pool(8, 2).items()}
    settings = Settings.model_validate(
        {
            "state": {"url": tmp_path.as_uri(), "shared": True},
            "pools": pools,
            "tools": {"modules": ["tests.chaos.effects"]},
            "observe": {"log_level": "ERROR"},
        }
    )
    controller: Any = ControllerActor.options(  # pyright: ignore[reportAttributeAccessIssue]
        name=controller_name(0),
        namespace=NAMESPACE,
        max_concurrency=10_000,
        num_cpus=0,
        max_restarts=-1,
        resources={PLACE: 1},
    ).remote(0, settings.model_dump_json().encode(), "nodes", False)
    running = Cluster(settings, controller)
    await controller.start.remote()
    await until_ready(running)
    yield running


async def test_every_run_outlives_the_node_of_controller_and_workers(
    running: Cluster, nodes: Nodes, counting: CountingServer
):
    """On another node: what may be repeated is, a person is asked about any other step, none is doubled."""
    counting.hold()
    repeatable = await begin(running, effects_chain(STEPS, idempotent=True), RUNS)
    once = await begin(running, effects_chain(STEPS), RUNS)
    await eventually(lambda: under_way(counting, repeatable + once))
    nodes.lose()
    counting.release()
    nodes.add()
    for run in once:
        await answer_what_is_asked(running, counting, run)
    views = await all_ended(running, repeatable + once)
    history = read_history(open_state(running.settings))
    counts = {
        run: sorted(n for key, n in counting.counts().items() if key.startswith(f"{run}:")) for run in once
    }

    assert {view["status"] for view in views} == {"succeeded"}, [view["message"] for view in views]
    assert history.ends() == {"RunSucceeded": 2 * RUNS}
    assert len(history.epochs) == 2
    assert history.epochs[1].under_way > 0
    assert counts == dict.fromkeys(once, [1] * STEPS)


async def under_way(counting: CountingServer, runs: list[str]) -> bool:
    return {key.split(":")[0] for key in counting.counts()} >= set(runs)


def happened(counting: CountingServer, run: str, node: str) -> bool:
    """Workers outlive their raylet by a moment: some get as far as to be given the next step."""
    done = sum(key.startswith(f"{run}:") for key in counting.counts())
    return done > int(node.removeprefix("n"))


async def answer_what_is_asked(running: Cluster, counting: CountingServer, run: str) -> None:
    """Until the run has ended: workers that outlive their raylet may end a step, or be given another."""

    async def ended() -> bool:
        (view,) = await answered(running, GetRun(run))
        for wait in view["waits"]:
            assert wait["reason"] == "outcome_unknown"
            content = StepContent(outputs={"item": inline("x")})
            decision = "happened" if happened(counting, run, wait["node"]) else "did_not_happen"
            await answered(running, Resolve(run, wait["approval_id"], decision, content, "ann"))
        return view["status"] == "succeeded"

    await eventually(ended, 90)
