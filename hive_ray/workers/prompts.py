"""What an LLM is told: a node's prompts, its inputs, and its conversation so far.

Everything here is text and plain data, independent of any provider. The neutral form of an
assistant message (a conversation's *delta*) is::

    {"text": str, "calls": [{"id": str, "name": str, "arguments": dict | str}]}

``arguments`` is a string only when the model wrote something that is not a JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from hive_ray.graph.compiled import CompiledGraph, NodePlan
from hive_ray.graph.wording import (
    ASK_USER,
    DEFAULT_TASK,
    PLACEHOLDER,
    SET_OUTPUT,
    ToolSchema,
    mentioned,
)

ACKNOWLEDGED = "ok"
SHOWN_CHARS = 40
"""So much of a wrong key is shown to the model that wrote it."""


@dataclass(frozen=True, slots=True)
class UserMessage:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as the model wrote it."""

    id: str
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    text: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolMessage:
    """The answer to one call of the assistant message before it."""

    call_id: str
    name: str
    text: str
    failed: bool = False


Message = UserMessage | AssistantMessage | ToolMessage


@dataclass(frozen=True, slots=True)
class Prompt:
    """One whole LLM request, neutral of providers."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    answer: Mapping[str, Any] | None = None
    """JSON Schema of the answer; ``None`` asks for plain text."""


def prompt_bytes(prompt: Prompt) -> int:
    """Bytes of all that a model reads: texts, arguments as JSON, names and ids, schemas."""
    shown = [as_text({"description": t.description, "schema": t.schema}) for t in prompt.tools]
    texts = [prompt.system, *shown, *(tool.name for tool in prompt.tools)]
    if prompt.answer is not None:
        texts.append(as_text(prompt.answer))
    for message in prompt.messages:
        texts += _texts(message)
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def _texts(message: Message) -> list[str]:
    if isinstance(message, ToolMessage):
        return [message.call_id, message.name, "error: " if message.failed else "", message.text]
    if isinstance(message, UserMessage):
        return [message.text]
    said = [text for call in message.calls for text in (call.id, call.name, as_text(call.arguments))]
    return [message.text, *said]


@dataclass(frozen=True, slots=True)
class Entry:
    """One turn of a conversation, decoded (see ``core.messages.Turn``)."""

    role: str
    value: Any
    call_id: str = ""
    name: str = ""
    failed: bool = False
    edited: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """All that an LLM step knows, decoded."""

    graph: CompiledGraph
    node: NodePlan
    inputs: Mapping[str, Any]
    call: int = 0
    conversation: tuple[Entry, ...] = ()
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What is set so far (agent loops), or the node's outputs (``DECIDE``)."""
    tools: tuple[ToolSchema, ...] = ()
    serial: int = 0
    """Of the visit: with ``call``, unique in the run."""
    dropped: int = 0
    """Entries at the beginning of the conversation that there was no room for."""


def as_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Replace ``{key}`` and ``{{key}}`` of known keys; everything else stays as written.

    One pass: what a value contains is never looked at again, so an input cannot reach other inputs.
    """

    def one(match: re.Match[str]) -> str:
        key = match.group(1) or match.group(2)
        return as_text(values[key]) if key in values else match.group()

    return PLACEHOLDER.sub(one, template)


def system_text(situation: Situation, *more: str) -> str:
    """Identity, the node's own prompt, and what the kind of node adds."""
    node = situation.node
    own = fill(node.prompt, situation.inputs)
    return "\n\n".join(part for part in (situation.graph.identity_prompt, own, *more) if part)


def task_text(situation: Situation) -> str:
    """The instruction with its inputs; inputs that neither prompt mentions follow as JSON."""
    node, inputs = situation.node, situation.inputs
    used = {*mentioned(node.instruction), *mentioned(node.prompt)}
    rest = {key: value for key, value in inputs.items() if key not in used}
    parts = [fill(node.instruction, inputs)] if node.instruction else []
    if rest:
        parts.append(as_text(rest))
    return "\n\n".join(parts) or node.description or DEFAULT_TASK


