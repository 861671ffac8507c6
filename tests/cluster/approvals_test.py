"""Approvals that nobody answers, and notifications of them, on a real cluster that is killed or down."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive_ray.config import Settings
from hive_ray.control.outbox_views import ListOutbox
from hive_ray.core import events as ev
from tests.cluster.installation import Installation, eventually, installed, settings_for
from tests.cluster.journals import events_of
from tests.servers.webhook_receiver import WebhookReceiver, webhook_receiver

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EACH_S = 2.0
"""For which an owner is asked."""


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver(SECRET) as found:
        yield found


def settings(folder: Path, receiver: WebhookReceiver) -> Settings:
    (folder / "secret").write_text(SECRET)
    hook = {"name": "desk", "url": receiver.url, "secret": f"file:{folder / 'secret'}"}
    hooks = {"to": [hook], "allow_private": True, "timeout_s": 30, "first_retry_s": 0.2}
    return settings_for(folder, hooks=hooks)


def asking(final: str = "approve") -> dict[str, Any]:
    """Two owners, each for a short time."""
    approval = {
        "reason": "may it go out?",
        "owner": "key:ann",
        "deadline_s": 2 * EACH_S,
        "escalate": [{"owner": "role:chief", "after_s": EACH_S}],
        "finally": final,
    }
    return {"id": "asking", "nodes": [{"id": "ask", "approval": approval, "output_keys": ["approved"]}]}


def moments(configured: Settings, run: str) -> dict[str, float]:
    """When each kind of event stands in the journal, in seconds."""
    return {type(e.event).__name__: e.time_us / 1e6 for e in events_of(configured, run)}


async def nothing_is_pending(running: Installation) -> bool:
    (found,) = await running.cluster.ask(ListOutbox("", "pending"))
    return not found


async def test_an_approval_nobody_answers_goes_to_its_second_owner_and_ends_as_configured(
    ray_cluster: None, receiver: WebhookReceiver, tmp_path: Path
):
    """On time; both owners and the end are told outside, signed."""
    configured = settings(tmp_path, receiver)
    async with installed(configured) as running:
        run = await running.submit(asking())
        view = await running.ended(run)
        outputs = await running.outputs(view)
        await eventually(lambda: nothing_is_pending(running))
    at = moments(configured, run)

    assert (view.status, outputs) == ("succeeded", {"approved": True})
    assert at["ApprovalEscalated"] - at["ApprovalRequested"] >= EACH_S
    assert at["ApprovalResolved"] - at["ApprovalEscalated"] >= EACH_S
    assert receiver.kinds() == ["approval.requested", "approval.escalated", "run.finished"]
    assert [heard.data.get("owner") for heard in receiver.heard] == ["key:ann", "role:chief", None]
    assert not receiver.forged


async def test_behind_a_downtime_the_second_owner_has_his_whole_time(
    ray_cluster: None, receiver: WebhookReceiver, tmp_path: Path
):
    """Both deadlines passed while nothing ran: he is asked all the same, and then it ends as configured."""
    configured = settings(tmp_path, receiver)
    async with installed(configured) as running:
        run = await running.submit(asking("reject"))
    down = time.time()

    async def both_are_over() -> bool:
        return time.time() > down + 2 * EACH_S

    await eventually(both_are_over)
    up = time.time()
    async with installed(configured) as running:
        view = await running.ended(run)
        outputs = await running.outputs(view)
    at = moments(configured, run)
    (escalated,) = events_of(configured, run, "ApprovalEscalated")

    assert (view.status, outputs) == ("succeeded", {"approved": False})
    assert at["ApprovalEscalated"] >= up
    assert isinstance(escalated.event, ev.ApprovalEscalated)
    assert escalated.event.deadline_us - escalated.time_us == EACH_S * 1e6
    assert at["ApprovalResolved"] - at["ApprovalEscalated"] >= EACH_S


async def test_a_controller_killed_between_commit_and_delivery_delivers_all_the_same(
    ray_cluster: None, receiver: WebhookReceiver, tmp_path: Path
):
    """The receiver had it and could not say so: it hears it again under the same id, and all the rest."""
    receiver.hold()
    configured = settings(tmp_path, receiver)
    async with installed(configured) as running:
        run = await running.submit(asking())

        async def is_out() -> bool:
            return bool(receiver.heard)

        await eventually(is_out)
        os.kill((await running.standing())["pid"], signal.SIGKILL)
        receiver.release()
        view = await running.ended(run)
        await eventually(lambda: nothing_is_pending(running))
        epoch = (await running.standing())["epoch"]
    asked = [heard.id for heard in receiver.heard if heard.kind == "approval.requested"]

    assert (view.status, epoch) == ("succeeded", 2)
    assert len(asked) >= 2 and len(set(asked)) == 1
    assert set(receiver.kinds()) == {"approval.requested", "approval.escalated", "run.finished"}
