"""A worker is SIGKILLed before its effect, behind it, behind its report; or stands still and comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hive_ray.control.queries import GetRun, ListWorkers
from hive_ray.core.commands import Resolve
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from tests.chaos.runs import all_ended, answered, begin, effects_chain, function_pool
from tests.chaos.site import SEGMENTS, Site, site_on
from tests.cluster.installation import eventually
from tests.servers.effects import CountingServer
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

LEASE = {"term_s": 2.0, "attach_grace_s": 2.0}
"""Short, so that a worker that stands still is given up within the test."""


@pytest.fixture(scope="module")
async def site(
    ray_cluster: None, s3: S3Server, counting: CountingServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    async with site_on(s3, counting, folder, pools=function_pool(4, 2), lease=LEASE) as site:
        yield site


@pytest.fixture
def gate(gate_file: Path) -> Iterator[Path]:
    """Open before and after each test."""
    Path(f"{gate_file}-reached").unlink(missing_ok=True)
    yield gate_file
    gate_file.unlink(missing_ok=True)


Point = Callable[[Site, Path, bool], Awaitable[tuple[str, int]]]


async def begun(site: Site, idempotent: bool) -> str:
    function = "gated_idempotent_effect" if idempotent else "gated_effect"
    (run,) = await begin(site.cluster, effects_chain(1, idempotent, function), 1)
    return run


async def worker_of(site: Site, run: str) -> int:
    """The process that runs a run's step."""
    (view,) = await answered(site.cluster, GetRun(run))
    (step,) = view["steps"]
    (workers,) = await answered(site.cluster, ListWorkers())
    (pid,) = [worker["pid"] for worker in workers if worker["worker"] == step["worker"]]
    return pid


async def before_the_effect(site: Site, gate: Path, idempotent: bool) -> tuple[str, int]:
    """The step has begun and stops right before its effect."""
    gate.touch()  # noqa: ASYNC240 - a moment's work
    run = await begun(site, idempotent)
    await eventually(lambda: reached(gate))
    return run, await worker_of(site, run)


async def reached(gate: Path) -> bool:
    return Path(f"{gate}-reached").exists()  # noqa: ASYNC240


async def behind_the_effect(site: Site, gate: Path, idempotent: bool) -> tuple[str, int]:
    """The effect has happened, and the step has not heard so."""
    site.counting.hold()
    run = await begun(site, idempotent)
    await site.effects_reach(1, run)
    return run, await worker_of(site, run)


async def behind_the_report(site: Site, gate: Path, idempotent: bool) -> tuple[str, int]:
    """The worker has reported, and the segment with its report is on its way to the store."""
    run, pid = await behind_the_effect(site, gate, idempotent)
    sent = len(site.proxy.requests)
    site.proxy.hold("PUT", SEGMENTS)
    site.counting.release()

    async def writes() -> bool:
        return any(m == "PUT" and SEGMENTS in path for m, path in site.proxy.requests[sent:])

    await eventually(writes)
    return run, pid


def go_on(site: Site, gate: Path) -> None:
    gate.unlink(missing_ok=True)
    site.counting.release()
    site.proxy.release()


async def answer_of(site: Site, run: str, decision: str) -> dict[str, Any]:
    """Wait for the question about an unknown outcome, and answer it."""
    view: dict[str, Any] = {}

    async def asked() -> bool:
        nonlocal view
        (view,) = await answered(site.cluster, GetRun(run))
        return bool(view["waits"])

    await eventually(asked)
    (wait,) = view["waits"]
    assert wait["reason"] == "outcome_unknown", wait
    content = StepContent(outputs={"item": inline("x")})
    await answered(site.cluster, Resolve(run, wait["approval_id"], decision, content, "ann"))
    return wait


@pytest.mark.parametrize(
    ("point", "happened"),
    [(before_the_effect, 0), (behind_the_effect, 1), (behind_the_report, 1)],
)
@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_worker_killed_around_its_effect(
    site: Site, gate: Path, point: Point, happened: int, idempotent: bool
):
    """What may be repeated is, under the same key; about anything else a person is asked; a report counts."""
    run, pid = await point(site, gate, idempotent)
    os.kill(pid, signal.SIGKILL)
    go_on(site, gate)
    asked = not idempotent and point is not behind_the_report
    if asked:
        decision = "happened" if happened else "did_not_happen"
        await answer_of(site, run, decision)
    (view,) = await all_ended(site.cluster, [run])
    counts = sorted(site.counts(run).values())
    attempts = site.history().attempts()[run, 1, 0]

    assert view["status"] == "succeeded", view["message"]
    if point is behind_the_effect and idempotent:
        assert (counts, attempts) == ([2], 2)
    else:
        assert counts == [1]
        assert attempts == (1 if happened else 2)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_report_that_dies_with_worker_and_controller_was_never_made(
    site: Site, gate: Path, idempotent: bool
):
    """The segment that held it never arrives: repeated where that is allowed, else a person is asked."""
    run, pid = await behind_the_report(site, gate, idempotent)
    controller = (await site.cluster.standing())["pid"]
    os.kill(pid, signal.SIGKILL)
    lost = site.proxy.lost
    os.kill(controller, signal.SIGKILL)
    await eventually(lambda: more_lost(site, lost))
    go_on(site, gate)
    if not idempotent:
        await answer_of(site, run, "happened")
    (view,) = await all_ended(site.cluster, [run])

    assert view["status"] == "succeeded", view["message"]
    assert sorted(site.counts(run).values()) == ([2] if idempotent else [1])


async def more_lost(site: Site, before: int) -> bool:
    return site.proxy.lost > before


async def test_a_worker_that_stood_still_too_long_reports_late_and_changes_nothing(site: Site, gate: Path):
    """SIGSTOP beyond its lease: another worker repeats the step; the late result is ignored, once."""
    run, pid = await behind_the_effect(site, gate, idempotent=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        site.counting.release()
        (view,) = await all_ended(site.cluster, [run])
    finally:
        os.kill(pid, signal.SIGCONT)
    await eventually(lambda: late(site, run))
    (after,) = await answered(site.cluster, GetRun(run))
    history = site.history()

    assert (view["status"], after["status"]) == ("succeeded", "succeeded")
    assert history.ends([run]) == {"RunSucceeded": 1}
    assert history.attempts()[run, 1, 0] == 2
    assert sorted(site.counts(run).values()) == [2]


async def late(site: Site, run: str) -> bool:
    kinds = [type(r.event).__name__ for r in site.history().events if r.event.run == run]
    return kinds.count("LateOutcome") == 1


async def test_a_worker_that_stood_still_answers_the_question_about_itself(site: Site, gate: Path):
    """Not idempotent: a person is asked; the worker comes back with the result before anybody answers."""
    run, pid = await behind_the_effect(site, gate, idempotent=False)
    os.kill(pid, signal.SIGSTOP)
    try:
        site.counting.release()
        await eventually(lambda: waits(site, run))
    finally:
        os.kill(pid, signal.SIGCONT)
    (view,) = await all_ended(site.cluster, [run])

    assert view["status"] == "succeeded", view["message"]
    assert sorted(site.counts(run).values()) == [1]
    assert site.history().attempts()[run, 1, 0] == 1


async def waits(site: Site, run: str) -> bool:
    (view,) = await answered(site.cluster, GetRun(run))
    return bool(view["waits"])
