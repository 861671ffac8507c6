"""What each kind of LLM node asks, and what its answer means.

A behaviour is a pair of pure functions: ``prompt`` of a situation, and ``read`` of an answer. The
call between them belongs to the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec

from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepKind
from hive_ray.graph.compiled import NodeKind, NodePlan
from hive_ray.graph.wording import (
    ASK_USER,
    SET_OUTPUT,
    answer_text,
    decide_schema,
    decide_text,
    decisions,
    final_answer_text,
    loop_text,
    loop_tools,
    outputs_schema,
    route_keys,
    route_schema,
    route_text,
)
from hive_ray.workers.context import ToolContext
from hive_ray.workers.llm import Answer, parse_json
from hive_ray.workers.prompts import (
    AssistantMessage,
    Call,
    Prompt,
    Situation,
    UserMessage,
    as_text,
    delta_of,
    left_out,
    message_of,
    missing_outputs,
    replay,
    set_output_problem,
    system_text,
    task_text,
)
from hive_ray.workers.step_error import StepError, UnusableAnswer


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tool call that the model asked for; ``error`` says why it cannot run."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    error: str = ""


class Produced(msgspec.Struct, frozen=True):
    """What a step gave, decoded; ``execution`` packs it into ``StepContent``.

    No dataclass, as the others here: a frozen one takes 1 us to make, and every step makes it.
    """

    outputs: Mapping[str, Any] = {}
    delta: Any = None
    calls: tuple[Wanted, ...] = ()
    question: str | None = None
    done: bool = False
    route: str = ""
    chosen: tuple[str, ...] = ()
    answers: int = 0
    """Calls in ``delta``: the next prompt answers each of them."""
    context: ToolContext | None = None
    """Holds what a Python step leaves behind: artifacts and memory."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    prompt: Callable[[Situation], Prompt]
    read: Callable[[Situation, Answer], Produced]


def behaviour(kind: StepKind, node: NodePlan) -> Behaviour:
    """The behaviour of one LLM step.

    Raises:
        StepError: ``INTERNAL``: the node's kind asks no LLM.
    """
    if kind is StepKind.DECIDE:
        return DECIDE
    known = _BY_NODE.get(node.kind)
    if known is None:
        raise StepError(FailureKind.INTERNAL, f"node {node.id} ({node.kind}) has no LLM step", started=False)
    return known


def _generate_prompt(situation: Situation) -> Prompt:
    node = situation.node
    ask = (UserMessage(task_text(situation)),)
    if not node.output_keys:
        return Prompt(system_text(situation), ask)
    return Prompt(system_text(situation, answer_text(node.output_keys)), ask, answer=outputs_schema(node))


def _generate_read(situation: Situation, answer: Answer) -> Produced:
    if not situation.node.output_keys:
        return Produced()
    return Produced(outputs=_checked(situation.node, _object(situation.node, answer.data)))


def _route_prompt(situation: Situation) -> Prompt:
    node = situation.node
    system = system_text(situation, route_text(situation.graph, node), answer_text(route_keys(node)))
    return Prompt(system, (UserMessage(task_text(situation)),), answer=route_schema(node))


def _route_read(situation: Situation, answer: Answer) -> Produced:
    node = situation.node
    given = _object(node, answer.data)
    route = given.get("route")
    if not isinstance(route, str) or route not in node.routes:
        right = ", ".join(node.routes)
        raise _invalid(f"router {node.id} answered no route; one of {right} would be right", repr(route))
    return Produced(outputs={key: given.get(key) for key in node.output_keys}, route=route)


def _decide_prompt(situation: Situation) -> Prompt:
    edges = decisions(situation.graph, situation.node)
    known = {**situation.inputs, **situation.outputs}
    system = "\n\n".join(part for part in (situation.graph.identity_prompt, decide_text(edges)) if part)
    return Prompt(system, (UserMessage(as_text(known)),), answer=decide_schema(list(edges)))