def left_out(situation: Situation) -> tuple[Message, ...]:
    """What stands in the place of turns that there was no room for."""
    if not situation.dropped:
        return ()
    known = ", ".join(key for key in situation.node.output_keys if key in situation.outputs)
    is_set = f" Set by now: {known}." if known else ""
    return (UserMessage(f"[{situation.dropped} earlier messages are left out.{is_set}]"),)


def delta_of(message: AssistantMessage) -> dict[str, Any]:
    """The neutral form, as it rests in a conversation."""
    calls = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in message.calls]
    return {"text": message.text, "calls": calls}


def message_of(delta: Any) -> AssistantMessage:
    """Inverse of ``delta_of``."""
    calls = tuple(Call(c["id"], c["name"], c["arguments"]) for c in delta.get("calls", ()))
    return AssistantMessage(delta.get("text", ""), calls)


def missing_outputs(node: NodePlan, is_set: Iterable[str]) -> list[str]:
    """Outputs that must still be set, in declaration order."""
    known = set(is_set) | set(node.nullable_keys)
    return [key for key in node.output_keys if key not in known]


def replay(
    node: NodePlan,
    conversation: Sequence[Entry],
    elsewhere: Collection[str] = (),
    before: Collection[str] = (),
) -> tuple[Message, ...]:
    """A loop's conversation as messages.

    Every call of an assistant message is answered right behind it, whatever the journal holds: a
    provider refuses a conversation in which one is not.

    Args:
        elsewhere: outputs of the nodes whose conversation this one goes on with.
        before: outputs that were set in turns that are left out.
    """
    results = {entry.call_id: entry for entry in conversation if entry.role == "tool"}
    messages: list[Message] = []
    is_set: set[str] = set(before)
    for index, entry in enumerate(conversation):
        if entry.role == "user":
            messages.append(UserMessage(as_text(entry.value)))
        elif entry.role == "assistant":
            spoken = message_of(entry.value)
            messages.append(spoken)
            messages.extend(_answer(node, call, results, is_set, elsewhere) for call in spoken.calls)
            following = conversation[index + 1].role if index + 1 < len(conversation) else ""
            if not spoken.calls and following != "user":
                messages.append(UserMessage(_nudge(node, is_set)))
    return tuple(messages)


def _answer(
    node: NodePlan, call: Call, results: Mapping[str, Entry], is_set: set[str], elsewhere: Collection[str]
) -> ToolMessage:
    entry = results.get(call.id)
    if entry is not None:
        return ToolMessage(call.id, call.name, _edit_of(entry) + as_text(entry.value), entry.failed)
    if call.name == ASK_USER:
        return ToolMessage(call.id, call.name, ACKNOWLEDGED)
    if call.name == SET_OUTPUT:
        problem = set_output_problem(node, call.arguments)
        if not problem:
            is_set.add(call.arguments["key"])
        elif isinstance(call.arguments, dict) and call.arguments.get("key") in elsewhere:  # pyright: ignore
            problem = ""
        return ToolMessage(call.id, call.name, problem or ACKNOWLEDGED, bool(problem))
    return ToolMessage(call.id, call.name, "this call was not carried out", failed=True)


def _edit_of(entry: Entry) -> str:
    """That what follows came of other arguments than the model's own: it must not reason from those."""
    if entry.edited is None:
        return ""
    return f"[A person changed the arguments of this call to {as_text(entry.edited)}]\n"


def set_output_problem(node: NodePlan, arguments: Any) -> str:
    """Why a ``set_output`` call sets nothing, or nothing."""
    keys = ", ".join(node.output_keys)
    if not isinstance(arguments, dict) or not {"key", "value"} <= cast("dict[str, Any]", arguments).keys():
        return f"{SET_OUTPUT} takes a key and a value; the keys are {keys}"
    given = cast("dict[str, Any]", arguments)["key"]
    if isinstance(given, str) and given in node.output_keys:
        return ""
    # Cut, since what a model is told counts against its run's budget before it is known.
    return f"no output {repr(given)[:SHOWN_CHARS]}; the keys are {keys}"


def _nudge(node: NodePlan, is_set: Iterable[str]) -> str:
    missing = missing_outputs(node, is_set)
    if missing:
        return f"Not done yet. Set these with {SET_OUTPUT}: {', '.join(missing)}."
    return "Go on."
