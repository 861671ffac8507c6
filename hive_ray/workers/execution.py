"""The worker boundary: one lease in, one outcome out, whatever happens between.

Every failure becomes a value here. This is the only place that catches broadly: a tool may raise
anything, and a worker must survive it and say what it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from hive_ray import config
from hive_ray.config import Settings
from hive_ray.core.failures import FailureKind
from hive_ray.core.keys import conversation_key
from hive_ray.core.longterm import blob_key
from hive_ray.core.messages import (
    Lease,
    MemoryWrite,
    Outcome,
    StepContent,
    StepKind,
    ToolCall,
    Usage,
    decode_outcome_content,
    encode,
)
from hive_ray.core.values import INLINE_LIMIT_BYTES, NULL, Value, stored
from hive_ray.errors import StoreError
from hive_ray.graph.compiled import LOOPS, CompiledGraph, NodePlan, extract_facts
from hive_ray.graph.json_bounds import not_finite
from hive_ray.graph.wording import ToolSchema
from hive_ray.observe.redaction import redact_text
from hive_ray.prices import Rates
from hive_ray.workers.collecting import collect
from hive_ray.workers.context import KEY_PARAMETER, ToolContext
from hive_ray.workers.functions import function_arguments, node_outputs
from hive_ray.workers.leaving import artifacts_of, context_of, memory_values, room_of, writes_of
from hive_ray.workers.llm import Limits, LlmGateway
from hive_ray.workers.llm_steps import Produced, behaviour, schema_problem
from hive_ray.workers.mcp import McpTools
from hive_ray.workers.plain import plain_json
from hive_ray.workers.prompts import Entry, Prompt, Situation, prompt_bytes
from hive_ray.workers.step_error import StepError
from hive_ray.workers.tools import Registered, Registry, ToolInfo

MESSAGE_CHARS = 2048
"""Error texts are cut here; tracebacks go to the debug log only."""
STOP_S = 0.5
"""How long an overdue step may take to stop before it is given up."""

_log = logging.getLogger(__name__)
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_now = time.perf_counter_ns
# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_TOOL, _COLLECT = StepKind.TOOL, StepKind.COLLECT
_PYTHON = (StepKind.FUNCTION, StepKind.TOOL)

Load = Callable[[Value], Any]
Store = Callable[[str, bytes, bytes], Value]


class _TooLargeInline(Exception):
    """A value must go to the store, which may not be done on the event loop."""


def _refuse_store(_run: str, _data: bytes, _key: bytes) -> Value:
    raise _TooLargeInline


class Executor:
    """Runs leased steps of every kind.

    Args:
        graphs: the compiled graph behind a hash.
        load: the decoded value behind a blob; may block.
        store: writes msgpack bytes of a run as a blob, under a key of it; may block.
        registry: Python tools; by default those of ``settings.tools.modules``.
        gateway: LLMs; by default those of ``settings.models``.
    """

    def __init__(
        self,
        settings: Settings,
        graphs: Callable[[str], CompiledGraph],
        load: Load,
        store: Store,
        *,
        registry: Registry | None = None,
        gateway: LlmGateway | None = None,
    ) -> None:
        self._graphs = graphs
        self._load = load
        self._store = store
        self._limits = settings.limits
        self._max_bytes = settings.limits.max_output_bytes
        if registry is None:
            registry = Registry()
            registry.load_modules(settings.tools.modules)
        self._registry = registry
        self._gateway = gateway or LlmGateway(settings.models, config.resolve)
        self._mcp = McpTools(settings, config.resolve)
        self._stopping: set[asyncio.Task[Outcome]] = set()
        """Cancelled, and not at their end yet."""

    async def warm(self) -> None:
        """Get ready for LLM steps; takes seconds, for the imports. Workers of other kinds skip it."""
        await self._gateway.warm()

    async def close(self) -> None:
        """End the MCP sessions of this process."""
        await self._mcp.close()

    def is_sync(self, lease: Lease) -> bool:
        """The step is a synchronous Python call: ``run_sync`` it, in a thread if it may block.

        Unknown functions count as synchronous: refusing them needs no event loop.
        """
        if lease.kind in _PYTHON:
            registered = self._registry.find(lease.kind, lease.name)
            if registered is not None:
                return not registered.is_async
            return lease.kind is StepKind.FUNCTION
        return lease.kind is StepKind.COLLECT

    def run_sync(self, lease: Lease) -> Outcome:
        """Run a synchronous Python step to its end, in the calling thread."""
        begun = _now()
        try:
            graph = self._graph(lease)
            node = graph.nodes[lease.node]
            inputs = self._decoded(lease.inputs)
            _check_inputs(lease, node, inputs)
            if lease.kind is _COLLECT:
                produced = Produced(outputs=collect(node, inputs))
            else:
                registered = self._python(lease)
                memory = self._decoded(memory_values(lease)) if registered.context_parameter else {}
                context = self._context(lease, node, registered, memory)
                result = _call(registered, _arguments(registered, lease, node, inputs, context))
                produced = _python_result(lease, node, result, context)
            packed = self._packed(lease, graph, produced, self._store)
            return _done(lease, begun, packed, None, _declared_cost(node, lease))
        except Exception as error:  # noqa: BLE001 - the worker boundary
            return self._failed(lease, begun, error)

    async def run(self, lease: Lease) -> Outcome:
        """Run a step that awaits: an LLM, an MCP tool, an ``async`` function."""
        begun = _now()
        step = asyncio.ensure_future(self._outcome(lease, begun))
        try:
            if not await _within(step, lease.timeout_us / 1e6 if lease.timeout_us else None):
                return await self._given_up(lease, step)
            return self.cancelled(lease, begun) if step.cancelled() else step.result()
        except asyncio.CancelledError:
            step.cancel()
            self._keep(step)
            return self.cancelled(lease, begun)

    async def _outcome(self, lease: Lease, begun: int) -> Outcome:
        try:
            return await self._run(lease, begun)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the worker boundary
            return self._failed(lease, begun, error)
        except BaseException as error:  # noqa: BLE001 - a tool's KeyboardInterrupt must not end the worker
            return self._failed(lease, begun, _tool_error(error))

    async def _given_up(self, lease: Lease, step: asyncio.Task[Outcome]) -> Outcome:
        """Stop an overdue step; one that will not stop is left to itself."""
        step.cancel()
        if not await _within(step, STOP_S):
            self._keep(step)
        elif not step.cancelled() and not step.result().failure:
            return step.result()
        return self.timed_out(lease)

    def _keep(self, step: asyncio.Task[Outcome]) -> None:
        """The event loop holds its tasks only weakly."""
        self._stopping.add(step)
        step.add_done_callback(self._stopping.discard)

    def timed_out(self, lease: Lease) -> Outcome:
        """The outcome of a step that did not end within its time."""
        seconds = lease.timeout_us / 1e6
        error = StepError(FailureKind.TIMEOUT, f"{lease.name or lease.kind} did not end within {seconds:g} s")
        return self._failed(lease, _now() - lease.timeout_us * 1000, error)

    def cancelled(self, lease: Lease, begun: int = 0) -> Outcome:
        """The outcome of a step that was stopped because nobody waits for it; ``begun`` 0: it never began."""
        error = StepError(FailureKind.CANCELLED, "stopped before its end", started=bool(begun))
        return self._failed(lease, begun or _now(), error)

    async def _run(self, lease: Lease, begun: int) -> Outcome:
        graph = self._graph(lease)
        node = graph.nodes[lease.node]
        inputs = await self._decoded_async(lease.inputs)
        _check_inputs(lease, node, inputs)
        usage, cost = None, _declared_cost(node, lease)
        if lease.kind is StepKind.LLM or lease.kind is StepKind.DECIDE:
            produced, usage, cost = await self._ask(lease, graph, node, inputs)
        else:
            produced = await self._await_tool(lease, node, inputs)
        try:
            packed = await self._packed_async(lease, graph, produced)
        except StepError as error:
            error.usage, error.cost_nanousd = usage, cost
            raise
        return _done(lease, begun, packed, usage, cost)

    # Python tools and functions

    def _python(self, lease: Lease) -> Registered:
        registered = self._registry.find(lease.kind, lease.name)
        if registered is None:
            names = ", ".join(self._registry.names(lease.kind)) or "none"
            message = f"this worker has no {lease.kind} {lease.name!r}; it has: {names} (see tools.modules)"
            raise StepError(FailureKind.TOOL_UNAVAILABLE, message, started=False)
        return registered

    def _context(
        self, lease: Lease, node: NodePlan, registered: Registered, memory: Mapping[str, Any]
    ) -> ToolContext | None:
        if not registered.context_parameter:
            return None
        return context_of(lease, node, room_of(self._limits, lease.level), memory)

    async def _await_tool(self, lease: Lease, node: NodePlan, inputs: dict[str, Any]) -> Produced:
        registered = self._registry.find(lease.kind, lease.name)
        if registered is None and lease.kind is StepKind.TOOL:
            arguments, key = _parted(lease, node, inputs)
            result = await self._mcp.call(lease.name, arguments, key)
            return _python_result(lease, node, result)
        registered = self._python(lease)
        memory = await self._decoded_async(memory_values(lease))
        context = self._context(lease, node, registered, memory)
        arguments = _arguments(registered, lease, node, inputs, context)
        try:
            result = await registered.fn(**arguments)
        except StepError:
            raise
        except (Exception, SystemExit) as error:
            raise _tool_error(error) from error
        return _python_result(lease, node, result, context)

    # LLM steps

    async def _ask(
        self, lease: Lease, graph: CompiledGraph, node: NodePlan, inputs: dict[str, Any]
    ) -> tuple[Produced, Usage, int]:
        does = behaviour(lease.kind, node)
        situation = await self._situation(lease, graph, node, inputs)
        prompt = does.prompt(situation)
        _refuse_unreserved(lease, node, prompt)
        answer = await self._gateway.ask(_model_name(lease, node), prompt, _limits(lease, node))
        try:
            return does.read(situation, answer), answer.usage, answer.cost_nanousd
        except StepError as error:
            # The answer is useless and was paid for.
            error.usage, error.cost_nanousd = answer.usage, answer.cost_nanousd
            raise

    async def _situation(
        self, lease: Lease, graph: CompiledGraph, node: NodePlan, inputs: dict[str, Any]
    ) -> Situation:
        outputs = await self._decoded_async(lease.outputs)
        spoken = await self._decoded_async({str(i): turn.value for i, turn in enumerate(lease.conversation)})
        edits = [turn.edited and await self._decoded_async(turn.edited) for turn in lease.conversation]
        conversation = tuple(
            Entry(turn.role, spoken[str(i)], turn.call_id, turn.name, turn.failed, edits[i])
            for i, turn in enumerate(lease.conversation)
        )
        tools: tuple[ToolSchema, ...] = ()
        if node.kind in LOOPS and lease.kind is StepKind.LLM:
            tools = await self._tool_schemas(plan.name for plan in node.tools)
        place = (lease.serial, lease.dropped)
        return Situation(graph, node, inputs, lease.call, conversation, outputs, tools, *place)

    async def _tool_schemas(self, names: Iterable[str]) -> tuple[ToolSchema, ...]:
        found: list[ToolSchema] = []
        for name in names:
            registered = self._registry.find("tool", name)
            info: ToolInfo = registered.info if registered is not None else await self._mcp.info(name)
            found.append(ToolSchema(name, info.description, info.schema or {"type": "object"}))
        return tuple(found)

    # values

    def _graph(self, lease: Lease) -> CompiledGraph:
        try:
            return self._graphs(lease.graph)
        except StoreError as error:
            message = f"the graph cannot be read: {error}"
            raise StepError(FailureKind.TOOL_UNAVAILABLE, message, started=False) from error

    def _decoded(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {k: self._loaded(v) if v.blob else _unpack(v.data) for k, v in values.items()}

    async def _decoded_async(self, values: Mapping[str, Value]) -> dict[str, Any]:
        if any(value.blob for value in values.values()):
            return await asyncio.to_thread(self._decoded, values)
        return self._decoded(values)

    def _loaded(self, value: Value) -> Any:
        try:
            return self._load(value)
        except StoreError as error:
            message = f"an input cannot be read: {error}"
            raise StepError(FailureKind.TOOL_UNAVAILABLE, message, started=False) from error

    def _stored(self, run: str, data: bytes, key: bytes, store: Store) -> Value:
        try:
            return store(run, data, key)
        except StoreError as error:
            message = f"an output cannot be stored: {error}"
            raise StepError(FailureKind.TOOL_UNAVAILABLE, message, unknown=True) from error

    async def _packed_async(self, lease: Lease, graph: CompiledGraph, produced: Produced) -> Packed:
        try:
            return self._packed(lease, graph, produced, _refuse_store)
        except _TooLargeInline:
            return await asyncio.to_thread(self._packed, lease, graph, produced, self._store)

    def _packed(self, lease: Lease, graph: CompiledGraph, produced: Produced, store: Store) -> Packed:
        """What goes back: the content first, so that what is too large is refused before it is stored."""
        if produced.context is None:
            return Packed(self._content(lease, graph, produced, store))

        def put(owner: str, data: bytes) -> Value:
            return self._stored(owner, data, blob_key(owner, lease.content_key), store)

        content = self._content(lease, graph, produced, store)
        memory = writes_of(produced.context, lease, lambda value: _packed(value, lease), put)
        made = artifacts_of(produced.context, lease.run, put)
        if made:
            decoded = decode_outcome_content(content)
            content = encode(msgspec.structs.replace(decoded, artifacts=made))
        return Packed(content, memory)

    def _content(self, lease: Lease, graph: CompiledGraph, produced: Produced, store: Store) -> bytes:
        room = self._max_bytes
        said = lease.content_key if graph.nodes[lease.node].record else conversation_key(lease.content_key)

        def pack(value: Any, place: str, key: bytes = said) -> Value:
            nonlocal room
            data = _packed(value, lease)
            if bad := not_finite(data, value, place):
                message = (
                    f"{lease.name or lease.kind} gave NaN or an infinity at {bad}, which JSON cannot say"
                )
                raise StepError(FailureKind.INVALID_OUTPUT, message)
            size = len(data)
            room -= size
            if room < 0:
                message = f"{lease.name or lease.kind} gave more than {self._max_bytes} bytes"
                raise StepError(FailureKind.RESOURCE_LIMIT, message)
            if size <= INLINE_LIMIT_BYTES:
                return Value(data, "", size)
            blob = self._stored(lease.run, data, key, store)
            return stored(value, blob.blob, blob.size)

        kept = said if _is_told_to_llm(lease, graph) else lease.content_key
        outputs = {name: pack(value, name, kept) for name, value in produced.outputs.items()}
        facts = extract_facts(graph, produced.outputs) if graph.facts and outputs else {}
        if produced.delta is None and produced.question is None and not produced.calls:
            # Functions and tools end here; nothing of a conversation to pack.
            return encode(
                StepContent(outputs, facts, done=produced.done, route=produced.route, chosen=produced.chosen)
            )
        calls = tuple(
            ToolCall(c.call_id, c.tool, {k: pack(v, k) for k, v in c.arguments.items()}, c.error)
            for c in produced.calls
        )
        delta = None if produced.delta is None else pack(produced.delta, "the answer")
        question = None if produced.question is None else pack(produced.question, "the question")
        return encode(
            StepContent(
                outputs,
                facts,
                delta,
                calls,
                question,
                produced.done,
                produced.route,
                answers=produced.answers,
            )
        )

    # failures

    def _failed(self, lease: Lease, begun: int, error: Exception) -> Outcome:
        if not isinstance(error, StepError):
            # Nobody's tool raised this: it is our own bug, and says so.
            _log.error("step broke in the worker", exc_info=error, extra={"run_id": lease.run})
            error = StepError(FailureKind.INTERNAL, f"{type(error).__name__}: {error}")
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("step failed", exc_info=error, extra={"run_id": lease.run})
        node = self._known_node(lease)
        kind = error.kind
        if error.unknown and not _is_idempotent(node, lease):
            kind = FailureKind.OUTCOME_UNKNOWN
        return Outcome(
            lease.run,
            lease.serial,
            lease.call,
            lease.attempt,
            kind.value,
            encode(StepContent(message=_bounded(redact_text(error.told(node is not None and node.record))))),
            (_now() - begun) // 1000,
            lease.name,
            error.usage,
            error.cost_nanousd or _cost_if_begun(node, lease, error),
            error.retry_after_us,
            error.started,
        )

    def _known_node(self, lease: Lease) -> NodePlan | None:
        try:
            return self._graphs(lease.graph).nodes[lease.node]
        except Exception:  # noqa: BLE001 - a second failure must not hide the one being reported
            return None


def _is_told_to_llm(lease: Lease, graph: CompiledGraph) -> bool:
    """A tool's result in an agent loop is part of the conversation, not of the node's outputs."""
    return lease.kind is _TOOL and graph.nodes[lease.node].kind in LOOPS


async def _within(step: asyncio.Task[Outcome], limit_s: float | None) -> bool:
    """Whether a step ends in time; it is not cancelled if it does not."""
    done, _ = await asyncio.wait((step,), timeout=limit_s)
    return bool(done)


def _is_idempotent(node: NodePlan | None, lease: Lease) -> bool:
    if node is None:
        return False
    if node.kind in LOOPS:
        called = node.called(lease.name)
        return called is not None and called.idempotent
    stand_in = node.stand_in(lease.name)
    return node.idempotent if stand_in is None else stand_in.idempotent


def _cost_if_begun(node: NodePlan | None, lease: Lease, error: StepError) -> int:
    """A tool that began and failed is billed as declared; an LLM only for what its provider reports."""
    if node is None or not error.started or lease.kind is StepKind.LLM or lease.kind is StepKind.DECIDE:
        return 0
    return _declared_cost(node, lease)


def _arguments(
    registered: Registered, lease: Lease, node: NodePlan, inputs: dict[str, Any], context: ToolContext | None
) -> dict[str, Any]:
    """Keyword arguments of a Python step: its inputs, and its context and the call's key if it takes them."""
    own: dict[str, Any] = {}
    if context is not None:
        own[registered.context_parameter] = context
    if registered.key_parameter:
        inputs, own[KEY_PARAMETER] = _parted(lease, node, inputs)
    if registered.declared.kind == "function":
        arguments = function_arguments(registered, inputs)
    else:
        arguments = registered.bind(inputs)
    return {**arguments, **own} if own else arguments


