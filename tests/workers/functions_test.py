"""Function and router nodes: how they are called, and what becomes of their results."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest

import hive_ray.workers.tools as hive
from hive_ray.config import Settings
from hive_ray.core.messages import StepKind
from hive_ray.core.values import Value, inline
from hive_ray.errors import StoreError
from hive_ray.graph.compiled import FallbackKind, FallbackPlan, NodeKind, ToolPlan
from hive_ray.observe.redaction import register_secrets
from hive_ray.workers.execution import Executor
from tests.workers import steps


def call(fn: Any, inputs: dict[str, Any] | None = None, *, settings: Any = None, **node: Any):
    declared = hive.function()(fn)
    fields: dict[str, Any] = {"output_keys": ("out",), **node}
    plan = steps.node(**fields)
    executor = steps.executor(steps.graph(plan, facts=(("out", "size"),)), declared, settings=settings)
    step = steps.lease(StepKind.FUNCTION, fn.__name__, inputs or {})
    assert executor.is_sync(step)
    return executor.run_sync(step)


def test_inputs_are_passed_by_name():
    """The usual case: parameters are the node's input keys."""

    def add(a: int, b: int = 1) -> int:
        return a + b

    assert steps.outputs(call(add, {"a": 1, "b": 2})) == {"out": 3}
    assert steps.outputs(call(add, {"a": 1})) == {"out": 2}


@pytest.mark.parametrize("name", ["inputs", "memory", "state"])
def test_a_single_parameter_takes_all_inputs(name: str):
    """``fn(inputs)`` sees the whole memory under the node's input keys."""
    scope: dict[str, Any] = {}
    exec(f"def whole({name}): return sorted({name})", scope)  # noqa: S102 - three signatures in one test

    assert steps.outputs(call(scope["whole"], {"a": 1, "b": 2})) == {"out": ["a", "b"]}


def test_a_parameter_annotated_dict_takes_all_inputs():
    """The annotation says what the name does not."""

    def whole(ticket_data: dict[str, Any]) -> int:
        return len(ticket_data)

    assert steps.outputs(call(whole, {"a": 1, "b": 2})) == {"out": 2}


def test_an_input_under_the_name_of_the_single_parameter_is_passed_by_name():
    """A node whose one input key is ``inputs`` means that key."""

    def whole(inputs: Any) -> Any:
        return inputs

    assert steps.outputs(call(whole, {"inputs": 5})) == {"out": 5}


@pytest.mark.parametrize(("inputs", "named"), [({}, "ticket"), ({"ticket": 1, "plan": 2}, "plan")])
def test_inputs_that_do_not_fit_the_signature_are_named(inputs: dict[str, Any], named: str):
    """Nothing ran; the parameter or the input stands in the message."""

    def triage(ticket: Any) -> None: ...

    outcome = call(triage, inputs)

    assert (outcome.failure, outcome.started) == ("BAD_INPUT", False)
    assert named in steps.message(outcome)


def test_undeclared_keys_are_dropped_and_facts_are_taken():
    """Memory is scoped: a node writes its output keys only; expressions get their bounded facts."""

    def give() -> dict[str, Any]:
        return {"out": {"size": 7}, "more": 1}

    content = steps.content(call(give))

    assert list(content.outputs) == ["out"]
    assert content.facts == {"out.size": 7}


def test_a_missing_output_is_named():
    """A promise of the graph that the function did not keep."""

    def give() -> dict[str, Any]:
        return {"out": 1}

    outcome = call(give, output_keys=("out", "other", "maybe"), nullable_keys=("maybe",))

    assert outcome.failure == "INVALID_OUTPUT"
    assert "other" in steps.message(outcome) and "maybe" not in steps.message(outcome)


def test_subclasses_of_text_and_numbers_become_their_bases():
    """A mail's header is a ``str`` of its own kind: returning it must not fail a mail that was sent."""

    class Metres(float): ...

    def measure() -> dict[str, Any]:
        message = EmailMessage()
        message["Message-ID"] = "<1@tidewell.example>"
        return {"out": [message["Message-ID"], Metres(2.5)]}

    assert steps.outputs(call(measure)) == {"out": ["<1@tidewell.example>", 2.5]}