def _decide_read(situation: Situation, answer: Answer) -> Produced:
    edges = decisions(situation.graph, situation.node)
    given = _object(situation.node, answer.data).get("edges")
    if not isinstance(given, list):
        raise _invalid(f"node {situation.node.id}: the decision has no list of edges")
    named = cast("list[Any]", given)
    unknown = [edge for edge in named if edge not in edges]
    if unknown:
        right = ", ".join(edges)
        raise _invalid(f"node {situation.node.id} chose no edge; {right} would be right", repr(unknown[0]))
    return Produced(chosen=tuple(edge for edge in edges if edge in named))


def _tool_use_prompt(situation: Situation) -> Prompt:
    node = situation.node
    said = replay(node, situation.conversation)
    messages = (UserMessage(task_text(situation)), *left_out(situation), *said)
    return Prompt(system_text(situation, final_answer_text(node)), messages, situation.tools)


def _tool_use_read(situation: Situation, answer: Answer) -> Produced:
    message = _with_ids(situation, answer.message)
    if message.calls:
        wanted = _wanted(situation, message.calls)
        return Produced(delta=delta_of(message), calls=wanted, answers=len(wanted))
    outputs = _final(situation.node, message.text)
    return Produced(outputs=outputs, delta=delta_of(message), done=True)


def _final(node: NodePlan, text: str) -> Mapping[str, Any]:
    """The outputs in a final text: a JSON object with the keys, or the text itself if there is one key."""
    keys = node.output_keys
    if not keys:
        return {}
    only = keys[0] if len(keys) == 1 else ""
    given = _json_object(text)
    if given is not None and (not only or only in given):
        return _checked(node, given)
    if only and text.strip():
        return _checked(node, {only: text})
    raise _invalid(f"node {node.id}: the final answer has no JSON object with {', '.join(keys)}")


def _json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that is the text, or that stands in it between other words."""
    start, end = text.find("{"), text.rfind("}")
    for candidate in (text, text[start : end + 1] if 0 <= start < end else ""):
        try:
            value = parse_json(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return cast("dict[str, Any]", value)
    return None


def _loop_prompt(situation: Situation) -> Prompt:
    node, graph = situation.node, situation.graph
    elsewhere = {key for other in graph.nodes for key in other.output_keys} if graph.continuous else ()
    before = situation.outputs if situation.dropped else ()
    said = replay(node, situation.conversation, elsewhere, before)
    messages = (UserMessage(task_text(situation)), *left_out(situation), *said)
    return Prompt(system_text(situation, loop_text(node)), messages, (*situation.tools, *loop_tools(node)))


def _loop_read(situation: Situation, answer: Answer) -> Produced:
    node = situation.node
    message = _with_ids(situation, answer.message)
    real = _wanted(situation, [call for call in message.calls if call.name not in (SET_OUTPUT, ASK_USER)])
    outputs = _checked_partly(node, _set_now(node, message.calls))
    missing = missing_outputs(node, (*situation.outputs, *outputs))
    question = _question(node, message)
    done = _loop_done(node, message, real, missing, question)
    asked = None if done else question
    return Produced(outputs, delta_of(message), real, asked, done, answers=len(message.calls))


def _set_now(node: NodePlan, calls: Iterable[Call]) -> dict[str, Any]:
    given = [c.arguments for c in calls if c.name == SET_OUTPUT and not set_output_problem(node, c.arguments)]
    return {arguments["key"]: arguments["value"] for arguments in given}


def _question(node: NodePlan, message: AssistantMessage) -> str | None:
    """What the client is asked: ``ask_user``, or plain text when nothing else was said."""
    if not node.client_facing:
        return None
    for call in message.calls:
        if call.name == ASK_USER and isinstance(call.arguments, dict):
            return str(cast("dict[str, Any]", call.arguments).get("question") or message.text)
    return message.text if message.text and not message.calls else None


def _loop_done(
    node: NodePlan,
    message: AssistantMessage,
    real: tuple[Wanted, ...],
    missing: list[str],
    question: str | None,
) -> bool:
    asks = any(call.name == ASK_USER for call in message.calls) and question is not None
    if real or missing or asks:
        return False
    if len(node.output_keys) > len(node.nullable_keys):
        return True
    # Nothing has to be set: the loop ends when the model has nothing more to do. With a client
    # it goes on until the client completes it.
    return not message.calls and not node.client_facing


def _with_ids(situation: Situation, message: AssistantMessage) -> AssistantMessage:
    """Every call with an id of its own in the whole conversation; some models repeat theirs."""
    used = {c.id for e in situation.conversation if e.role == "assistant" for c in message_of(e.value).calls}
    calls: list[Call] = []
    place = f"{situation.serial}_{situation.call}" if situation.dropped else f"{situation.call}"
    for position, call in enumerate(message.calls):
        # Which ids stand in turns that were left out is not known here.
        proper = bool(_ID.match(call.id)) and call.id not in used and not situation.dropped
        chosen = call.id if proper else f"call_{place}_{position}"
        used.add(chosen)
        calls.append(Call(chosen, call.name, call.arguments))
    return AssistantMessage(message.text, tuple(calls))


_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


def _wanted(situation: Situation, calls: Iterable[Call]) -> tuple[Wanted, ...]:
    known = {tool.name for tool in situation.tools}
    return tuple(_judged(call, known) for call in calls)


def _judged(call: Call, known: set[str]) -> Wanted:
    if call.name not in known:
        tools = ", ".join(sorted(known)) or "none"
        return Wanted(call.id, call.name, {}, f"unknown tool {call.name!r}; the tools are: {tools}")
    if not isinstance(call.arguments, dict):
        return Wanted(call.id, call.name, {}, "the arguments are not a JSON object")
    return Wanted(call.id, call.name, cast("dict[str, Any]", call.arguments))


def _object(node: NodePlan, data: Any) -> dict[str, Any]:
    if isinstance(data, dict):
        return cast("dict[str, Any]", data)
    raise _invalid(f"node {node.id}: the answer is {type(data).__name__}; a JSON object would be right")


def _checked(node: NodePlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The declared outputs, complete and as the node's schema wants them."""
    missing = missing_outputs(node, given)
    if missing:
        raise _invalid(f"node {node.id}: the answer has no {', '.join(missing)}")
    return _checked_partly(node, {key: given[key] for key in node.output_keys if key in given})


