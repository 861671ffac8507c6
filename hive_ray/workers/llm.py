"""The gateway to LLM providers: one neutral request in, one neutral answer with its price out.

Providers, their SDKs and the price list are imported on first use: a worker that calls no LLM never
pays for them. The SDKs' own retries are off; whether to try again is the controller's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hive_ray.config import ModelSettings, SecretRef
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Usage
from hive_ray.errors import ConfigError
from hive_ray.observe.redaction import register_secrets
from hive_ray.prices import Prices, Rates, price_of
from hive_ray.workers.prompts import AssistantMessage, Call, Message, Prompt, ToolMessage, UserMessage
from hive_ray.workers.step_error import StepError, UnusableAnswer

if TYPE_CHECKING:
    from pydantic_ai.exceptions import ModelAPIError
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters
    from pydantic_ai.settings import ModelSettings as CallSettings

NO_KEY = "none"
"""Sent to endpoints that need no key: the SDKs refuse to start without one."""

_CONTEXT = re.compile(
    r"context[ _](?:length|window|size)|exceed\w* (?:the )?(?:available )?context|too many tokens"
    r"|prompt is too long|maximum context",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content[ _](?:filter|policy)|safety", re.IGNORECASE)


_log = logging.getLogger(__name__)
_FREE = Rates(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one call."""

    timeout_s: float
    max_tokens: int = 0
    """0: what the configuration says."""
    temperature: float | None = None
    rates: Rates = _FREE
    """Prices from the graph's plan, for models that neither configuration nor price list knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and what it cost."""

    message: AssistantMessage
    usage: Usage
    cost_nanousd: int
    data: Any = None
    """The decoded JSON if the prompt asked for a structured answer."""


@dataclass(frozen=True, slots=True)
class _Connected:
    """A model that can be called."""

    client: Model[Any]
    prices: Prices | None = None
    max_tokens: int = 0
    temperature: float | None = None

    def call_settings(self, limits: Limits) -> CallSettings:
        settings: dict[str, Any] = {"timeout": limits.timeout_s, "max_retries": 0}
        if limits.max_tokens or self.max_tokens:
            settings["max_tokens"] = limits.max_tokens or self.max_tokens
        temperature = self.temperature if limits.temperature is None else limits.temperature
        if temperature is not None:
            settings["temperature"] = temperature
        return cast("CallSettings", settings)

    def cost_nanousd(self, response: ModelResponse, limits: Limits) -> int:
        """What the call cost by configuration or price list, else by the graph's plan."""
        usage = response.usage
        cached, written = _believable(usage.cache_read_tokens), _believable(usage.cache_write_tokens)
        asked, said = _believable(usage.input_tokens), _believable(usage.output_tokens)
        rates = self.prices.rates_of(asked) if self.prices else limits.rates
        return rates.cost_nanousd(asked, said, cached, written)