def test_dataclasses_and_dates_become_json():
    """What JSON has a plain form for does not trouble the author."""

    @dataclass
    class Mail:
        to: str
        at: datetime

    def give() -> Mail:
        return Mail("ann", datetime(2026, 1, 2, tzinfo=UTC))

    assert steps.outputs(call(give)) == {"out": {"to": "ann", "at": "2026-01-02T00:00:00Z"}}


@pytest.mark.parametrize("value", [object(), 2**80, {"a": {1, object()}}, "\ud800"])
def test_what_json_cannot_hold_fails_once_and_says_so(value: Any):
    """The step fails by name, the worker lives."""

    def give() -> Any:
        return value

    outcome = call(give)

    assert outcome.failure == "INVALID_OUTPUT"
    assert "JSON" in steps.message(outcome)


def test_an_output_without_end_fails_once_and_says_so():
    """A list that contains itself has no JSON."""

    def give() -> Any:
        loop: list[Any] = []
        loop.append(loop)
        return loop

    assert call(give).failure == "INVALID_OUTPUT"


def test_too_large_an_output_is_refused():
    """The limit is named in bytes."""

    def give() -> str:
        return "x" * 2000

    outcome = call(give, settings={"limits": {"max_output_bytes": 1000}})

    assert outcome.failure == "RESOURCE_LIMIT"
    assert "1000 bytes" in steps.message(outcome)


def test_large_values_travel_as_blobs_both_ways():
    """What is longer than 4 KiB goes through the store before the report."""
    blobs = steps.Blobs()
    large = "x" * 5000

    @hive.function()
    def double(text: str) -> str:
        return text * 2

    plan = steps.node(output_keys=("out",))
    stored = blobs.store("run", inline(large).data, b"")
    step = msgspec.structs.replace(steps.lease(StepKind.FUNCTION, "double"), inputs={"text": stored})
    outcome = steps.executor(plan, double, blobs=blobs).run_sync(step)

    out = steps.content(outcome).outputs["out"]
    assert out.blob and not out.data
    assert blobs.decode(out) == large * 2


def test_an_exception_is_a_tool_error_without_traceback(caplog: pytest.LogCaptureFixture):
    """Type and message, redacted and bounded; the traceback goes to the debug log only."""
    register_secrets(["canary-in-error"])

    def fail() -> None:
        raise RuntimeError("it broke with canary-in-error " + "x" * 9000)

    with caplog.at_level(logging.DEBUG, "hive_ray"):
        outcome = call(fail)

    message = steps.message(outcome)
    assert outcome.failure == "TOOL_ERROR" and message.startswith("RuntimeError: it broke")
    assert "canary" not in message and "Traceback" not in message and len(message) <= 2048
    assert caplog.records[0].exc_info


def test_a_function_that_ends_the_process_fails_only_its_step():
    """``sys.exit`` in a tool is a tool's error."""

    def leave() -> None:
        raise SystemExit(3)

    assert call(leave).failure == "TOOL_ERROR"


def test_an_unknown_function_is_named_with_those_that_exist():
    """The worker lacks a module, or the graph has a typing error."""
    executor = steps.executor(steps.node(), hive.function()(_known))
    outcome = executor.run_sync(steps.lease(StepKind.FUNCTION, "unknwon"))

    assert (outcome.failure, outcome.started) == ("TOOL_UNAVAILABLE", False)
    assert "_known" in steps.message(outcome)


def _known() -> None: ...


@pytest.mark.parametrize("answer", ["billing", {"route": "billing", "why": "invoice"}])
def test_a_router_function_returns_its_route(answer: Any):
    """As a bare key, or beside its outputs."""

    def route() -> Any:
        return answer

    outcome = call(route, kind=NodeKind.ROUTER, routes=("billing", "tech"), output_keys=())

    assert steps.content(outcome).route == "billing"


