"""LLM steps against a real HTTP server that speaks OpenAI's and Anthropic's protocols."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import hive_ray.workers.tools as hive
from hive_ray.config import Settings
from hive_ray.core.messages import Outcome, StepKind
from hive_ray.core.values import decode
from hive_ray.graph.compiled import NodeKind, NodePlan, ToolPlan
from hive_ray.workers.execution import Executor
from hive_ray.workers.tools import Registry
from tests.conftest import StartAimock
from tests.servers import aimock as llm
from tests.servers.process import free_port
from tests.workers import steps
from tests.workers.steps import content, message, node, outputs

GENERATE, TOOL_USE = NodeKind.LLM_GENERATE, NodeKind.LLM_TOOL_USE


@hive.tool(name="crm.lookup")
def lookup(key: str) -> str:
    """Look a customer up."""
    return key


def settings(url: str, **model: Any) -> Settings:
    """Prices: 3 USD in, 15 USD out, 0.3 USD cached, for a million tokens."""
    prices = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15, "cached_input_usd_per_mtok": "0.3"}
    entry = {"provider": "openai-compatible", "model": "mock", "base_url": url, **prices, **model}
    return Settings.model_validate({"models": {"m": entry}})


def ask(made: Settings, plan: NodePlan, inputs: Mapping[str, Any] | None = None, **fields: Any) -> Outcome:
    registry, blobs, compiled = Registry(), steps.Blobs(), steps.graph(plan)
    registry.add(lookup)
    executor = Executor(made, lambda _hash: compiled, blobs.load, blobs.store, registry=registry)

    async def warm_then_run() -> Outcome:
        await executor.warm()
        return await executor.run(steps.lease(StepKind.LLM, "m", inputs, **fields))

    return asyncio.run(warm_then_run())


class Provider:
    """An HTTP endpoint that gives one answer to everything, and keeps what it was sent."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                outer.requests.append(
                    {"body": json.loads(sent), "headers": {k.lower(): v for k, v in self.headers.items()}}
                )
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for key, value in {"content-type": "application/json", **(headers or {})}.items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


StartProvider = Callable[..., Provider]


