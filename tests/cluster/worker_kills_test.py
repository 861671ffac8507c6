"""A worker is SIGKILLed while a step is in flight: nothing is lost, and nothing happens twice in silence."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hive_ray.control.views import WaitView
from serve.problems import Problem
from tests.cluster.installation import Installation, eventually, installed, settings_for
from tests.cluster.journals import attempts, essence
from tests.cluster.tool_files import support_tools, trouble
from tests.servers.effects import CountingServer, SmtpServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

MAIL = {
    "id": "mail",
    "nodes": [
        {"id": "mail", "node_type": "tool", "tool": "send_email", "input_keys": ["to", "subject", "body"],
         "output_keys": ["status"]},
        {"id": "next", "node_type": "function", "function": "square", "input_keys": ["item"],
         "output_keys": ["squared"]},
    ],
    "edges": [{"id": "e", "source": "mail", "target": "next", "condition": "on_success"}],
}  # fmt: skip


def function(name: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    keys = {"input_keys": inputs, "output_keys": outputs}
    return {"id": name, "node_type": "function", "function": name, **keys}


def edge(source: str, target: str) -> dict[str, str]:
    return {"id": f"{source}-{target}", "source": source, "target": target, "condition": "on_success"}


FORK = {
    "id": "fork",
    "nodes": [
        function("count", ["item"], ["item"]),
        function("left", ["item"], ["left", "shared"]),
        function("right", ["item"], ["right", "shared"]),
        function("together", ["left", "right", "shared"], ["together"]),
    ],
    "edges": [
        edge("count", "left"), edge("count", "right"), edge("left", "together"), edge("right", "together")
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    with CountingServer(tmp_path_factory.mktemp("counting")) as server:
        yield server


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    with SmtpServer(tmp_path_factory.mktemp("smtp")) as server:
        yield server


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, mails stop right before they leave."""
    return tmp_path_factory.mktemp("gate") / "closed"


@pytest.fixture(scope="module")
async def running(
    ray_cluster: None,
    counter: CountingServer,
    mailbox: SmtpServer,
    gate: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("kills")
    modules = [trouble(folder, counter.url), support_tools(folder, mailbox.port, gate)]
    async with installed(settings_for(folder, modules)) as installation:
        yield installation


async def kill_worker(running: Installation, pool: str) -> None:
    (worker,) = await running.workers(pool)
    os.kill(worker["pid"], signal.SIGKILL)


async def test_a_run_whose_worker_was_killed_equals_an_undisturbed_one(
    running: Installation, counter: CountingServer
):
    """In an idempotent step: memory, edges and outputs are the same; only attempts, times and ids differ."""
    calm = await running.ended(await running.submit(FORK, {"item": "x"}))
    counter.hold()
    run = await running.submit(FORK, {"item": "x"})
    await eventually(lambda: counted(counter, f"{run}:"))
    await kill_worker(running, "function")
    counter.release()
    view = await running.ended(run)

    assert view.status == "succeeded", view.message
    assert await running.outputs(view) == await running.outputs(calm)
    assert essence(running.settings, run) == essence(running.settings, calm.run_id)
    assert set(attempts(running.settings, calm.run_id).values()) == {1}
    assert sorted(attempts(running.settings, run).values()) == [1, 1, 1, 2]
    assert (await running.outputs(view))["together"] == "x'x'right of x'"


async def counted(counter: CountingServer, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in counter.counts())


def mails(mailbox: SmtpServer, run: str) -> int:
    return sum(mail["message_id"].startswith(f"<{run}.") for mail in mailbox.effects())


async def mail_killed_after(running: Installation, mailbox: SmtpServer) -> tuple[str, WaitView]:
    """A run whose worker died when its mail was out and not answered yet."""
    mailbox.hold()
    run = await submit_mail(running)
    await eventually(lambda: sent(mailbox, run))
    await kill_worker(running, "tool")
    mailbox.release()
    (wait,) = (await running.settled(run)).waits
    return run, wait


async def mail_killed_before(running: Installation, gate: Path) -> tuple[str, WaitView]:
    """A run whose worker died right before its mail left."""
    gate.touch()  # noqa: ASYNC240 - a moment's work
    run = await submit_mail(running)
    await running.under_way(run, "mail")
    await kill_worker(running, "tool")
    gate.unlink()  # noqa: ASYNC240
    (wait,) = (await running.settled(run)).waits
    return run, wait


async def submit_mail(running: Installation) -> str:
    values = {"to": "ann@example.com", "subject": "Hello", "body": "Hello.", "item": 3}
    return await running.submit(MAIL, values)


async def sent(mailbox: SmtpServer, run: str) -> bool:
    return mails(mailbox, run) > 0


async def test_a_mail_of_unknown_outcome_waits_and_says_what_it_did(
    running: Installation, mailbox: SmtpServer
):
    """The view names the step, what happened, and the answers; with `happened` the run goes on: one mail."""
    run, wait = await mail_killed_after(running, mailbox)
    waiting = await running.view(run)
    await running.decide(wait, "happened", status="sent, says the mail log")
    view = await running.ended(run)

    assert waiting.status == "waiting"
    assert "outcome_unknown: send_email at node mail was started" in waiting.reason
    assert (wait.node, wait.answers) == ("mail", ("happened", "did_not_happen", "abort"))
    assert all(word in wait.need for word in ("send_email", "WORKER_LOST", "not declared idempotent"))
    assert [(step.node, step.status) for step in waiting.steps] == [("mail", "unknown")]
    assert view.status == "succeeded", view.message
    assert await running.outputs(view) == {"status": "sent, says the mail log", "squared": 9}
    assert mails(mailbox, run) == 1


async def test_a_mail_that_did_not_leave_is_sent_when_a_person_says_so(
    running: Installation, mailbox: SmtpServer, gate: Path
):
    """With `did_not_happen` the step runs again, as attempt 2, and exactly one mail arrives."""
    run, wait = await mail_killed_before(running, gate)
    before = mails(mailbox, run)
    await running.decide(wait, "did_not_happen")
    view = await running.ended(run)

    assert before == 0
    assert view.status == "succeeded", view.message
    assert (await running.outputs(view))["status"] == "sent"
    assert mails(mailbox, run) == 1
    assert attempts(running.settings, run)[1, 0] == 2


async def test_an_aborted_mail_ends_the_run(running: Installation, mailbox: SmtpServer):
    """With `abort` the node fails with OUTCOME_UNKNOWN, and no second mail is sent."""
    run, wait = await mail_killed_after(running, mailbox)
    await running.decide(wait, "abort")
    view = await running.ended(run)

    assert (view.status, view.failure, view.failed_at) == ("failed", "OUTCOME_UNKNOWN", "mail")
    assert "aborted" in view.message
    assert mails(mailbox, run) == 1


async def test_the_same_answer_twice_is_one_answer_and_another_is_refused(
    running: Installation, mailbox: SmtpServer
):
    """A repeated click changes nothing; a colleague who says the opposite is told that it is decided."""
    run, wait = await mail_killed_after(running, mailbox)
    await running.decide(wait, "happened")
    again = await running.decide(wait, "happened")
    view = await running.ended(run)

    with pytest.raises(Problem, match="already resolved"):
        await running.decide(wait, "did_not_happen")
    assert again.run_id == run
    assert view.status == "succeeded", view.message
    assert mails(mailbox, run) == 1
