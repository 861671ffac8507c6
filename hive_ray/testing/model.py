"""A scripted model: an LLM that says what it was told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model
    from pydantic_ai.models.function import AgentInfo


@dataclass(frozen=True, slots=True)
class Calls:
    """A scripted answer that calls tools: ``Calls(("search", {"query": "x"}), …)``."""

    calls: tuple[tuple[str, Any], ...]
    text: str

    def __init__(self, *calls: tuple[str, Any], text: str = "") -> None:
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "text", text)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that a scripted model got."""

    messages: list[ModelMessage]
    tools: tuple[str, ...]
    schema: Mapping[str, Any] | None
    max_tokens: int

    @property
    def text(self) -> str:
        """Everything that was said, system prompt first."""
        parts = (part for message in self.messages for part in message.parts)
        return "\n".join(str(getattr(part, "content", "")) for part in parts)


ScriptedAnswer = str | Mapping[str, Any] | Calls | Exception


class ScriptedModel:
    """An LLM that says what it was told to, one answer a call, and remembers what it was asked.

    Args:
        answers: text, a dict (a structured answer), ``Calls``, or an exception that is raised; or a
            function from ``Asked`` to one of these.
    """

    def __init__(self, answers: Iterable[ScriptedAnswer] | Callable[[Asked], ScriptedAnswer]) -> None:
        self.asked: list[Asked] = []
        self._next: Callable[[Asked], ScriptedAnswer]
        self._next = answers if callable(answers) else _in_turn(iter(answers))

    def client(self) -> Model[Any]:
        """For ``LlmGateway(clients={"name": scripted.client()})``."""
        from pydantic_ai.models.function import FunctionModel
        from pydantic_ai.profiles import ModelProfile

        return FunctionModel(self._answer, profile=ModelProfile(supports_json_schema_output=True))

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        wanted = info.model_request_parameters.output_object
        settings = info.model_settings or {}
        asked = Asked(
            list(messages),
            tuple(tool.name for tool in info.function_tools),
            wanted.json_schema if wanted else None,
            settings.get("max_tokens", 0),
        )
        self.asked.append(asked)
        answer = self._next(asked)
        if isinstance(answer, Exception):
            raise answer
        return _response(answer)


def _in_turn(answers: Iterator[ScriptedAnswer]) -> Callable[[Asked], ScriptedAnswer]:
    def answer(asked: Asked) -> ScriptedAnswer:
        try:
            return next(answers)
        except StopIteration:
            raise AssertionError(f"the script has no answer left for: {asked.text[-500:]}") from None

    return answer


def _response(answer: str | Mapping[str, Any] | Calls) -> ModelResponse:
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.usage import RequestUsage

    if isinstance(answer, Calls):
        parts: list[Any] = [TextPart(answer.text)] if answer.text else []
        parts += [ToolCallPart(name, arguments) for name, arguments in answer.calls]
    else:
        parts = [TextPart(answer if isinstance(answer, str) else json.dumps(answer))]
    return ModelResponse(parts=parts, usage=RequestUsage(input_tokens=100, output_tokens=20))
