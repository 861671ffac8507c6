"""S3 refuses, loses, tears, stands still or dies while work is under way, and while a controller recovers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster import Cluster, started
from hive_ray.config import Settings
from tests.chaos.runs import all_ended, begin, effects_chain, function_pool
from tests.chaos.site import Site, site_on
from tests.cluster.installation import eventually
from tests.servers.ceph_s3 import CephS3Server
from tests.servers.effects import CountingServer
from tests.servers.s3 import S3Server
from tests.servers.s3_proxy import Fault, Storm

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

ROUNDS = int(os.environ.get("HIVE_CHAOS_ROUNDS", "1"))
RUNS = 20
STEPS = 5
LARGE = "y" * 5_000
"""Above what stands in the journal itself: such outputs are objects of their own."""
READERS = 8
"""Segments that a recovery reads at a time."""
TRIES = 4
"""How often the store's client tries a request."""
SHARES = {
    Fault.UNAVAILABLE: 0.04,
    Fault.THROTTLED: 0.03,
    Fault.CUT: 0.04,
    Fault.TORN: 0.03,
    Fault.SPOILED: 0.04,
    Fault.UNANSWERED: 0.04,
    Fault.SLOW: 0.03,
}
STANDSTILL_S = 4.0
"""Longer than a client waits for a connection."""


@pytest.fixture
async def site(
    ray_cluster: None, s3: S3Server, counting: CountingServer, tmp_path: Path
) -> AsyncIterator[Site]:
    async with site_on(s3, counting, tmp_path, pools=function_pool(40, 2)) as site:
        yield site


async def crowd(site: Site) -> list[str]:
    """Runs of both kinds: effects that may not be repeated, and large outputs."""
    once = await begin(site.cluster, effects_chain(STEPS), RUNS)
    return once + await begin(site.cluster, effects_chain(STEPS, idempotent=True), RUNS, LARGE)


def check(site: Site, runs: list[str], views: list[dict[str, Any]]) -> None:
    """Nothing is lost, and no effect that may not be repeated was."""
    history = site.history()
    counts = {key: n for key, n in site.counting.counts().items() if key.split(":")[0] in runs}
    once = set(runs[:RUNS])
    assert {view["status"] for view in views} == {"succeeded"}, [view["message"] for view in views]
    assert history.ends(runs) == {"RunSucceeded": len(runs)}
    assert len(counts) == len(runs) * STEPS
    assert {count for key, count in counts.items() if key.split(":")[0] in once} == {1}


