"""What takes the place of a step that failed for good because something is away.

Only where nothing can have happened, or nothing that a second time would harm: whoever decides that a step
has failed knows. Each fallback of a visit, or of a call of an agent loop, is taken once, in order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.core import agent_loop, asking, features
from hive_ray.core import events as ev
from hive_ray.core.commands import Moment, Refused
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent, StepKind
from hive_ray.core.routing import inputs_of
from hive_ray.core.run import Run, Step, Visit
from hive_ray.core.values import Value, inline
from hive_ray.graph.compiled import (
    CompiledGraph,
    FallbackKind,
    FallbackPlan,
    HumanPlan,
    NodePlan,
    extract_facts,
)

ROUTE = "route"


def too_early(graph: CompiledGraph, level: int) -> Refused | None:
    """The refusal of a graph whose fallbacks a state of this level cannot hold."""
    if level >= features.CONTROLLED:
        return None
    if any(node.fallbacks for node in graph.nodes):
        return features.needs(features.CONTROLLED, level, "a fallback")
    refusals = (too_early(body, level) for body in graph.subgraphs)
    return next((refused for refused in refusals if refused is not None), None)


def take(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    step: Step,
    kind: FailureKind | str,
    message: str,
    now: Moment,
) -> list[Draft]:
    """The events with which the next fallback begins; none if there is none for this failure."""
    node = graph.nodes[visit.node]
    if not node.fallbacks:
        return []
    called = _called(visit, step)
    for index in range(_taken(node, visit, step, called), len(node.fallbacks)):
        plan = node.fallbacks[index]
        if plan.instead_of != called or kind not in plan.on or not _stands_in(run, graph, visit, step, plan):
            continue
        taken = ev.FallbackTaken(
            run.id, visit.serial, step.call, index, str(plan.kind), str(kind), node.id, step.name, _name(plan)
        )
        result = {"result": inline(msgspec.json.decode(plan.value))} if called and plan.value else {}
        said = bool(called) and agent_loop.is_conversation(node, visit, step)
        because = draft(taken, StepContent(message=message, outputs=result), said)
        return [because, *_begin(run, graph, visit, step, plan, message, now)]
    return []


def _called(visit: Visit, step: Step) -> str:
    """The tool that the LLM of an agent loop had called; empty for any other step."""
    return visit.loop.calls[step.turn].tool if visit.loop is not None and step.turn >= 0 else ""


def _taken(node: NodePlan, visit: Visit, step: Step, called: str) -> int:
    """From which fallback on there is one left."""
    if not called:
        return visit.taken
    by_name = (
        index
        for index, plan in enumerate(node.fallbacks)
        if plan.instead_of == called and plan.tool is not None and plan.tool.name == step.name
    )
    return next(by_name, -1) + 1


def _stands_in(run: Run, graph: CompiledGraph, visit: Visit, step: Step, plan: FallbackPlan) -> bool:
    """Whether a fallback can take the place of a step."""
    if step.kind is StepKind.DECIDE:
        return plan.model is not None
    permitted = step.permit.arguments if step.permit is not None else None
    if permitted is None or plan.tool is None:
        return True
    # Another tool would be given what a person had changed, as it was before.
    if visit.loop is not None and step.turn >= 0:
        return permitted == visit.loop.calls[step.turn].arguments
    return permitted == inputs_of(run, graph, visit)


def _name(plan: FallbackPlan) -> str:
    if plan.model is not None:
        return plan.model.model
    return plan.tool.name if plan.tool is not None else ""


def _begin(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    step: Step,
    plan: FallbackPlan,
    message: str,
    now: Moment,
) -> list[Draft]:
    node = graph.nodes[visit.node]
    match plan.kind:
        case FallbackKind.MODEL:
            assert plan.model is not None
            return [_queued(run, visit, step.kind, plan.model.model, step.pool)]
        case FallbackKind.TOOL:
            assert plan.tool is not None
            return [_queued(run, visit, StepKind.TOOL, plan.tool.name, plan.tool.pool, step.turn)]
        case FallbackKind.VALUE if step.turn >= 0:
            return []
        case FallbackKind.VALUE:
            return agent_loop.end_well(run, node, visit, _value(graph, visit, plan.value))
        case FallbackKind.HUMAN:
            assert plan.human is not None
            return [_ask(run, graph, visit, plan.human, message, now)]


def _queued(run: Run, visit: Visit, kind: StepKind, name: str, pool: str, turn: int = -1) -> Draft:
    return Draft(ev.StepQueued(run.id, visit.serial, visit.calls, kind, name, pool, turn))


def _value(graph: CompiledGraph, visit: Visit, value: bytes) -> StepContent:
    given: dict[str, Any] = msgspec.json.decode(value)
    node = graph.nodes[visit.node]
    route = given[ROUTE] if node.routes else ""
    outputs = {key: given.get(key) for key in node.output_keys}
    facts = extract_facts(graph, outputs)
    if visit.loop is not None:
        # What the loop has set already is better than any default.
        for key in visit.loop.outputs:
            outputs.pop(key, None)
        facts |= visit.loop.facts
    packed = {key: inline(one) for key, one in outputs.items()}
    if visit.loop is not None:
        packed = visit.loop.outputs | packed
    return StepContent(outputs=packed, facts=facts, route=route)


def _ask(run: Run, graph: CompiledGraph, visit: Visit, human: HumanPlan, message: str, now: Moment) -> Draft:
    shown: dict[str, Value] = inputs_of(run, graph, visit)
    need = f"{human.reason}: {message}. Give its outputs (approve), let it try again (retry), or reject."
    event = asking.request(run, visit, "fallback", human.asking, now)
    return draft(event, StepContent(message=need, form=human.form, outputs=shown))
