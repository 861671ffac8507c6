"""The controller on a real cluster: killed on S3, before a damaged journal, taken over in a standstill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayError

from hive_ray.control.queries import GetRun
from hive_ray.control.recovery import Recovered, may_take, recover
from hive_ray.errors import Unavailable
from hive_ray.graph.expressions import Evaluator
from hive_ray.state.access import content_codec, open_blobs, open_state
from hive_ray.state.journal import Journal
from hive_ray.state.owner import Owner, this_process
from hive_ray.state.segments import segment_folder, segment_name
from tests.chaos.journal_reader import owner_at, read_history
from tests.cluster.installation import Installation, eventually, installed, settings_for
from tests.cluster.journals import attempts
from tests.cluster.tool_files import trouble
from tests.servers.effects import CountingServer
from tests.servers.moto_s3 import MotoS3Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


def chain(length: int) -> dict[str, Any]:
    """Steps that each have one effect outside."""
    keys = {"input_keys": ["item"], "output_keys": ["item"]}
    names = [f"n{number}" for number in range(length)]
    return {
        "id": "chain",
        "nodes": [{"id": n, "node_type": "function", "function": "count", **keys} for n in names],
        "edges": [
            {"id": f"{a}-{b}", "source": a, "target": b, "condition": "on_success"}
            for a, b in pairwise(names)
        ],
    }


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    with CountingServer(tmp_path_factory.mktemp("counting")) as server:
        yield server


@pytest.fixture
async def running(ray_cluster: None, counter: CountingServer, tmp_path: Path) -> AsyncIterator[Installation]:
    """An installation of its own on files."""
    counter.release()
    async with installed(settings_for(tmp_path, [trouble(tmp_path, counter.url)])) as installation:
        yield installation


async def in_flight(running: Installation, counter: CountingServer, length: int) -> str:
    """A run whose first effect is out and not answered."""
    counter.hold()
    run = await running.submit(chain(length), {"item": "x"})
    await eventually(lambda: counted(counter, run, 1))
    return run


async def counted(counter: CountingServer, run: str, times: int) -> bool:
    return sum(key.startswith(f"{run}:") for key in counter.counts()) >= times


async def test_a_run_on_s3_outlives_its_controller(
    ray_cluster: None, counter: CountingServer, moto_s3: MotoS3Server, tmp_path: Path
):
    """The controller is SIGKILLed while a step is in flight: the run ends, each effect once, at once."""
    counter.release()
    options = moto_s3.options()
    for name in ("access_key_id", "secret_access_key"):
        (tmp_path / name).write_text(options[name])
        options[name] = f"file:{tmp_path / name}"
    state = {"url": f"{moto_s3.create_bucket('runs')}/hive", "options": options}
    async with installed(settings_for(tmp_path, [trouble(tmp_path, counter.url)], state=state)) as running:
        run = await in_flight(running, counter, 4)
        before = await running.standing()
        os.kill(before["pid"], signal.SIGKILL)
        counter.release()
        view = await running.ended(run)
        after = await running.standing()
        large = await running.submit(chain(1), {"item": "y" * 100_000})
        outputs = await running.outputs(await running.ended(large))

    assert view.status == "succeeded", view.message
    assert after["epoch"] == before["epoch"] + 1
    assert set(attempts(running.settings, run).values()) == {1}
    assert [count for key, count in counter.counts().items() if key.startswith(f"{run}:")] == [1] * 4
    assert outputs == {"item": "y" * 100_000 + "'"}


def newest(running: Installation) -> int:
    store = open_state(running.settings)
    return len(store.list(segment_folder(0)))


async def said(running: Installation) -> dict[str, Any]:
    """What the controller says of itself; a restarted one begins its recovery when it is asked."""
    with suppress(RayError, RuntimeError):
        await running.cluster.ask(GetRun("none"))
    try:
        return await running.cluster.standing()
    except RayError:
        return {"standing": "", "pid": 0, "ready": False}


async def restarted(running: Installation, pid: int, *prefixes: str) -> dict[str, Any]:
    """Kill the controller and wait until its successor stands where it is expected to."""
    os.kill(pid, signal.SIGKILL)
    found: dict[str, Any] = {}

    async def stands() -> bool:
        nonlocal found
        found = await said(running)
        return found["pid"] != pid and found["standing"].startswith(prefixes)

    await eventually(stands)
    return found


async def test_a_damaged_segment_stops_the_controller_and_is_named(
    running: Installation, counter: CountingServer
):
    """Truncated or with one bit flipped, old or newest: it does not act, and acts again when it is mended."""
    run = await in_flight(running, counter, 3)
    pid = (await running.standing())["pid"]
    for old, damage in ((True, truncated), (True, flipped), (False, truncated), (False, flipped)):
        last = newest(running)
        name = segment_name(0, 2 if old else last)
        file = Path(running.settings.state.url.removeprefix("file://")) / name
        whole = file.read_bytes()
        os.chmod(file, 0o600)
        file.write_bytes(damage(whole))
        stopped = await restarted(running, pid, "stopped")
        records = [owner_at(open_state(running.settings), n) for n in range(last + 1, newest(running) + 1)]
        file.write_bytes(whole)
        pid = stopped["pid"]

        assert name in stopped["standing"]
        assert not stopped["ready"]
        assert None not in records, "it wrote something else than that it is there"
        with pytest.raises(RuntimeError, match="not ready: stopped"):
            await running.cluster.ask(GetRun(run))
    counter.release()
    await restarted(running, pid, "epoch")
    view = await running.ended(run)

    assert view.status == "succeeded", view.message
    assert set(attempts(running.settings, run).values()) == {1}


def truncated(data: bytes) -> bytes:
    return data[:-7]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def take_over(running: Installation, owner: Owner) -> Recovered:
    """What the controller of another cluster does first."""
    store = open_state(running.settings)
    codec, blobs = content_codec(running.settings), open_blobs(running.settings, store)
    return recover(store, blobs, codec, Evaluator(), 0, owner, time.time_ns() // 1000)


async def test_a_controller_that_was_taken_over_writes_nothing_and_hands_out_nothing(
    running: Installation, counter: CountingServer
):
    """SIGSTOP, take-over by another cluster, SIGCONT: the old one ends for good; no worker gets a step."""
    run = await in_flight(running, counter, 3)
    pid = (await running.standing())["pid"]
    os.kill(pid, signal.SIGSTOP)
    store = open_state(running.settings)
    now_us = time.time_ns() // 1000
    other = this_process("elsewhere", "another-cluster", now_us)
    journal = Journal(store, 0)
    with pytest.raises(Unavailable, match="--take-over"):
        may_take(journal, other, now_us, stale_s=20, take_over=False)
    may_take(journal, other, now_us, stale_s=20, take_over=True)
    taken = take_over(running, other)
    claimed = newest(running)
    taken.journal.beat(time.time_ns() // 1000)
    os.kill(pid, signal.SIGCONT)
    counter.release()
    await eventually(lambda: is_dead(running))
    history = read_history(store)

    assert [epoch.epoch for epoch in history.epochs] == [1, 2]
    assert history.epochs[-1].pid == os.getpid()
    assert history.epochs[-1].segments == 0
    assert newest(running) == claimed
    assert taken.engine.runs[run].status == "running"
    assert [count for key, count in counter.counts().items() if key.startswith(f"{run}:")] == [1]
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("hive/controller/0", "hive")


async def is_dead(running: Installation) -> bool:
    """Ray says that the actor has ended and will not be restarted."""
    try:
        await running.cluster.standing()
    except ActorDiedError:
        return True
    except RayError:
        return False
    return False
