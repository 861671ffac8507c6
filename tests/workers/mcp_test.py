"""MCP tools on servers that this project did not write."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from hive_ray import config
from hive_ray.config import Settings
from hive_ray.core.messages import Outcome, StepKind
from hive_ray.graph.compiled import NodeKind
from hive_ray.workers.execution import Executor
from hive_ray.workers.mcp import describe
from hive_ray.workers.step_error import StepError
from tests.servers.mcp import TIME_COMMAND, EverythingServer
from tests.workers import steps
from tests.workers.steps import message, outputs

CLOCK = {"command": TIME_COMMAND}
NOON = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}


def settings(**servers: Any) -> Settings:
    return Settings.model_validate({"tools": {"mcp": servers}})


def executor(made: Settings, **fields: Any) -> Executor:
    compiled, blobs = steps.graph(steps.node(NodeKind.TOOL, output_keys=("out",), **fields)), steps.Blobs()
    return Executor(made, lambda _hash: compiled, blobs.load, blobs.store)


def call(made: Settings, tool: str, arguments: dict[str, Any] | None = None, **fields: Any) -> Outcome:
    return steps.run(executor(made), steps.lease(StepKind.TOOL, tool, arguments, **fields))


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("name", ["convert_time", "clock.convert_time"])
def test_a_tool_on_stdio_answers_under_both_its_names(name: str):
    """JSON in a text result is given as JSON."""
    out = outputs(call(settings(clock=CLOCK), name, NOON))["out"]

    assert out["target"]["datetime"].endswith("21:00:00+09:00")


def test_one_session_serves_many_calls_and_ends_with_the_worker():
    """The server's process is started once, and is gone after ``close``."""

    async def story() -> list[set[int]]:
        before, seen = children(os.getpid()), list[set[int]]()
        worker = executor(settings(clock=CLOCK))
        for _ in range(3):
            assert not (await worker.run(steps.lease(StepKind.TOOL, "convert_time", NOON))).failure
            seen.append(children(os.getpid()) - before)
        await worker.close()
        return [*seen, children(os.getpid()) - before]

    first, second, third, after = asyncio.run(story())
    assert len(first) == 1 and first == second == third
    assert not after


def test_a_session_that_died_is_started_again():
    """The death is noticed before the next call, so that nothing is asked of a corpse."""

    async def story() -> tuple[Outcome, Outcome]:
        before = children(os.getpid())
        worker = executor(settings(clock=CLOCK))
        first = await worker.run(steps.lease(StepKind.TOOL, "convert_time", NOON))
        (pid,) = children(os.getpid()) - before
        os.kill(pid, signal.SIGKILL)
        (session,) = (task for task in asyncio.all_tasks() if task.get_name() == "mcp clock")
        await asyncio.wait_for(session, timeout=10)
        second = await worker.run(steps.lease(StepKind.TOOL, "convert_time", NOON))
        await worker.close()
        return first, second

    first, second = asyncio.run(story())
    assert outputs(first) == outputs(second)


def test_a_tools_own_error_is_a_tool_error():
    """The server lives, and says what was wrong."""
    outcome = call(settings(clock=CLOCK), "convert_time", {**NOON, "source_timezone": "Moon/Base"})

    assert outcome.failure == "TOOL_ERROR"
    assert "Moon/Base" in message(outcome)


def test_a_server_that_does_not_start_is_named_with_its_last_words(monkeypatch: pytest.MonkeyPatch):
    """Server, command and the end of its stderr, without the secret in it."""
    monkeypatch.setenv("CRM_KEY", "canary-crm-4711")
    script = "import os, sys; sys.stderr.write('no licence for ' + os.environ['KEY'] + '\\n'); sys.exit(3)"
    broken = {"command": [sys.executable, "-c", script], "env": {"KEY": "env:CRM_KEY"}}
    outcome = call(settings(crm=broken), "crm.lookup")

    assert (outcome.failure, outcome.started) == ("TOOL_UNAVAILABLE", False)
    assert "MCP server crm" in message(outcome) and sys.executable in message(outcome)
    assert "no licence for" in message(outcome) and "canary" not in message(outcome)


def test_a_command_that_does_not_exist_is_named():
    """A typing error in hive.yaml."""
    outcome = call(settings(crm={"command": ["no-such-program-here"]}), "lookup")

    assert (outcome.failure, outcome.started) == ("TOOL_UNAVAILABLE", False)
    assert "no-such-program-here" in message(outcome)


def test_an_unknown_tool_is_named():
    """It is neither a Python tool nor one of a server."""
    outcome = call(settings(clock=CLOCK), "no_such_tool")

    assert (outcome.failure, outcome.started) == ("TOOL_UNAVAILABLE", False)
    assert "no_such_tool" in message(outcome) and "clock" in message(outcome)


