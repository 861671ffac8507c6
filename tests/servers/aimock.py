"""npm's aimock: a deterministic HTTP server that speaks OpenAI's and Anthropic's protocols.

A fixture is ``{"match": …, "response": …}``; the first that matches answers. ``match`` may name
``userMessage`` (substring of the last user message), ``systemMessage``, ``model``, ``toolName`` (a tool is
offered), ``hasToolResult``, ``turnIndex``, ``sequenceIndex`` (n-th use of that match); ``{}`` matches all.
What no fixture matches is answered with an error.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import NODE_SCRIPTS, ServerProcess, accepts, free_port

Fixture = dict[str, Any]


def text(content: str, **match: Any) -> Fixture:
    """An answer in words (or in JSON, as a string)."""
    return {"match": match, "response": {"content": content}}


def tool_call(name: str, arguments: Mapping[str, Any], **match: Any) -> Fixture:
    """An answer that calls one tool."""
    return {"match": match, "response": {"toolCalls": [{"name": name, "arguments": dict(arguments)}]}}


def error(status: int, message: str, retry_after_s: int | None = None, **match: Any) -> Fixture:
    """An HTTP error; a 429 carries ``Retry-After`` (1 s unless told)."""
    response: dict[str, Any] = {"error": {"message": message}, "status": status}
    if retry_after_s is not None:
        response["retryAfter"] = retry_after_s
    return {"match": match, "response": response}


def delayed(fixture: Fixture, delay_ms: int) -> Fixture:
    """The same answer after a pause (30,000 ms at most)."""
    return {**fixture, "chaos": {"latencyMs": delay_ms}}


class AimockServer(ServerProcess):
    """A running aimock with those fixtures."""

    def __init__(self, fixtures: Sequence[Fixture], folder: Path) -> None:
        file = folder / "fixtures.json"
        file.write_text(json.dumps({"fixtures": list(fixtures)}), "utf-8")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.openai_url = f"{self.url}/v1"
        argv = [str(NODE_SCRIPTS / "llmock"), "--port", str(port), "--fixtures", str(file)]
        options = ["--strict", "--validate-on-load", "--journal-max", "0"]
        super().__init__([*argv, *options], folder / "aimock.log")
        self.await_ready(lambda: accepts(port))

    def requests(self) -> list[dict[str, Any]]:
        """Every request that came in, with its body and status, in order."""
        with urllib.request.urlopen(f"{self.url}/__aimock/journal", timeout=10) as reply:
            return json.load(reply)
