"""The controller dies again and again while work is under way; nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from benchmarks.cluster import Cluster, ray_session, started
from hive_ray.config import Settings
from hive_ray.control.queries import GetRun, WatchRun
from hive_ray.core.commands import Submit
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, EdgePlan, NodeKind, NodePlan
from hive_ray.state.access import open_state
from hive_ray.state.segments import segment_name
from hive_ray.state.store import Store
from tests.chaos.journal_reader import Attempt, owner_at, read_history, track
from tests.servers.effects import CountingServer

RUNS = 200
STEPS = 24
KILLS = 50
KILLS_IN_RECOVERY = 12
SLOTS = 80
UNDER_WAY = 50
PATIENCE_S = 420.0


def effects_chain(steps: int) -> CompiledGraph:
    """A chain of steps that each have one effect outside and are not idempotent."""
    nodes = tuple(
        NodePlan(
            id=f"n{i}",
            index=i,
            kind=NodeKind.FUNCTION,
            pool="function",
            input_keys=("item",),
            output_keys=("item",),
            timeout_us=60_000_000,
            function="count_effect",
            out_edges=(i,) if i < steps - 1 else (),
            reached_from=(1 << i) - 1,
        )
        for i in range(steps)
    )
    edges = tuple(
        EdgePlan(id=f"e{i}", index=i, source=i, target=i + 1, condition=EdgeCondition.ON_SUCCESS)
        for i in range(steps - 1)
    )
    return CompiledGraph("effects", f"effects-{steps}", 0, nodes, edges, max_steps=steps)


def settings_in(folder: Path) -> Settings:
    idle = {"num_cpus": 0, "slots": 1}
    return Settings.model_validate(
        {
            "state": {"url": folder.as_uri()},
            "pools": {
                "function": {"slots": SLOTS // 2, "num_cpus": 0, "workers": {"min": 2, "max": 2}},
                "tool": idle,
                "llm": idle,
            },
            "tools": {"modules": ["tests.chaos.effects"]},
            "observe": {"log_level": "ERROR"},
        }
    )


class Killer:
    """Kills the controller when the journal reaches chosen numbers, some of them right after a claim."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store = store
        self._chance = random.Random(seed)
        self._number = 1
        self._under_way: set[Attempt] = set()
        self.kills = 0
        self.in_recovery = 0

    async def run(self) -> None:
        owner = owner_at(self._store, 1)
        assert owner is not None
        pid = owner.pid
        while self.kills < KILLS:
            await self._until(self._number + self._chance.randint(1, 5))
            while len(self._under_way) < UNDER_WAY:
                await self._until(self._number + 1)
            pid = await self._kill(pid)
            while self.in_recovery < KILLS_IN_RECOVERY and self._chance.random() < 0.35:
                self.in_recovery += 1
                pid = await self._kill(pid)

    async def _kill(self, pid: int) -> int:
        """Kill, then wait for the next claim; returns the new owner's pid."""
        os.kill(pid, signal.SIGKILL)
        self.kills += 1
        while True:
            await self._until(self._number + 1)
            owner = owner_at(self._store, self._number)
            if owner is not None and owner.pid != pid:
                return owner.pid

    async def _until(self, number: int) -> None:
        """Wait until the journal has reached a number."""
        deadline = time.monotonic() + 60
        while self._number < number:
            if self._exists(self._number + 1):
                self._number += 1
                track(self._under_way, self._store, self._number)
            else:
                assert time.monotonic() < deadline, f"the journal stays at {self._number}"
                await asyncio.sleep(0.001)

    def _exists(self, number: int) -> bool:
        folder = Path(self._store.url.removeprefix("file://"))
        return (folder / segment_name(0, number)).exists()


async def all_ended(running: Cluster, runs: list[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    for run in runs:
        status = ""
        while status not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, f"run {run} is still {status}"
            try:
                (view,) = await running.ask(WatchRun(run, until_end=True))
                status = view["status"]
            except Exception:  # noqa: BLE001 - the controller is down again
                await asyncio.sleep(0.05)


async def scenario(settings: Settings, seed: int) -> Killer:
    """Submit all runs, kill, and see every run to its end."""
    async with started(settings) as running:
        graph = effects_chain(STEPS)
        running.add_graph(graph)
        content = StepContent(outputs={"item": inline("x")})
        runs = [f"run-{i:04d}" for i in range(RUNS)]
        await running.ask(*(Submit(run, "chaos", "default", "chaos", graph.version, content) for run in runs))
        killer = Killer(open_state(settings), seed)
        await killer.run()
        await all_ended(running, runs)
        for run in runs:
            (view,) = await running.ask(GetRun(run))
            assert view["status"] == "succeeded", view["message"]
        return killer


@pytest.mark.timeout(600)
def test_two_hundred_runs_survive_fifty_controller_kills(
    tmp_path: Path, counting_http: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs end, no effect happens twice, and attempts whose worker survived stay attempt 1."""
    seed = int(os.environ.get("HIVE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    monkeypatch.setenv("EFFECTS_URL", counting_http.url)
    settings = settings_in(tmp_path)
    with ray_session():
        killer = asyncio.run(scenario(settings, seed))
    history = read_history(open_state(settings))
    before_kill = [epoch.under_way for epoch in history.epochs[1:]]
    empty = sum(epoch.segments == 0 for epoch in history.epochs[1:-1])
    print(f"kills {killer.kills}, under way at each {before_kill}, epochs without a segment {empty}")

    assert history.ends() == {"RunSucceeded": RUNS}
    assert len(history.epochs) >= KILLS + 1
    assert empty >= 10
    assert min(before_kill) >= 50
    assert set(history.attempts().values()) == {1}
    assert len(counting_http.counts()) == RUNS * STEPS
    assert set(counting_http.counts().values()) == {1}
