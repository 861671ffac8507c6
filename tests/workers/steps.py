"""Graphs of one node, leases for it, and an executor around them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from hive_ray.config import Settings
from hive_ray.core.messages import Lease, Outcome, StepContent, StepKind, Turn, decode_outcome_content
from hive_ray.core.values import Value, decode, inline
from hive_ray.graph.compiled import CompiledGraph, EdgePlan, ModelPlan, NodeKind, NodePlan
from hive_ray.testing import ScriptedModel
from hive_ray.workers.execution import Executor
from hive_ray.workers.llm import LlmGateway
from hive_ray.workers.tools import Registry

MODEL = "m"


class Blobs:
    """An object store in a dict."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def store(self, run: str, data: bytes, key: bytes) -> Value:
        name = f"{run}/{len(self.objects)}"
        self.objects[name] = data
        return Value(b"", name, len(data))

    def load(self, value: Value) -> Any:
        return msgspec.msgpack.decode(self.objects[value.blob])

    def decode(self, value: Value | None) -> Any:
        assert value is not None
        return self.load(value) if value.blob else decode(value)


def node(kind: NodeKind = NodeKind.FUNCTION, **fields: Any) -> NodePlan:
    plan = NodePlan(id="n", index=0, kind=kind, pool="p", timeout_us=5_000_000)
    if kind in (NodeKind.LLM_GENERATE, NodeKind.LLM_TOOL_USE, NodeKind.EVENT_LOOP):
        plan = msgspec.structs.replace(plan, model=ModelPlan(MODEL, 500, 0, 1_000_000_000, 2_000_000_000))
    return msgspec.structs.replace(plan, **fields)


def graph(*nodes: NodePlan, edges: Sequence[EdgePlan] = (), **fields: Any) -> CompiledGraph:
    return CompiledGraph(id="g", version="v", entry=0, nodes=nodes, edges=tuple(edges), **fields)


def lease(kind: StepKind, name: str, inputs: Mapping[str, Any] | None = None, **fields: Any) -> Lease:
    values = {key: inline(value) for key, value in (inputs or {}).items()}
    made = Lease(
        "run", 1, 0, 1, 1, "v", 0, kind, 5_000_000, values, name, request_id="req", team="t", agent="a"
    )
    return msgspec.structs.replace(made, **fields)


def executor(
    plan: CompiledGraph | NodePlan,
    *functions: Callable[..., Any],
    model: ScriptedModel | None = None,
    settings: Mapping[str, Any] | None = None,
    blobs: Blobs | None = None,
) -> Executor:
    made = plan if isinstance(plan, CompiledGraph) else graph(plan)
    registry = Registry()
    for fn in functions:
        registry.add(fn)
    blobs = blobs or Blobs()
    gateway = LlmGateway({}, str, {MODEL: model.client()}) if model else None
    parsed = Settings.model_validate(settings or {})
    return Executor(parsed, lambda _hash: made, blobs.load, blobs.store, registry=registry, gateway=gateway)


def content(outcome: Outcome) -> StepContent:
    return decode_outcome_content(outcome.content)


def outputs(outcome: Outcome) -> dict[str, Any]:
    assert not outcome.failure, content(outcome).message
    return {key: decode(value) for key, value in content(outcome).outputs.items()}


def message(outcome: Outcome) -> str:
    return content(outcome).message


def run(executor: Executor, step: Lease) -> Outcome:
    """Run an awaiting step, and close what it opened."""

    async def once() -> Outcome:
        try:
            return await executor.run(step)
        finally:
            await executor.close()

    return asyncio.run(once())


def ask(
    plan: CompiledGraph | NodePlan,
    model: ScriptedModel,
    inputs: Mapping[str, Any] | None = None,
    kind: StepKind = StepKind.LLM,
    **fields: Any,
) -> Outcome:
    """One LLM step on a scripted model."""
    return run(executor(plan, model=model), lease(kind, MODEL, inputs, **fields))


def turn(role: str, value: Any, **fields: Any) -> Turn:
    return Turn(role, inline(value), **fields)