@pytest.fixture
def provider(request: pytest.FixtureRequest) -> StartProvider:
    def start(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Provider:
        made = Provider(status, body, headers)
        request.addfinalizer(made.close)
        return made

    return start


def completion(
    text: str | None, finish: str = "stop", usage: Mapping[str, Any] | None = None, **extra: Any
) -> Any:
    said = {"role": "assistant", "content": text, **extra}
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "mock",
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": usage or {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }  # fmt: skip


def test_structured_output_goes_by_json_schema(aimock: StartAimock):
    """The request carries ``response_format: json_schema`` and the lease's ``max_tokens``."""
    server = aimock([llm.text('{"draft": "Dear Ann"}')])
    outcome = ask(
        settings(server.openai_url), node(GENERATE, output_keys=("draft",)), {"t": "help"}, max_tokens=99
    )

    assert outputs(outcome) == {"draft": "Dear Ann"}
    body = server.requests()[0]["body"]
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["draft"]
    assert body["max_tokens"] == 99


def test_tool_calls_round_trip_over_http(aimock: StartAimock):
    """A tool's name with a dot reaches the provider in letters that it accepts, and comes back whole."""
    server = aimock([llm.tool_call("crm_lookup", {"key": "k"}, hasToolResult=False), llm.text("It is k.")])
    plan = node(TOOL_USE, output_keys=("answer",), tools=(ToolPlan("crm.lookup"),))
    made = settings(server.openai_url)
    first = ask(made, plan, {"q": "who?"})
    (call,) = content(first).calls
    assert (call.tool, decode(call.arguments["key"]), call.error) == ("crm.lookup", "k", "")

    delta = steps.Blobs().decode(content(first).delta)
    conversation = (
        steps.turn("assistant", delta),
        steps.turn("tool", "k", call_id=call.call_id, name=call.tool),
    )
    second = ask(made, plan, {"q": "who?"}, conversation=conversation)

    assert content(second).done and outputs(second) == {"answer": "It is k."}
    assert [m["role"] for m in server.requests()[-1]["body"]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]


def test_a_rate_limit_is_reported_with_its_wait_and_not_repeated(aimock: StartAimock):
    """Whether and when to try again is the controller's decision: the server saw one request."""
    server = aimock([llm.error(429, "slow down", retry_after_s=7)])
    outcome = ask(settings(server.openai_url), node(GENERATE))

    assert (outcome.failure, outcome.retry_after_us, outcome.started) == ("RATE_LIMITED", 7_000_000, False)
    assert "slow down" in message(outcome)
    assert len(server.requests()) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, {"error": {"message": "boom"}}, "LLM_UNAVAILABLE"),
        (503, {"error": {"message": "overloaded"}}, "LLM_UNAVAILABLE"),
        (401, {"error": {"message": "bad key"}}, "AUTHENTICATION"),
        (403, {"error": {"message": "not yours"}}, "AUTHENTICATION"),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, "CONTEXT_TOO_LONG"),
        (400, {"error": {"message": "the request exceeds the available context size"}}, "CONTEXT_TOO_LONG"),
        (400, {"error": {"message": "flagged", "code": "content_filter"}}, "LLM_REFUSED"),
        (400, {"error": {"message": "no such field"}}, "BAD_INPUT"),
        (404, {"error": {"message": "no such model"}}, "LLM_UNAVAILABLE"),
        (200, b"<html>a proxy's page</html>", "LLM_UNAVAILABLE"),
    ],
)  # fmt: skip
def test_a_providers_error_becomes_a_failure_kind(provider: StartProvider, status: int, body: Any, kind: str):
    """One request each; the provider's own words stand in the message."""
    server = provider(status, body)
    outcome = ask(settings(server.url), node(GENERATE))

    assert outcome.failure == kind, message(outcome)
    assert len(server.requests) == 1
    if isinstance(body, dict):
        assert body["error"]["message"] in message(outcome)


@pytest.mark.parametrize(
    "answer", [completion(None, refusal="I will not"), completion("", finish="content_filter")]
)
def test_a_refusal_is_a_failure_that_was_paid_for(provider: StartProvider, answer: Any):
    """1000 tokens in, 100 out: 4.5 thousandths of a dollar."""
    outcome = ask(settings(provider(200, answer).url), node(GENERATE))

    assert (outcome.failure, outcome.cost_nanousd) == ("LLM_REFUSED", 4_500_000)
    assert outcome.usage is not None and outcome.usage.input_tokens == 1000


@pytest.mark.parametrize(
    "answer",
    [
        completion(None, refusal="a canary of words"),
        completion("a canary of words"),
        completion('{"draft": "a canary of words"}'),
        completion('{"draft": "a canary of words', finish="length"),
    ],
)
def test_what_an_llm_said_outlives_no_run_as_an_error(provider: StartProvider, answer: Any):
    """A refusal, no JSON, JSON that does not fit or is cut short: quoted only where the node records."""
    schema = b'{"type": "object", "properties": {"draft": {"type": "integer"}}}'
    served = settings(provider(200, answer).url)
    plans = [node(GENERATE, output_keys=("draft",), output_schema=schema, record=on) for on in (True, False)]
    quoted, kept = (ask(served, plan) for plan in plans)

    assert quoted.failure == kept.failure != ""
    assert "canary" in message(quoted)
    assert "canary" not in message(kept) and "record: true" in message(kept)


