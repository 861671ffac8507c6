"""The wire between controller and workers: msgpack of these structs, as bytes, with a version.

A lease gives one attempt to a worker; an outcome gives it back. Both name the attempt by
``(run, serial, call, attempt)``: the run, the visit's serial number in it, the call within the
visit (0 for nodes with one step) and the try.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from hive_ray.core.artifacts import Artifact
from hive_ray.core.values import Value

PROTOCOL = 1
INLINE_ARGUMENT_BYTES = 65536


class StepKind(StrEnum):
    FUNCTION = "function"
    TOOL = "tool"
    LLM = "llm"
    DECIDE = "decide"
    """An LLM choice among the ``llm_decide`` edges of a finished node."""
    COLLECT = "collect"
    """Puts the results of a map's items into one list (inputs: ``"3.summary"``; ``"3.!"``: a failure)."""


# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_TOOL = StepKind.TOOL
ASKS_MODEL = (StepKind.LLM, StepKind.DECIDE)
"""Steps that ask a model."""


def subject_of(kind: StepKind, name: str) -> str:
    """The model or tool whose account, rates and breaker a step counts for; empty for functions."""
    if kind in ASKS_MODEL:
        return f"model/{name}"
    return f"tool/{name}" if kind is _TOOL else ""


class Turn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a conversation.

    ``role`` is ``assistant`` (``value``: the delta that an LLM step returned), ``tool`` (``value``: a
    tool's result or, with ``failed``, its error text) or ``user`` (``value``: what the client said).
    """

    role: str
    value: Value
    call_id: str = ""
    name: str = ""
    failed: bool = False
    answers: int = -1
    """Calls in an assistant's message, each of which is answered; -1: written by 0.1.0, not counted."""
    edited: dict[str, Value] | None = None
    """Of a call that a person changed: the arguments in the place of those in the model's message."""


class MemoryRead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value of long-term memory as it was when the step was leased."""

    address: str
    """``agent:profile``."""
    name: str
    """Under which the node declared it."""
    value: Value
    version: int
    """0: there is no such key."""


class MemoryGiven(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a step reads of long-term memory, as it declared."""

    reads: tuple[MemoryRead, ...] = ()
    prefixes: tuple[str, ...] = ()
    """Addresses of which all that begin so were read: ``agent:faq/``."""


class MemoryWrite(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a step writes into long-term memory, if it succeeds."""

    scope: str
    key: str
    value: Value | None
    """None: the key is deleted."""
    if_version: int = -1
    """The version that must stand there; 0: the key must be absent; -1: any."""


class Lease(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt, given to one worker."""

    run: str
    serial: int
    call: int
    attempt: int
    epoch: int
    graph: str
    node: int
    kind: StepKind
    timeout_us: int
    inputs: dict[str, Value]
    """Memory under the node's input keys (after input mapping); for tool calls of an LLM: arguments."""
    name: str = ""
    """Function, tool or model that runs."""
    conversation: tuple[Turn, ...] = ()
    outputs: dict[str, Value] = {}
    """What ``set_output`` has set so far (agent loops); node outputs (``DECIDE``)."""
    max_tokens: int = 0
    request_id: str = ""
    team: str = ""
    agent: str = ""
    traceparent: str = ""
    prompt_bytes: int = 0
    """Most bytes that the LLM may be sent: so much is reserved. 0: the reservation rests on tokens."""
    memory: MemoryGiven | None = None
    level: int = 1
    """Feature level of the state: what the step may write."""
    content_key: bytes = b""
    """Reference to the key of the run (``core.keys``): large values are sealed with it."""
    dropped: int = 0
    """Entries at the beginning of the conversation that the LLM is not shown."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        return (self.run, self.serial, self.call, self.attempt)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of one call: what a tool hands to the system behind it."""
        return f"{self.run}:{self.serial}:{self.call}"


class ToolCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A tool call that an LLM asked for. ``error`` set: it cannot run (unknown tool, bad arguments)."""

    call_id: str
    tool: str
    arguments: dict[str, Value] = {}
    error: str = ""


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one LLM call used, as the provider reported it."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    latency_us: int = 0
    disbelieved: bool = False
    """The endpoint claimed nothing, less, or more than a call can use: counted as 0, or as the most."""


class StepContent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a step produced. Content: encrypted at rest, never logged."""

    outputs: dict[str, Value] = {}
    """Node outputs; in an agent loop, what this turn's ``set_output`` set, or a tool call's ``result``."""
    facts: dict[str, Any] = {}
    """``graph.compiled.extract_facts`` of the outputs."""
    delta: Value | None = None
    """Assistant message of this turn (agent loops)."""
    calls: tuple[ToolCall, ...] = ()
    question: Value | None = None
    """Text for the client: ``ask_user``, or plain text in a client-facing node."""
    done: bool = False
    """The loop has its final answer (``llm_tool_use``), or nothing is left to set."""
    route: str = ""
    """Router: the chosen key."""
    chosen: tuple[str, ...] = ()
    """``DECIDE``: ids of the chosen edges."""
    message: str = ""
    """Error text of a failed step; what is needed, of an approval."""
    form: bytes = b""
    """JSON Schema (bytes) of the answer that an approval waits for."""
    state: bytes = b""
    """Msgpack of the run's state from which a fork goes on."""
    answers: int = -1
    """As in ``Turn``, of ``delta``."""
    artifacts: tuple[Artifact, ...] = ()
    """Files that the step made; written as blobs before it was reported."""


ERASED = StepContent(message="[erased]")
"""Stands for a content whose key was erased; compare by identity. Whoever applies it leaves things out."""


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of one attempt. ``failure`` is empty on success, else a ``FailureKind``."""

    run: str
    serial: int
    call: int
    attempt: int
    failure: str
    content: bytes
    """Msgpack of ``StepContent``; passed into the journal as it is."""
    duration_us: int = 0
    name: str = ""
    usage: Usage | None = None
    cost_nanousd: int = 0
    retry_after_us: int = 0
    started: bool = True
    """False: the effect certainly did not begin (refused before the call went out)."""
    shared: bool = False
    """Of an attempt lost with its worker: others ran there too, any of which may have killed it."""
    memory: tuple[MemoryWrite, ...] = ()
    """What goes into long-term memory together with the step's success."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        return (self.run, self.serial, self.call, self.attempt)


class WorkerInfo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who a worker is; enough for a later cluster to tell that its process is gone."""

    worker: str
    pool: str
    slots: int
    host: str
    boot_id: str
    pid: int
    process_start: int
    node: str = ""


class AttachRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A worker presents itself to a controller's incarnation, with all that it holds."""

    info: WorkerInfo
    running: tuple[tuple[str, int, int, int], ...]
    """Keys of attempts that run here now."""
    outcomes: tuple[Outcome, ...]
    """Finished and not acknowledged."""
    protocol: int = PROTOCOL
    ticket: str = ""
    """Proves that the controller made this worker."""


class AttachReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    session: str
    epoch: int
    acknowledged: tuple[tuple[str, int, int, int], ...] = ()
    drop: tuple[tuple[str, int, int, int], ...] = ()
    """Attempts that nobody waits for: stop them if they can be stopped, report nothing."""
    poll_s: float = 10.0
    patience_s: float = 0.0
    """Leases in an answer that took longer may have been given to others meanwhile; 0: no such bound."""


class ExchangeRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Outcomes in, leases out. A call with outcomes is answered once they are durable; one without
    waits until there is a lease, a newer call comes, or ``poll_s`` passes."""

    session: str
    n: int
    seen: int
    """Highest n whose reply arrived; its leases are thereby acknowledged."""
    outcomes: tuple[Outcome, ...] = ()


class ExchangeReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    n: int
    epoch: int
    leases: tuple[Lease, ...] = ()
    acknowledged: tuple[tuple[str, int, int, int], ...] = ()
    cancel: tuple[tuple[str, int, int, int], ...] = ()
    """Attempts of runs that were cancelled: stop them if they can be stopped."""
    reattach: bool = False
    """The session is unknown here: call ``attach``."""


encode = msgspec.msgpack.Encoder().encode
decode_outcome_content = msgspec.msgpack.Decoder(StepContent).decode
decode_attach = msgspec.msgpack.Decoder(AttachRequest).decode
decode_attach_reply = msgspec.msgpack.Decoder(AttachReply).decode
decode_exchange = msgspec.msgpack.Decoder(ExchangeRequest).decode
decode_exchange_reply = msgspec.msgpack.Decoder(ExchangeReply).decode