def _parted(lease: Lease, node: NodePlan, inputs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Inputs without the key of the call, and the key: a graph may give another one, a model may not."""
    rest = {name: value for name, value in inputs.items() if name != KEY_PARAMETER}
    if node.kind in LOOPS:
        return rest, lease.idempotency_key
    return rest, inputs.get(KEY_PARAMETER, lease.idempotency_key)


def _call(registered: Registered, arguments: dict[str, Any]) -> Any:
    try:
        return registered.fn(**arguments)
    except StepError:
        raise
    except BaseException as error:
        raise _tool_error(error) from error


def _tool_error(error: BaseException) -> StepError:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - its own __str__ is the tool's code too
        text = "(it has no text)"
    return StepError(FailureKind.TOOL_ERROR, f"{type(error).__name__}: {text}")


def _python_result(lease: Lease, node: NodePlan, result: Any, context: ToolContext | None = None) -> Produced:
    """A result as the node's outputs; a loop's tool call gives it as ``result``."""
    if node.kind in LOOPS:
        return Produced(outputs={"result": plain_json(result, lease.name)}, context=context)
    outputs, route = node_outputs(node, result)
    return Produced(outputs=outputs, route=route, context=context)


class Packed(NamedTuple):
    """What a step gave, as it travels."""

    content: bytes
    memory: tuple[MemoryWrite, ...] = ()


def _packed(value: Any, lease: Lease) -> bytes:
    if value is None:
        return NULL.data
    try:
        return _pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        message = f"{lease.name or lease.kind} gave what JSON cannot hold: {error}"
        raise StepError(FailureKind.INVALID_OUTPUT, message) from error


def _done(lease: Lease, begun: int, packed: Packed, usage: Usage | None, cost_nanousd: int) -> Outcome:
    return Outcome(
        lease.run,
        lease.serial,
        lease.call,
        lease.attempt,
        "",
        packed.content,
        (_now() - begun) // 1000,
        lease.name,
        usage,
        cost_nanousd,
        memory=packed.memory,
    )


def _declared_cost(node: NodePlan, lease: Lease) -> int:
    """What the graph says a function or tool step costs."""
    if node.kind in LOOPS:
        called = node.called(lease.name)
        return called.cost_nanousd if called is not None else 0
    stand_in = node.stand_in(lease.name) if node.fallbacks else None
    return node.cost_nanousd if stand_in is None else stand_in.cost_nanousd


def _check_inputs(lease: Lease, node: NodePlan, inputs: Mapping[str, Any]) -> None:
    """A node's own step begins only with inputs that fit its schema."""
    if not node.input_schema or lease.kind in (StepKind.DECIDE, StepKind.COLLECT):
        return
    if node.kind in LOOPS and lease.kind is not StepKind.LLM:
        return
    problem = schema_problem(msgspec.json.decode(node.input_schema), inputs)
    if problem:
        message = f"node {node.id}: its inputs do not fit its input_schema: {problem}"
        raise StepError(FailureKind.BAD_INPUT, message, started=False)


def _refuse_unreserved(lease: Lease, node: NodePlan, prompt: Prompt) -> None:
    """Money is reserved for so many bytes; a tool's schema may have grown since its graph was accepted."""
    if not lease.prompt_bytes:
        return
    size = prompt_bytes(prompt)
    if size > lease.prompt_bytes:
        message = (
            f"the prompt of node {node.id} has {size} bytes, {lease.prompt_bytes} were reserved from the "
            "run's budget: its tools have grown since the graph was accepted; submit the graph again"
        )
        raise StepError(FailureKind.BUDGET_EXCEEDED, message, started=False)


def _model_name(lease: Lease, node: NodePlan) -> str:
    return lease.name or (node.model.model if node.model else "")


def _limits(lease: Lease, node: NodePlan) -> Limits:
    plan = node.model_named(lease.name)
    timeout_s = lease.timeout_us / 1e6 if lease.timeout_us else 120.0
    if plan is None:
        return Limits(timeout_s, lease.max_tokens)
    dear = plan.input_nanousd_per_mtok
    return Limits(
        timeout_s,
        lease.max_tokens or plan.max_tokens,
        plan.temperature,
        Rates(dear, plan.output_nanousd_per_mtok, dear, dear),
    )


def _bounded(text: str) -> str:
    # File names and subprocess output may hold half a surrogate, which no message can carry.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 1] + "…"