def test_cached_and_reasoning_tokens_are_counted_and_priced(provider: StartProvider):
    """600 tokens at 3 USD, 400 cached at 0.3 USD, 100 out at 15 USD."""
    usage = {
        "prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }  # fmt: skip
    outcome = ask(settings(provider(200, completion("hi", usage=usage)).url), node(GENERATE))

    assert outcome.usage is not None
    assert (outcome.usage.cached_tokens, outcome.usage.reasoning_tokens) == (400, 30)
    assert outcome.cost_nanousd == 600 * 3_000 + 400 * 300 + 100 * 15_000
    assert outcome.usage.latency_us > 0


def test_an_answer_cut_at_max_tokens_says_so(provider: StartProvider):
    """The remedy differs from that of a model that writes no JSON."""
    server = provider(200, completion('{"draft": "Dear', finish="length"))
    outcome = ask(settings(server.url), node(GENERATE, output_keys=("draft",)))

    assert outcome.failure == "INVALID_OUTPUT" and "max_tokens" in message(outcome)


def test_a_slow_answer_times_out(aimock: StartAimock):
    """The lease's own time bounds the call."""
    server = aimock([llm.delayed(llm.text("late"), delay_ms=20_000)])
    outcome = ask(settings(server.openai_url), node(GENERATE), timeout_us=500_000)

    assert (outcome.failure, outcome.started) == ("TIMEOUT", True)
    assert outcome.duration_us < 10_000_000


def test_a_server_that_is_down_was_certainly_not_asked():
    """Connection refused: nothing began."""
    outcome = ask(settings(f"http://127.0.0.1:{free_port()}/v1"), node(GENERATE))

    assert (outcome.failure, outcome.started, outcome.cost_nanousd) == ("LLM_UNAVAILABLE", False, 0)


def test_the_key_goes_to_the_provider_and_nowhere_else(provider: StartProvider, tmp_path: Path):
    """A provider that echoes the key in its error does not bring it into the journal."""
    key = tmp_path / "key"
    key.write_text("canary-key-0815\n")
    server = provider(401, {"error": {"message": "Incorrect API key provided: canary-key-0815"}})
    made = settings(server.url, api_key=f"file:{key}")
    outcome = ask(made, node(GENERATE))

    assert server.requests[0]["headers"]["authorization"] == "Bearer canary-key-0815"
    assert outcome.failure == "AUTHENTICATION"
    assert "canary" not in message(outcome) and b"canary" not in outcome.content


def test_a_key_that_cannot_be_resolved_is_an_authentication_failure(monkeypatch: pytest.MonkeyPatch):
    """The reference is named; nothing was sent."""
    monkeypatch.delenv("NO_SUCH_KEY_HERE", raising=False)
    outcome = ask(settings("http://127.0.0.1:9/v1", api_key="env:NO_SUCH_KEY_HERE"), node(GENERATE))

    assert (outcome.failure, outcome.started) == ("AUTHENTICATION", False)
    assert "NO_SUCH_KEY_HERE" in message(outcome)


def test_anthropic_answers_structured_questions(aimock: StartAimock):
    """By its own protocol; the answer comes as a tool call where the model knows no JSON Schema."""
    server = aimock([llm.tool_call("answer", {"draft": "Dear Ann"})])
    made = settings(server.url, provider="anthropic", model="claude-mock")
    outcome = ask(made, node(GENERATE, output_keys=("draft",)), {"t": "help"})

    assert outputs(outcome) == {"draft": "Dear Ann"}
    assert server.requests()[0]["path"].startswith("/v1/messages")


@pytest.mark.parametrize(
    "claimed",
    [
        {"prompt_tokens": -5, "completion_tokens": -100},
        {"prompt_tokens": 1000, "completion_tokens": -7},
        {"prompt_tokens": 0, "completion_tokens": 0},
    ],
)
@pytest.mark.filterwarnings("ignore:Failed to extract usage")
def test_a_claim_of_nothing_or_less_counts_as_nothing_and_is_flagged(
    provider: StartProvider, claimed: dict[str, int]
):
    """An endpoint cannot pay a run's budget back, and no call has an empty prompt."""
    server = provider(200, completion("text", usage=claimed | {"total_tokens": 0}))
    outcome = ask(settings(server.url), node(GENERATE))

    assert outcome.usage is not None and outcome.usage.disbelieved
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (0, 0)
    assert outcome.cost_nanousd == 0


def test_a_claim_that_can_be_is_not_flagged(provider: StartProvider):
    """The usual case."""
    server = provider(200, completion("text"))
    outcome = ask(settings(server.url), node(GENERATE))

    assert outcome.usage is not None and not outcome.usage.disbelieved
