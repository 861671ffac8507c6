"""The servers that other tests lean on do what those tests take for granted."""

from __future__ import annotations

import os
import smtplib
import sys
import threading
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from tests.conftest import StartAimock
from tests.servers import aimock as llm
from tests.servers.aimock import AimockServer
from tests.servers.effects import CountingServer, SmtpServer
from tests.servers.mcp import TIME_COMMAND, EverythingServer
from tests.servers.moto_s3 import MotoS3Server
from tests.servers.process import ServerProcess, wait_until

WEATHER_TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def ask(server: AimockServer, question: str, **fields: Any) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": question}], **fields}
    headers = {"Authorization": "Bearer test"}
    return httpx2.post(f"{server.openai_url}/chat/completions", json=body, headers=headers, timeout=10)


def message(reply: httpx2.Response) -> dict[str, Any]:
    return reply.json()["choices"][0]["message"]


def test_aimock_answers_by_fixture(aimock: StartAimock):
    """Words, tool calls and errors come back as told, for the message that they match."""
    server = aimock(
        [
            llm.error(500, "broken", userMessage="fail"),
            llm.error(429, "slow down", retry_after_s=7, userMessage="too fast"),
            llm.tool_call("weather", {"city": "Ulm"}, toolName="weather", hasToolResult=False),
            llm.text("hello", userMessage="greet"),
        ]
    )

    assert message(ask(server, "please greet me"))["content"] == "hello"
    (call,) = message(ask(server, "rain?", tools=[WEATHER_TOOL]))["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("weather", '{"city":"Ulm"}')
    assert ask(server, "fail").status_code == 500
    limited = ask(server, "too fast")
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "7")


def test_aimock_refuses_what_no_fixture_matches(aimock: StartAimock):
    """A question that a test did not foresee is an error, not an invented answer."""
    server = aimock([llm.text("hello", userMessage="greet")])

    assert ask(server, "something else").is_error
    assert len(server.requests()) == 1


def test_aimock_delays_an_answer(aimock: StartAimock):
    """A delayed answer is still under way when an impatient client gives up."""
    server = aimock([llm.delayed(llm.text("late"), delay_ms=5_000)])

    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(
            f"{server.openai_url}/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "x"}]},
            timeout=0.5,
        )


def test_moto_keeps_objects_and_honours_create_if_absent(moto_s3: MotoS3Server):
    """The second creation of one name is refused."""
    url = moto_s3.create_bucket("servers")
    bucket = S3Store.from_url(url, config=moto_s3.options(), client_options={"allow_http": True})  # pyright: ignore[reportArgumentType]
    bucket.put("a", b"1", mode="create")

    with pytest.raises(AlreadyExistsError):
        bucket.put("a", b"2", mode="create")
    assert bytes(bucket.get("a").bytes()) == b"1"


def send_mail(port: int) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "desk@example.com", "ann@example.com", "Your ticket"
    mail.set_content("Solved.")
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.send_message(mail)


def test_smtp_counts_mails(smtp: SmtpServer):
    """Each mail is one effect with its addresses, subject and text."""
    send_mail(smtp.port)
    send_mail(smtp.port)

    assert smtp.count == 2
    (mail, _) = smtp.effects()
    assert (mail["recipients"], mail["subject"], mail["body"].strip()) == (
        ["ann@example.com"],
        "Your ticket",
        "Solved.",
    )


def test_a_held_mail_is_counted_before_it_is_answered(smtp: SmtpServer):
    """The moment between effect and answer can be stretched for a test to act in."""
    smtp.hold()
    sender = threading.Thread(target=send_mail, args=(smtp.port,))
    sender.start()

    wait_until(lambda: smtp.count == 1)
    assert sender.is_alive()
    smtp.release()
    sender.join(timeout=10)
    assert not sender.is_alive()


def test_counting_server_counts_by_key(counting_http: CountingServer):
    """A repeat under one idempotency key shows as 2: that is what tests look for."""
    for key in ("a", "b", "a"):
        reply = httpx2.post(counting_http.url, content=b"{}", headers={"Idempotency-Key": key})
        assert reply.status_code == 204

    assert counting_http.counts() == {"a": 2, "b": 1}


async def call(server: StdioServerParameters | str, tool: str, arguments: dict[str, Any]) -> str:
    async with Client(server) as client:
        result = await client.call_tool(tool, arguments)
    return str(result.content)


@pytest.mark.anyio
async def test_mcp_time_answers_on_stdio():
    """A server of PyPI's, started by its client."""
    server = StdioServerParameters(command=TIME_COMMAND[0], args=list(TIME_COMMAND[1:]))

    assert "UTC" in await call(server, "get_current_time", {"timezone": "UTC"})


@pytest.mark.anyio
async def test_mcp_everything_answers_over_http(mcp_everything: EverythingServer):
    """A server of npm's, on streamable HTTP."""
    assert "5" in await call(mcp_everything.url, "get-sum", {"a": 2, "b": 3})


def test_a_server_that_dies_at_once_shows_why(tmp_path: Path):
    """Nobody waits a minute for a program that has ended; its output is in the error."""
    server = ServerProcess([sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path / "log")

    with pytest.raises(RuntimeError, match="no luck"):
        server.await_ready(lambda: False)


def test_a_closed_server_leaves_no_process(tmp_path: Path):
    """The pid is free again, children included."""
    with SmtpServer(tmp_path) as server:
        pid = server.pid

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