def test_a_tool_over_http_answers(mcp_everything: EverythingServer):
    """Streamable HTTP."""
    out = outputs(call(settings(all={"url": mcp_everything.url}), "echo", {"message": "hello"}))["out"]

    assert out == "Echo: hello"


def test_a_long_call_ends_at_the_steps_time(mcp_everything: EverythingServer):
    """The session outlives the call that was given up."""

    async def story() -> tuple[Outcome, Outcome]:
        worker = executor(settings(all={"url": mcp_everything.url}))
        slow = {"duration": 60, "steps": 1}
        await worker.run(steps.lease(StepKind.TOOL, "echo", {"message": "warm"}))
        step = steps.lease(StepKind.TOOL, "trigger-long-running-operation", slow, timeout_us=300_000)
        late = await worker.run(step)
        after = await worker.run(steps.lease(StepKind.TOOL, "echo", {"message": "still here"}))
        await worker.close()
        return late, after

    late, after = asyncio.run(story())
    assert (late.failure, late.started) == ("TIMEOUT", True)
    assert outputs(after) == {"out": "Echo: still here"}


def test_a_session_lost_during_a_call_is_unknown_unless_idempotent(tmp_path: Path):
    """What may have happened goes to a human; what is idempotent may be tried again."""
    assert lost_during_a_call(idempotent=False).failure == "OUTCOME_UNKNOWN"
    outcome = lost_during_a_call(idempotent=True)
    assert (outcome.failure, outcome.started) == ("TOOL_UNAVAILABLE", True)
    assert "broke off" in message(outcome)


DYING = """
import os
from mcp.server.mcpserver import MCPServer
server = MCPServer("dying")
@server.tool()
def pay(amount: int) -> str:
    os._exit(9)
server.run("stdio")
"""


def lost_during_a_call(idempotent: bool) -> Outcome:
    dying = settings(bank={"command": [sys.executable, "-c", DYING]})
    return steps.run(executor(dying, idempotent=idempotent), steps.lease(StepKind.TOOL, "pay", {"amount": 1}))


def test_hints_are_believed_only_of_servers_that_are_trusted(mcp_everything: EverythingServer):
    """A server's word does not make a tool idempotent, nor harmless, unless hive.yaml says so."""

    def hints(allow: bool) -> dict[str, tuple[bool, tuple[str, ...]]]:
        made = settings(all={"url": mcp_everything.url, "allow_annotations": allow})
        infos = asyncio.run(describe(made, config.resolve))
        return {info.name: (info.idempotent, info.tags) for info in infos}

    assert set(hints(False).values()) == {(False, ("destructive", "unverified"))}
    trusted = hints(True)
    assert trusted["echo"] == trusted["all.echo"]
    assert any(idempotent for idempotent, _ in trusted.values())
    assert any(not tags for _, tags in trusted.values())


def test_describe_names_a_server_that_does_not_start():
    """A graph is refused when it is accepted, not in the middle of a run."""
    with pytest.raises(StepError, match="MCP server crm"):
        asyncio.run(describe(settings(crm={"command": ["no-such-program-here"]}), config.resolve))


def test_a_name_that_two_servers_offer_needs_its_server(mcp_everything: EverythingServer):
    """The plain name is nobody's; both full names work."""
    made = settings(one=CLOCK, two=CLOCK)
    outcome = call(made, "convert_time", NOON)

    assert outcome.failure == "BAD_INPUT"
    assert "one.convert_time or two.convert_time" in message(outcome)
    assert not call(made, "two.convert_time", NOON).failure


KEYED = """
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("till")


@server.tool()
def charge(amount: int, idempotency_key: str) -> str:
    return f"{amount} {idempotency_key}"


@server.tool()
def meta(context: Context) -> str:
    return str(dict(context.request_context.meta or {}))


server.run()
"""


def test_a_tool_with_a_parameter_for_it_gets_the_key_of_the_call(tmp_path: Path):
    """Every tool finds it in ``_meta``; no model sees the parameter."""
    (tmp_path / "till.py").write_text(KEYED)
    made = settings(till={"command": [sys.executable, str(tmp_path / "till.py")]})

    assert outputs(call(made, "charge", {"amount": 3}))["out"] == {"result": "3 run:1:0"}
    assert "'hive-ray/idempotency-key': 'run:1:0'" in str(outputs(call(made, "meta", {}))["out"])
    (charge, *_) = asyncio.run(describe(made, config.resolve))
    assert charge.schema is not None and list(charge.schema["properties"]) == ["amount"]
    assert charge.schema["required"] == ["amount"]
