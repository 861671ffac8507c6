"""Agent nodes (``event_loop``, ``llm_tool_use``): loops in which every LLM and tool call is a step.

A turn is one LLM call and the tool calls that it asked for. Calls of idempotent tools that stand next
to each other run side by side, any other call runs alone, in the order in which the LLM made them.
"""

from __future__ import annotations

from hive_ray.core import asking
from hive_ray.core import events as ev
from hive_ray.core.commands import Moment
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent, StepKind
from hive_ray.core.routing import losing_keys
from hive_ray.core.run import Loop, Run, Step, Visit
from hive_ray.core.standing_in import model_name
from hive_ray.graph.asking import Asked, AskPlan
from hive_ray.graph.compiled import CompiledGraph, NodeKind, NodePlan, ToolPlan


def tool_plan(node: NodePlan, name: str) -> ToolPlan | None:
    return next((tool for tool in node.tools if tool.name == name), None)


def is_conversation(node: NodePlan, visit: Visit, step: Step | None = None) -> bool:
    """Whether what is said in a visit, or comes of a step of it, must not outlive the run.

    A loop's results are told again when its node ends, and that outlives it.
    """
    return visit.loop is not None and not node.record and (step is None or step.kind is not StepKind.DECIDE)


def begin(run: Run, graph: CompiledGraph, visit: Visit) -> Draft:
    node = graph.nodes[visit.node]
    return Draft(ev.LoopBegan(run.id, visit.serial, graph.continuous and node.kind is NodeKind.EVENT_LOOP))


def proceed(run: Run, graph: CompiledGraph, visit: Visit, now: Moment) -> list[Draft]:
    """What a loop does next, once none of its steps is under way."""
    loop = visit.loop
    if loop is None or visit.wait is not None or visit.deciding:
        return []
    node = graph.nodes[visit.node]
    if any(step.turn < 0 for step in visit.steps.values()):
        return []
    if None in loop.results:
        return _next_calls(run, node, visit, loop)
    if visit.steps:
        return []
    if loop.turns == 0 or (loop.conversation and loop.conversation[-1].role == "user"):
        return [_next_turn(run, node, visit)]
    return _after_turn(run, node, visit, loop, now)


def _after_turn(run: Run, node: NodePlan, visit: Visit, loop: Loop, now: Moment) -> list[Draft]:
    if _is_complete(node, loop):
        return end_well(run, node, visit, StepContent(outputs=loop.outputs, facts=loop.facts))
    if loop.asks:
        return [_ask_client(run, node, visit, loop, now)]
    if loop.turns >= node.max_turns:
        missing = ", ".join(key for key in node.output_keys if key not in loop.outputs)
        why = f"{node.max_turns} turns (max_turns) without an end; outputs not set: {missing or 'none'}"
        return [
            draft(
                ev.NodeFailed(run.id, visit.serial, FailureKind.LIMIT_EXCEEDED, node.id),
                StepContent(message=why),
            )
        ]
    return [_next_turn(run, node, visit)]


def _is_complete(node: NodePlan, loop: Loop) -> bool:
    if loop.done:
        return True
    required = [key for key in node.output_keys if key not in node.nullable_keys]
    return bool(required) and all(key in loop.outputs for key in required)


def end_well(run: Run, node: NodePlan, visit: Visit, content: StepContent) -> list[Draft]:
    """A node of several steps succeeds, or first lets an LLM choose its edges."""
    dropped = losing_keys(run, visit, list(content.outputs))
    if not node.decides:
        return [draft(ev.NodeSucceeded(run.id, visit.serial, dropped, node.id), content)]
    model = model_name(node, visit)
    return [
        draft(ev.OutputsWritten(run.id, visit.serial, dropped), content),
        Draft(ev.StepQueued(run.id, visit.serial, visit.calls, StepKind.DECIDE, model, "llm")),
    ]


def _next_turn(run: Run, node: NodePlan, visit: Visit) -> Draft:
    model = model_name(node, visit)
    return Draft(ev.StepQueued(run.id, visit.serial, visit.calls, StepKind.LLM, model, node.pool))


def _next_calls(run: Run, node: NodePlan, visit: Visit, loop: Loop) -> list[Draft]:
    under_way = {step.turn for step in visit.steps.values()}
    if under_way:
        return []
    drafts: list[Draft] = []
    number = visit.calls
    for turn, (call, result) in enumerate(zip(loop.calls, loop.results, strict=True)):
        if result is not None:
            continue
        tool = tool_plan(node, call.tool)
        alone = tool is None or not tool.idempotent
        if alone and drafts:
            break
        pool = tool.pool if tool else "tool"
        drafts.append(
            Draft(ev.StepQueued(run.id, visit.serial, number, StepKind.TOOL, call.tool, pool, turn))
        )
        number += 1
        if alone:
            break
    return drafts


def _ask_client(run: Run, node: NodePlan, visit: Visit, loop: Loop, now: Moment) -> Draft:
    shown = {} if loop.question is None else {"question": loop.question}
    event = asking.request(run, visit, "client", AskPlan((Asked("", node.idle_us),)), now)
    need = f"node {node.id} talks to its client: answer with signal, or end it with complete"
    return draft(event, StepContent(message=need, outputs=shown), is_conversation(node, visit))