async def test_a_storm_of_store_faults_costs_time_and_nothing_else(site: Site, seed: int):
    """A quarter of all requests goes wrong in one of seven ways, and the controller dies in the middle."""
    for number in range(ROUNDS):
        site.proxy.storm = Storm(random.Random(seed + number), SHARES)
        runs = await crowd(site)
        before = site.counting.count
        await site.effects_reach(before + RUNS * STEPS // 2)
        os.kill((await site.cluster.standing())["pid"], signal.SIGKILL)
        views = await all_ended(site.cluster, runs)
        print(f"round {number}: {dict(site.proxy.suffered)}")

        assert set(site.proxy.suffered) == set(SHARES)
        check(site, runs, views)


async def test_a_store_that_fails_in_the_middle_of_a_recovery_leaves_nothing_pending(site: Site):
    """Between claim and last segment: the controller recovers again, under the claim it has, to the end."""
    runs = await crowd(site)
    await site.effects_reach(site.counting.count + RUNS)
    pid = (await site.cluster.standing())["pid"]
    site.proxy.hold("PUT", "/journal/0000/")
    os.kill(pid, signal.SIGKILL)
    died_at = len(site.proxy.requests)
    await eventually(lambda: claims(site, died_at), 60)
    site.proxy.fail(Fault.UNAVAILABLE, 1000, "GET", "/journal/0000/")
    site.proxy.release()
    await eventually(lambda: failed_more_than(site, READERS * TRIES), 60)
    site.proxy.calm()
    views = await all_ended(site.cluster, runs)
    epochs = site.history().epochs

    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert epochs[1].under_way > 0
    check(site, runs, views)


async def claims(site: Site, died_at: int) -> bool:
    """The next controller has listed the journal, read its end, and sends its epoch record."""
    since = [kind_of(*request) for request in site.proxy.requests[died_at:]]
    return "LIST" in since and "PUT" in since[since.index("LIST") :]


def kind_of(method: str, path: str) -> str:
    """``LIST`` of segments, ``PUT`` of one, or neither."""
    if method == "GET" and "list-type=" in path and "journal" in path:
        return "LIST"
    return method if "/journal/0000/" in path else ""


async def failed_more_than(site: Site, count: int) -> bool:
    """More requests than one recovery makes before it gives up."""
    return site.proxy.suffered[Fault.UNAVAILABLE] > count


async def test_a_server_that_stands_still_holds_every_answer_and_goes_on(site: Site):
    """SIGSTOP and SIGCONT: meanwhile the controller is not ready, and what was decided is kept."""
    runs = await crowd(site)
    await site.effects_reach(site.counting.count + RUNS)
    os.kill(site.server.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STANDSTILL_S)
        during = await site.cluster.standing()
        frozen = during["counters"]["commits"]
        await asyncio.sleep(0.5)
        later = await site.cluster.standing()
    finally:
        os.kill(site.server.pid, signal.SIGCONT)
    views = await all_ended(site.cluster, runs)

    assert later["counters"]["commits"] == frozen
    assert later["epoch"] == during["epoch"] == 1
    check(site, runs, views)


@pytest.mark.parametrize("program", ["radosgw", "ceph-osd", "ceph-mon"])
async def test_a_server_that_dies_and_comes_back_has_lost_nothing(site: Site, program: str):
    """SIGKILL of the gateway, of the disk behind it, of the monitor: only Ceph keeps its data over that."""
    if not isinstance(site.server, CephS3Server):
        pytest.skip("moto forgets everything when it dies: run make chaos-ceph")
    for _ in range(ROUNDS):
        runs = await crowd(site)
        await site.effects_reach(site.counting.count + RUNS)
        await asyncio.to_thread(site.server.kill, program)
        await asyncio.sleep(STANDSTILL_S)
        await asyncio.to_thread(site.server.start, program)
        views = await all_ended(site.cluster, runs)

        check(site, runs, views)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB, where mounting is permitted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting is not permitted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


async def test_a_full_disk_holds_every_answer_until_there_is_space(
    ray_cluster: None, counting: CountingServer, small_disk: Path
):
    """Not ready, no crash, nothing forgotten; with space again every run goes on where it was."""
    settings = Settings.model_validate(
        {
            "state": {"url": (small_disk / "state").as_uri()},
            "pools": function_pool(40, 1),
            "tools": {"modules": ["tests.chaos.effects"]},
            "observe": {"log_level": "ERROR"},
        }
    )
    async with started(settings) as cluster:
        runs = await begin(cluster, effects_chain(STEPS), RUNS)
        fill(small_disk / "ballast")
        await eventually(lambda: is_ready(cluster, False))
        full = await cluster.standing()
        await asyncio.sleep(1.0)
        later = await cluster.standing()
        (small_disk / "ballast").unlink()
        views = await all_ended(cluster, runs)
        after = await cluster.standing()
    counts = {key: n for key, n in counting.counts().items() if key.split(":")[0] in runs}

    assert (later["pid"], later["counters"]["commits"]) == (full["pid"], full["counters"]["commits"])
    assert (after["pid"], after["epoch"], after["ready"]) == (full["pid"], 1, True)
    assert {view["status"] for view in views} == {"succeeded"}, views[0]["message"]
    assert (len(counts), set(counts.values())) == (RUNS * STEPS, {1})


def fill(ballast: Path) -> None:
    """Take what is left of a filesystem."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def is_ready(cluster: Cluster, ready: bool) -> bool:
    return (await cluster.standing())["ready"] is ready