class LlmGateway:
    """Keeps one client for each model.

    Args:
        models: configured models by the name that graphs use.
        resolve: turns a secret reference into its value.
        clients: ready pydantic-ai models by name, instead of configured ones (scripted models).
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        resolve: Callable[[SecretRef], str],
        clients: Mapping[str, Model[Any]] | None = None,
    ) -> None:
        self._models = models
        self._resolve = resolve
        self._connected = {name: _Connected(client) for name, client in (clients or {}).items()}
        self._disbelieved: set[str] = set()
        """Models of which the log has said so."""
        self._lock = asyncio.Lock()

    async def ask(self, name: str, prompt: Prompt, limits: Limits) -> Answer:
        """One LLM call.

        Raises:
            StepError: every way in which it can fail, with what it was billed for if that is known.
        """
        connected = await self._connection(name)
        names = _WireNames(prompt)
        started = time.perf_counter()
        response = await _request(name, connected, prompt, names, limits)
        usage = _usage(response, round((time.perf_counter() - started) * 1e6))
        if usage.disbelieved and name not in self._disbelieved:
            self._disbelieved.add(name)
            _log.warning("an endpoint claims token counts that no call has", extra={"model": name})
        try:
            message, data = _read(name, prompt, names, response)
        except StepError as error:
            error.usage, error.cost_nanousd = usage, connected.cost_nanousd(response, limits)
            raise
        return Answer(message, usage, connected.cost_nanousd(response, limits), data)

    async def warm(self) -> None:
        """Import and connect what is configured, so that no step's time pays for it.

        A model that cannot be connected now says so in its first step.
        """
        for name in self._models:
            with contextlib.suppress(StepError):
                await self._connection(name)

    async def _connection(self, name: str) -> _Connected:
        known = self._connected.get(name)
        if known is not None:
            return known
        async with self._lock:
            if name not in self._connected:
                # Imports a provider's SDK and perhaps the price list: seconds, off the event loop.
                self._connected[name] = await asyncio.to_thread(self._connect, name)
        return self._connected[name]

    def _connect(self, name: str) -> _Connected:
        settings = self._models.get(name)
        if settings is None:
            known = ", ".join(sorted(self._models)) or "none is configured"
            message = f"no model {name!r} here; models: {known}"
            raise StepError(FailureKind.LLM_UNAVAILABLE, message, started=False)
        try:
            key = NO_KEY if settings.api_key is None else self._resolve(settings.api_key)
        except ConfigError as error:
            raise StepError(FailureKind.AUTHENTICATION, f"model {name}: {error}", started=False) from error
        register_secrets([key] if settings.api_key is not None else [])
        client = _anthropic(settings, key) if settings.provider == "anthropic" else _openai(settings, key)
        return _Connected(client, price_of(settings), settings.max_tokens, settings.temperature)


async def _request(
    name: str, connected: _Connected, prompt: Prompt, names: _WireNames, limits: Limits
) -> ModelResponse:
    from pydantic_ai import direct, exceptions

    try:
        async with asyncio.timeout(limits.timeout_s):
            return await direct.model_request(
                connected.client,
                _messages(prompt, names),
                model_settings=connected.call_settings(limits),
                model_request_parameters=_parameters(connected.client, prompt, names),
            )
    except exceptions.ModelAPIError as error:
        raise _failure(name, error) from error
    except exceptions.ContentFilterError as error:
        raise StepError(FailureKind.LLM_REFUSED, f"model {name}: {error.message}") from error
    except exceptions.UnexpectedModelBehavior as error:
        message = f"model {name}: the answer cannot be read"
        raise UnusableAnswer(FailureKind.INVALID_OUTPUT, message, error.message) from error
    except TimeoutError as error:
        message = f"model {name} gave no answer within {limits.timeout_s:g} s"
        raise StepError(FailureKind.TIMEOUT, message) from error


def _read(
    name: str, prompt: Prompt, names: _WireNames, response: ModelResponse
) -> tuple[AssistantMessage, Any]:
    """What the model said, and the JSON in it if the prompt asked for a structured answer."""
    refusal = (response.provider_details or {}).get("refusal")
    if response.finish_reason == "content_filter" or refusal:
        why = "" if refusal else ": content filter"
        raise UnusableAnswer(FailureKind.LLM_REFUSED, f"model {name} refused{why}", str(refusal or ""))
    spoken = _spoken(response, names)
    if prompt.answer is None:
        return spoken, None
    return spoken, _structured(name, spoken, response.finish_reason == "length")


def _anthropic(settings: ModelSettings, key: str) -> Model[Any]:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    return AnthropicModel(settings.model, provider=AnthropicProvider(api_key=key, base_url=settings.base_url))


def _openai(settings: ModelSettings, key: str) -> Model[Any]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile

    if settings.provider == "openai":
        from pydantic_ai.providers.openai import OpenAIProvider

        provider = OpenAIProvider(api_key=key, base_url=settings.base_url)
        return OpenAIChatModel(settings.model, provider=provider)
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    compatible = OpenAICompatibleProvider("openai-compatible", base_url=settings.base_url or "", api_key=key)
    # ``max_tokens`` is the older name that every compatible server knows.
    profile = OpenAIModelProfile(
        supports_json_schema_output=True, openai_chat_supports_max_completion_tokens=False
    )
    return OpenAIChatModel(settings.model, provider=compatible, profile=profile)


class _WireNames:
    """Tool names as providers accept them (letters, digits, ``_`` and ``-``), and back."""

    def __init__(self, prompt: Prompt) -> None:
        self._wire: dict[str, str] = {}
        self._own: dict[str, str] = {}
        for tool in prompt.tools:
            self.wire(tool.name)

    def wire(self, name: str) -> str:
        known = self._wire.get(name)
        if known is not None:
            return known
        base = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60] or "tool"
        wire, n = base, 2
        while wire in self._own:
            wire, n = f"{base}_{n}", n + 1
        self._wire[name], self._own[wire] = wire, name
        return wire

    def own(self, wire: str) -> str:
        return self._own.get(wire, wire)


def _parameters(client: Model[Any], prompt: Prompt, names: _WireNames) -> ModelRequestParameters:
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.output import OutputObjectDefinition
    from pydantic_ai.tools import ToolDefinition

    tools = [
        ToolDefinition(
            name=names.wire(t.name),
            description=t.description,
            parameters_json_schema=dict(t.schema),
            strict=False,
        )
        for t in prompt.tools
    ]
    if prompt.answer is None:
        return ModelRequestParameters(function_tools=tools)
    schema = dict(prompt.answer)
    if client.profile.get("supports_json_schema_output", False):
        wanted = OutputObjectDefinition(json_schema=schema, name="answer", strict=False)
        return ModelRequestParameters(output_mode="native", output_object=wanted, allow_text_output=True)
    answer = ToolDefinition(
        name=_ANSWER, description="Give the answer.", parameters_json_schema=schema, kind="output"
    )
    return ModelRequestParameters(output_mode="tool", output_tools=[answer], allow_text_output=False)


_ANSWER = "answer"


def _messages(prompt: Prompt, names: _WireNames) -> list[ModelMessage]:
    """Neutral messages in the provider library's form: what is not the assistant's is one request."""
    from pydantic_ai.messages import ModelRequest, SystemPromptPart

    out: list[ModelMessage] = []
    parts: list[Any] = [SystemPromptPart(prompt.system)] if prompt.system else []
    for message in prompt.messages:
        if isinstance(message, AssistantMessage):
            if parts:
                out.append(ModelRequest(parts=parts))
            out.append(_assistant(message, names))
            parts = []
        else:
            parts.append(_part(message, names))
    if parts:
        out.append(ModelRequest(parts=parts))
    return out


def _part(message: Message, names: _WireNames) -> Any:
    from pydantic_ai.messages import ToolReturnPart, UserPromptPart

    if isinstance(message, ToolMessage):
        text = f"error: {message.text}" if message.failed else message.text
        return ToolReturnPart(names.wire(message.name), text, message.call_id)
    assert isinstance(message, UserMessage)
    return UserPromptPart(message.text)


def _assistant(message: AssistantMessage, names: _WireNames) -> ModelResponse:
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

    parts: list[Any] = [TextPart(message.text)] if message.text else []
    parts += [ToolCallPart(names.wire(c.name), c.arguments, c.id) for c in message.calls]
    return ModelResponse(parts=parts)


def _spoken(response: ModelResponse, names: _WireNames) -> AssistantMessage:
    from pydantic_ai.messages import TextPart, ToolCallPart

    texts = [part.content for part in response.parts if isinstance(part, TextPart)]
    calls = [
        Call(part.tool_call_id, names.own(part.tool_name), _arguments(part.args))
        for part in response.parts
        if isinstance(part, ToolCallPart)
    ]
    return AssistantMessage("".join(texts), tuple(calls))


def _arguments(raw: Any) -> Any:
    """A JSON object as a dict; anything else as the text that the model wrote."""
    if raw is None or raw == "":
        return {}
    if not isinstance(raw, str):
        return raw
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw
    return value if isinstance(value, dict) else raw


def _structured(name: str, spoken: AssistantMessage, cut: bool) -> Any:
    for call in spoken.calls:
        if call.name == _ANSWER and isinstance(call.arguments, dict):
            return cast("dict[str, Any]", call.arguments)
    try:
        return parse_json(spoken.text)
    except ValueError as error:
        why = "was cut at max_tokens" if cut else "is not JSON"
        message = f"model {name}: the answer {why}"
        raise UnusableAnswer(FailureKind.INVALID_OUTPUT, message, _beginning(spoken.text)) from error


_FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


def parse_json(text: str) -> Any:
    """JSON in an answer, with or without a code fence around it.

    Raises:
        ValueError: there is none.
    """
    fenced = _FENCE.match(text)
    return msgspec.json.decode(fenced.group(1) if fenced else text)


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")


MOST_TOKENS = 1_000_000_000
"""No call uses more; an endpoint that says so is not believed beyond it."""


def _usage(response: ModelResponse, latency_us: int) -> Usage:
    usage = response.usage
    reasoning = (usage.details or {}).get("reasoning_tokens", 0)
    cached = (usage.cache_read_tokens, usage.cache_write_tokens)
    claims = (usage.input_tokens, usage.output_tokens, *cached, reasoning)
    return Usage(
        _believable(usage.input_tokens),
        _believable(usage.output_tokens),
        _believable(usage.cache_read_tokens),
        _believable(reasoning),
        latency_us,
        # The library makes 0 of what it cannot read; no call has an empty prompt.
        usage.input_tokens <= 0 or any(claimed != _believable(claimed) for claimed in claims),
    )


def _believable(tokens: int) -> int:
    return min(max(tokens, 0), MOST_TOKENS)


def _failure(name: str, error: ModelAPIError) -> StepError:
    """A provider's error as a failure kind."""
    kind, started = _kind(error)
    wait_us = round((error.retry_after or 0) * 1e6)
    return StepError(kind, f"model {name}: {_reason(error)}", retry_after_us=wait_us, started=started)