def _checked_partly(node: NodePlan, given: dict[str, Any]) -> dict[str, Any]:
    """Hold each value that is there against its part of the node's schema."""
    if node.output_schema and given:
        schema = outputs_schema(node)
        present = {"properties": {key: schema["properties"][key] for key in given}}
        problem = misfit(schema | present | {"required": []}, given)
        if problem is not None:
            raise _invalid(f"node {node.id}: {problem.place} does not fit {problem.rule}", problem.message)
    return given


class Misfit(NamedTuple):
    """The first way in which a value does not fit a JSON Schema; the message quotes the value."""

    place: str
    rule: str
    message: str


def misfit(schema: Mapping[str, Any], value: Any) -> Misfit | None:
    """How a value does not fit a JSON Schema, if it does not."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema)
    error = min(validator.iter_errors(value), key=lambda e: list(map(str, e.absolute_path)), default=None)
    if error is None:
        return None
    place = ".".join(str(step) for step in error.absolute_path) or "the whole"
    rule = f"{error.validator}: {str(error.validator_value)[:100]}"
    return Misfit(place, rule, error.message[:200])


def schema_problem(schema: Mapping[str, Any], value: Any) -> str:
    """The first way in which a value does not fit a JSON Schema, or nothing."""
    found = misfit(schema, value)
    return f"{found.place}: {found.message}" if found is not None else ""


def _invalid(message: str, said: str = "") -> StepError:
    return UnusableAnswer(FailureKind.INVALID_OUTPUT, message, said)


DECIDE = Behaviour(_decide_prompt, _decide_read)
_BY_NODE = {
    NodeKind.LLM_GENERATE: Behaviour(_generate_prompt, _generate_read),
    NodeKind.ROUTER: Behaviour(_route_prompt, _route_read),
    NodeKind.LLM_TOOL_USE: Behaviour(_tool_use_prompt, _tool_use_read),
    NodeKind.EVENT_LOOP: Behaviour(_loop_prompt, _loop_read),
}
