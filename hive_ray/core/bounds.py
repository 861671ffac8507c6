"""How many tokens an LLM call can be billed for, known before it is made.

Without a tokenizer a byte of text counts as a token. Once a conversation's last call was measured, only what
joined it since is counted in bytes. ``workers.prompts`` builds what is counted here, and a property test
holds the one against the other; where both could differ (JSON, framing by providers) this side is the larger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from hive_ray.core.messages import StepKind, Turn
from hive_ray.core.run import Loop, Run, Step, Visit
from hive_ray.core.terms import Terms
from hive_ray.core.values import Value
from hive_ray.graph.compiled import ModelPlan, NodePlan

JSON_GROWTH = 6
"""Most bytes of JSON for a byte of msgpack: ``false,`` and control characters (six for one)."""
MESSAGE_BYTES = 32
"""What stands around a message: its role, ``error:``, a provider's separators."""
ANSWER_BYTES = 320
"""What a loop itself says to a call or to a message without one, but for the names of its outputs."""
EDIT_BYTES = 96
"""What is said beside the arguments to which a person changed a call."""
CALL_BYTES = 32
"""The shortest call in a message."""

_unpack = msgspec.msgpack.Decoder().decode
_json = msgspec.json.Encoder().encode


def prompt_tokens(
    run: Run, node: NodePlan, visit: Visit, step: Step, inputs: dict[str, Value], terms: Terms
) -> int:
    """Bound on the input tokens of an LLM or ``DECIDE`` step."""
    loop = visit.loop
    if loop is None or not rests_on_tokens(visit, step, terms):
        return prompt_bytes(run, node, visit, step, inputs, terms)
    since = loop.conversation[loop.measured_turns :]
    bound = loop.measured_tokens + _conversation_bytes(node, since) + _answers_to_last(node, loop)
    if checksum(inputs) != loop.measured_inputs and terms.model is not None:
        # A parallel branch has written one of them: its text is not the text that was measured.
        bound += _inputs_bytes(terms.model, node, inputs)
    return bound


def rests_on_tokens(visit: Visit, step: Step, terms: Terms) -> bool:
    """Whether the bound starts from what a call of the same conversation was measured to use."""
    loop = visit.loop
    if step.kind is not StepKind.LLM or loop is None or not loop.measured_tokens or terms.dropped:
        return False
    # Another model counts the same text otherwise.
    return loop.measured_model == terms.name or (not loop.measured_model and terms.name == step.name)


def prompt_bytes(
    run: Run, node: NodePlan, visit: Visit, step: Step, inputs: dict[str, Value], terms: Terms
) -> int:
    """Most bytes of the prompt of an LLM or ``DECIDE`` step."""
    model = terms.model
    if model is None:
        return 0
    if step.kind is StepKind.DECIDE:
        return choice_bytes(node, model, inputs, run.memory)
    # What is left out is said in a message of its own.
    left_out = MESSAGE_BYTES + _own_answer_bytes(node) if terms.dropped else 0
    said = _conversation_bytes(node, terms.said) + left_out
    return model.prompt_bytes + _inputs_bytes(model, node, inputs) + said


def turn_bytes(node: NodePlan, turn: Turn) -> int:
    """Most bytes of an entry of a conversation, with what the loop itself says to it."""
    return _turn_bytes(turn, _own_answer_bytes(node))


def first_prompt_bytes(node: NodePlan, model: ModelPlan, inputs: Mapping[str, Value]) -> int:
    """Most bytes of the prompt with which a node begins, asked of one of its models."""
    return model.prompt_bytes + _inputs_bytes(model, node, inputs)


def choice_bytes(
    node: NodePlan, model: ModelPlan, inputs: Mapping[str, Value], memory: Mapping[str, Value]
) -> int:
    """Most bytes of the prompt with which a model chooses the edges behind a node."""
    written = {key: memory[key] for key in node.output_keys if key in memory}
    return (model.decide_bytes or model.prompt_bytes) + _object_bytes(inputs) + _object_bytes(written)


def checksum(inputs: Mapping[str, Value]) -> int:
    """By which changed inputs are told from equal ones; never 0."""
    digest = hashlib.blake2b(digest_size=7)
    for key, value in inputs.items():
        part = value.data or f"{value.blob}#{value.item}".encode()
        digest.update(b"%d,%d:%b%b" % (len(key), len(part), key.encode(), part))
    return int.from_bytes(digest.digest(), "big") or 1


def value_bytes(value: Value) -> int:
    """Most bytes of a value in a prompt, as text or as JSON."""
    if value.blob:
        return value.json_bytes if value.json_bytes >= 0 else value.size * JSON_GROWTH
    return len(_json(_unpack(value.data)))


def _inputs_bytes(model: ModelPlan, node: NodePlan, inputs: Mapping[str, Value]) -> int:
    """Each input as often as the prompts mention it; the others once, as members of a JSON object."""
    total = 2
    for key, value in inputs.items():
        times = _mentions(model, node, key)
        total += times * value_bytes(value) if times else _member_bytes(key, value)
    return total


def _mentions(model: ModelPlan, node: NodePlan, key: str) -> int:
    if model.mentions is not None:
        return model.mentions.get(key, 0)
    # A plan of 0.1.0: a placeholder holds the key, so the key stands at least as often.
    return node.prompt.count(key) + node.instruction.count(key) + 1


def _object_bytes(values: Mapping[str, Value]) -> int:
    return 2 + sum(_member_bytes(key, value) for key, value in values.items())


def _member_bytes(key: str, value: Value) -> int:
    return len(_json(key)) + 2 + value_bytes(value)


def _conversation_bytes(node: NodePlan, turns: Iterable[Turn]) -> int:
    own = _own_answer_bytes(node)
    return sum(_turn_bytes(turn, own) for turn in turns)


def _turn_bytes(turn: Turn, own: int) -> int:
    size = value_bytes(turn.value) + len(turn.call_id.encode()) + len(turn.name.encode()) + MESSAGE_BYTES
    if turn.edited is not None:
        size += EDIT_BYTES + _object_bytes(turn.edited)
    return size + _answers(turn) * own if turn.role == "assistant" else size


def _answers_to_last(node: NodePlan, loop: Loop) -> int:
    """The last message itself was measured as output; what the loop says to it was not."""
    last = loop.conversation[loop.measured_turns - 1] if loop.measured_turns else None
    return _answers(last) * _own_answer_bytes(node) if last is not None else 0


def _answers(turn: Turn) -> int:
    """How often the loop may speak after a message: to each call, or to a message without one (a nudge)."""
    return (turn.answers if turn.answers >= 0 else turn.value.size // CALL_BYTES) + 1


def _own_answer_bytes(node: NodePlan) -> int:
    return ANSWER_BYTES + sum(len(key.encode()) + 2 for key in node.output_keys)