def _kind(error: ModelAPIError) -> tuple[FailureKind, bool]:
    """The kind, and whether the call may have begun."""
    from pydantic_ai import exceptions as e

    if isinstance(error, e.ModelConnectionError) and not isinstance(error, e.ModelTimeoutError):
        return FailureKind.LLM_UNAVAILABLE, error.phase not in ("pool", "connect")
    kinds: tuple[tuple[type[ModelAPIError], FailureKind, bool], ...] = (
        (e.ModelRateLimitError, FailureKind.RATE_LIMITED, False),
        (e.ModelQuotaExceededError, FailureKind.LLM_UNAVAILABLE, False),
        (e.ModelNotFoundError, FailureKind.LLM_UNAVAILABLE, False),
        (e.ModelTimeoutError, FailureKind.TIMEOUT, True),
        (e.ModelAuthenticationError, FailureKind.AUTHENTICATION, False),
        (e.ModelContextWindowExceededError, FailureKind.CONTEXT_TOO_LONG, False),
        (e.ModelUnavailableError, FailureKind.LLM_UNAVAILABLE, True),
        (e.ModelServerError, FailureKind.LLM_UNAVAILABLE, True),
    )
    for kind_of_error, kind, begun in kinds:
        if isinstance(error, kind_of_error):
            return kind, begun
    return _rejected(error)


def _rejected(error: ModelAPIError) -> tuple[FailureKind, bool]:
    """Requests that a provider refuses without saying why in a way that the library knows."""
    said = f"{error.provider_error_code} {error.body}"
    status = cast("int", getattr(error, "status_code", 0))
    if _CONTEXT.search(said):
        return FailureKind.CONTEXT_TOO_LONG, False
    if _FILTERED.search(said):
        return FailureKind.LLM_REFUSED, False
    if status >= 500:
        return FailureKind.LLM_UNAVAILABLE, True
    return (FailureKind.BAD_INPUT, False) if status >= 400 else (FailureKind.LLM_UNAVAILABLE, True)


def _reason(error: ModelAPIError) -> str:
    status = getattr(error, "status_code", None)
    body: Any = error.body
    if isinstance(body, Mapping):
        inner = cast("Mapping[str, Any]", body)
        nested = inner.get("error")
        said: Any = cast("Mapping[str, Any]", nested).get("message") if isinstance(nested, Mapping) else None
        body = said or inner.get("message") or body
    text = str(body) if body else error.message
    return f"HTTP {status}: {text}" if status else text