def test_a_route_outside_the_routes_fails():
    """A closed enumeration is closed."""

    def route() -> str:
        return "sales"

    outcome = call(route, kind=NodeKind.ROUTER, routes=("billing", "tech"), output_keys=())

    assert outcome.failure == "INVALID_OUTPUT"
    assert "billing, tech" in steps.message(outcome)


def test_a_loops_tool_call_gives_its_result():
    """In an agent loop a tool's result is for the conversation, not for memory."""

    @hive.tool()
    def lookup(key: str) -> dict[str, str]:
        return {"key": key}

    plan = steps.node(
        NodeKind.EVENT_LOOP, output_keys=("answer",), tools=(ToolPlan("lookup", cost_nanousd=7),)
    )
    outcome = steps.executor(plan, lookup).run_sync(steps.lease(StepKind.TOOL, "lookup", {"key": "k"}))

    assert steps.outputs(outcome) == {"result": {"key": "k"}}
    assert outcome.cost_nanousd == 7


def test_a_tool_in_the_place_of_a_loops_own_has_its_own_terms():
    """What its call costs is what is declared of it."""

    @hive.tool()
    def replica(key: str) -> str:
        return key

    instead = FallbackPlan(
        FallbackKind.TOOL, (), tool=ToolPlan("replica", cost_nanousd=8), instead_of="lookup"
    )
    plan = steps.node(NodeKind.EVENT_LOOP, tools=(ToolPlan("lookup"),), fallbacks=(instead,))
    outcome = steps.executor(plan, replica).run_sync(steps.lease(StepKind.TOOL, "replica", {"key": "k"}))

    assert (steps.outputs(outcome), outcome.cost_nanousd) == ({"result": "k"}, 8)


def test_async_functions_are_awaited():
    """An ``async`` function runs on the worker's loop, not in a thread."""

    @hive.function()
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    executor = steps.executor(steps.node(output_keys=("out",)), later)
    step = steps.lease(StepKind.FUNCTION, "later", {"x": 1})

    assert not executor.is_sync(step)
    assert steps.outputs(steps.run(executor, step)) == {"out": 2}


def test_an_async_function_that_takes_too_long_times_out():
    """The lease's own time counts."""

    @hive.function()
    async def forever() -> None:
        await asyncio.Event().wait()

    executor = steps.executor(steps.node(), forever)
    outcome = steps.run(executor, steps.lease(StepKind.FUNCTION, "forever", timeout_us=20_000))

    assert outcome.failure == "TIMEOUT" and outcome.started
    assert "0.02 s" in steps.message(outcome)
    assert outcome.duration_us >= 20_000


def test_a_tools_own_timeout_is_the_tools_error():
    """Only the lease's end is the step's timeout."""

    @hive.function()
    async def impatient() -> None:
        raise TimeoutError("the CRM did not answer")

    outcome = steps.run(steps.executor(steps.node(), impatient), steps.lease(StepKind.FUNCTION, "impatient"))

    assert outcome.failure == "TOOL_ERROR"


def test_a_cancelled_step_reports_cancelled():
    """The outcome comes back instead of an exception: the slot must become free."""
    begun = asyncio.Event()

    @hive.function()
    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def story():
        executor = steps.executor(steps.node(), forever)
        task = asyncio.create_task(executor.run(steps.lease(StepKind.FUNCTION, "forever")))
        await begun.wait()
        task.cancel()
        return await task

    assert asyncio.run(story()).failure == "CANCELLED"


def test_a_map_collects_what_its_items_wrote_in_their_order():
    """Ten comes after two; a failure keeps its place."""
    executor = steps.executor(steps.node(NodeKind.MAP, output_keys=("all",)))
    inputs = {"10.text": "j", "2.text": "b", "3.!": {"error": "TIMEOUT"}}
    step = steps.lease(StepKind.COLLECT, "collect", inputs)

    assert executor.is_sync(step)
    assert steps.outputs(executor.run_sync(step)) == {"all": ["b", {"error": "TIMEOUT"}, "j"]}


