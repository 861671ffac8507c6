"""The controller dies again and again while work is under way; nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from benchmarks.cluster import ray_session, started
from hive_ray.config import Settings
from hive_ray.state.access import open_state
from hive_ray.state.segments import segment_name
from hive_ray.state.store import Store
from tests.chaos.journal_reader import Attempt, owner_at, read_history, track
from tests.chaos.runs import all_ended, begin, effects_chain, function_pool
from tests.servers.effects import CountingServer

RUNS = 200
STEPS = 24
KILLS = 50
KILLS_IN_RECOVERY = 12
SLOTS = 80
UNDER_WAY = 50
PATIENCE_S = 420.0


def settings_in(folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "state": {"url": folder.as_uri()},
            "pools": function_pool(SLOTS // 2, 2),
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


async def scenario(settings: Settings, seed: int) -> Killer:
    """Submit all runs, kill, and see every run to its end."""
    async with started(settings) as running:
        runs = await begin(running, effects_chain(STEPS), RUNS)
        killer = Killer(open_state(settings), seed)
        await killer.run()
        views = await all_ended(running, runs, PATIENCE_S)
        assert {view["status"] for view in views} == {"succeeded"}, views[0]["message"]
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
