"""What an agent's LLM hears of calls that rules deny, or that people reject or change, on a real cluster."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hive_ray.control.views import RunView
from tests.cluster.installation import Installation, aimock_model, installed, settings_for
from tests.cluster.journals import kinds_of
from tests.cluster.scripts import Answer, after_tool, agent, answer, calls, gives, joined, sets
from tests.cluster.tool_files import write
from tests.servers.aimock import AimockServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOOPS = ("event_loop", "llm_tool_use")
RULES = [
    {"id": "never", "tools": ["pay"], "when": "args.amount > 1000", "then": "deny", "reason": "far too much"},
    {"id": "big", "tools": ["pay"], "when": "args.amount > 100", "then": "require_approval"},
]
TOOLS = """
from pathlib import Path

from hive_ray.workers.tools import tool


@tool(idempotent=False)
def pay(to: str, amount: int) -> str:
    '''Pay somebody.'''
    with Path("{paid}").open("a") as file:
        file.write(f"{{to}} {{amount}}\\n")
    return f"{{amount}} paid to {{to}}"
"""


class Desk(NamedTuple):
    """An installation with a tool that pays, and what its LLM was asked."""

    running: Installation
    llm: AimockServer
    paid: Path

    async def begin(self, kind: str, scene: str) -> str:
        node = {
            "id": "desk",
            "node_type": kind,
            "model": "mock",
            "tools": ["pay"],
            "input_keys": ["scene"],
            "output_keys": ["report"],
            "prompt": "{scene}",
        }
        return await self.running.submit({"id": "desk", "nodes": [node], "edges": []}, {"scene": scene})

    def heard(self, scene: str) -> list[str]:
        """What the results of calls told the LLM in its last request of a scene."""
        bodies = [request["body"] for request in self.llm.requests()]
        last = [body["messages"] for body in bodies if scene in json.dumps(body["messages"])][-1]
        return [message["content"] for message in last if message["role"] == "tool"]

    def payments(self, to: str) -> list[str]:
        lines = self.paid.read_text().splitlines() if self.paid.exists() else []
        return [line for line in lines if line.startswith(f"{to} ")]


def script(kind: str) -> list[dict[str, Any]]:
    """In each scene one payment is tried; whatever comes of it, a report is given."""
    system, end = (agent, sets(report="told")) if kind == "event_loop" else (answer, gives(report="told"))

    def scene(name: str, amount: int) -> list[dict[str, Any]]:
        text = f"{name} in {kind}"
        attempt: Answer = calls(("pay", {"to": text.replace(" ", "_"), "amount": amount}))
        return after_tool(system("report"), attempt, end, userMessage=text)

    return joined(scene("denied", 5000), scene("rejected", 200), scene("edited", 200))


@pytest.fixture(scope="module")
async def desk(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder = tmp_path_factory.mktemp("policies")
    paid = folder / "paid"
    module = write(folder / "paying_tools.py", TOOLS.format(paid=paid.as_posix()))
    with AimockServer(joined(*map(script, LOOPS)), folder) as llm:
        model = aimock_model(llm.openai_url)
        settings = settings_for(folder, [module], model, policies={"rules": RULES})
        async with installed(settings) as running:
            yield Desk(running, llm, paid)


async def reported(desk: Desk, run: str) -> RunView:
    view = await desk.running.ended(run)
    assert view.status == "succeeded", view.message
    assert await desk.running.outputs(view) == {"report": "told"}
    return view


@pytest.mark.parametrize("kind", LOOPS)
async def test_the_llm_of_a_denied_call_is_told_and_goes_on(desk: Desk, kind: str):
    """With the rule and its reason; the tool was not called."""
    scene = f"denied in {kind}"
    view = await reported(desk, await desk.begin(kind, scene))

    (heard,) = desk.heard(scene)
    assert "POLICY_DENIED: the call of the tool pay at node desk is denied by the policy never" in heard
    assert "far too much" in heard
    assert desk.payments(scene.replace(" ", "_")) == []
    assert "ToolCallFailed" in kinds_of(desk.running.settings, view.run_id)


@pytest.mark.parametrize("kind", LOOPS)
async def test_the_llm_of_a_rejected_call_is_told_and_goes_on(desk: Desk, kind: str):
    """A person said no; the tool was not called."""
    scene = f"rejected in {kind}"
    run = await desk.begin(kind, scene)
    (wait,) = (await desk.running.settled(run)).waits
    await desk.running.decide(wait, "reject")
    await reported(desk, run)

    (heard,) = desk.heard(scene)
    assert "REJECTED: a human rejected it" in heard
    assert desk.payments(scene.replace(" ", "_")) == []


@pytest.mark.parametrize("kind", LOOPS)
async def test_the_llm_of_an_edited_call_is_told_what_was_called(desk: Desk, kind: str):
    """Its own message still says 200: without that it would go on as if so much had been paid."""
    scene = f"edited in {kind}"
    to = scene.replace(" ", "_")
    run = await desk.begin(kind, scene)
    (wait,) = (await desk.running.settled(run)).waits
    await desk.running.decide(wait, "edit", to=to, amount=40)
    await reported(desk, run)

    (heard,) = desk.heard(scene)
    assert heard == (
        f'[A person changed the arguments of this call to {{"to":"{to}","amount":40}}]\n40 paid to {to}'
    )
    assert desk.payments(to) == [f"{to} 40"]