def test_a_map_with_several_outputs_gives_each_its_own_list():
    """Columns instead of rows, aligned by item."""
    executor = steps.executor(steps.node(NodeKind.MAP, output_keys=("a", "b")))
    step = steps.lease(StepKind.COLLECT, "collect", {"0.a": 1, "0.b": 2, "1.a": 3})

    assert steps.outputs(executor.run_sync(step)) == {"a": [1, 3], "b": [2, None]}


class Broken(steps.Blobs):
    """A store that is away."""

    def store(self, run: str, data: bytes, key: bytes) -> Value:
        raise StoreError("the store is away")

    def load(self, value: Value) -> Any:
        raise StoreError("the store is away")


def test_an_input_that_cannot_be_read_is_nobodys_fault():
    """Nothing began; another attempt may find the store again."""
    executor = steps.executor(steps.node(), hive.function()(_known), blobs=Broken())
    step = msgspec.structs.replace(steps.lease(StepKind.FUNCTION, "_known"), inputs={"a": Value(b"", "b", 9)})
    outcome = executor.run_sync(step)

    assert (outcome.failure, outcome.started) == ("TOOL_UNAVAILABLE", False)


@pytest.mark.parametrize(("idempotent", "kind"), [(True, "TOOL_UNAVAILABLE"), (False, "OUTCOME_UNKNOWN")])
def test_an_output_that_cannot_be_stored_is_unknown_unless_idempotent(idempotent: bool, kind: str):
    """The effect happened and its result is lost."""

    @hive.function()
    def large() -> str:
        return "x" * 9000

    plan = steps.node(output_keys=("out",), idempotent=idempotent)
    outcome = steps.executor(plan, large, blobs=Broken()).run_sync(steps.lease(StepKind.FUNCTION, "large"))

    assert outcome.failure == kind
    assert "the store is away" in steps.message(outcome)


def test_a_graph_that_cannot_be_found_is_reported():
    """A bug of ours ends the step, not the worker."""

    def lost(version: str) -> Any:
        raise KeyError(version)

    blobs = steps.Blobs()
    executor = Executor(Settings(), lost, blobs.load, blobs.store)
    step = steps.lease(StepKind.FUNCTION, "f")

    assert executor.run_sync(step).failure == "INTERNAL"
    assert executor.timed_out(step).failure == "TIMEOUT"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_say_is_invalid_and_named(number: float):
    """It would become null without a word."""

    @hive.function()
    def measure() -> dict[str, Any]:
        return {"o": {"values": [1.5, number]}, "p": 1.0}

    plan = steps.node(function="measure", output_keys=("o", "p"))
    outcome = steps.executor(plan, measure).run_sync(steps.lease(StepKind.FUNCTION, "measure"))

    assert outcome.failure == "INVALID_OUTPUT"
    assert "o.values[1]" in steps.message(outcome)


def test_inputs_that_do_not_fit_the_nodes_schema_never_reach_its_code():
    """Refused before the call, so nothing was begun."""
    called: list[str] = []

    @hive.function()
    def note(x: str) -> dict[str, Any]:
        called.append(x)
        return {"o": x}

    schema = b'{"type":"object","properties":{"x":{"maxLength":2}},"required":["x"]}'
    made = steps.executor(steps.node(function="note", output_keys=("o",), input_schema=schema), note)
    refused = made.run_sync(steps.lease(StepKind.FUNCTION, "note", {"x": "long"}))
    fits = made.run_sync(steps.lease(StepKind.FUNCTION, "note", {"x": "ab"}))

    assert (refused.failure, refused.started) == ("BAD_INPUT", False)
    assert "node n" in steps.message(refused) and "x: " in steps.message(refused)
    assert (steps.outputs(fits), called) == ({"o": "ab"}, ["ab"])
