"""Whether a run can ever begin, told at the door: its first steps against the limits that no waiting lifts.

Only what is certain is refused. A limit that a person may raise for the run, an account whose next window may
carry the step, a graph that goes on after a failure, and rules or ladders that may choose a cheaper model let
it in.
"""

from __future__ import annotations

from collections.abc import Iterator

from hive_ray.core import bounds
from hive_ray.core.admission import Worst, dollars, price
from hive_ray.core.beginnings import Beginning, beginnings
from hive_ray.core.commands import Fork, Refused, Submit
from hive_ray.core.messages import StepKind, subject_of
from hive_ray.core.plan import Action, InForce
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, NodePlan
from hive_ray.graph.policies import Effect

_AFTER_FAILURE = (EdgeCondition.ALWAYS, EdgeCondition.ON_FAILURE)
_CHANGING = (Effect.DEGRADE, Effect.ROUTE)
"""Decisions of a policy after which a step costs something else."""


def refuse(command: Submit | Fork, graph: CompiledGraph, force: InForce) -> Refused | None:
    """The refusal of a run of which a first step can never start."""
    refusals = (_refusal(command, graph, first, force) for first in beginnings(command, graph))
    return next((refused for refused in refusals if refused is not None), None)


def _refusal(
    command: Submit | Fork, graph: CompiledGraph, first: Beginning, force: InForce
) -> Refused | None:
    node = first.node
    if _may_go_on(graph, node, force):
        return None
    worst = _worst(first)
    budget = command.budget_nanousd
    if budget < 0 and isinstance(command, Submit):
        budget = graph.budget_nanousd
    if 0 <= budget < worst.nanousd:
        what = f"the run's budget is {dollars(budget)}"
        return _too_little(node, worst, what, "raise budget_usd or lower max_tokens")
    for account in _accounts(command, graph, first):
        plan = force.account(account)
        if plan is None or plan.action != Action.STOP:
            continue
        if 0 <= plan.nanousd < worst.nanousd:
            what = f"the budget {account} has {dollars(plan.nanousd)} in a window"
        elif 0 <= plan.tokens < worst.tokens:
            what = f"the budget {account} has {plan.tokens} tokens in a window"
        else:
            continue
        return _too_little(node, worst, what, "raise its limit or lower max_tokens")
    return None


def _may_go_on(graph: CompiledGraph, node: NodePlan, force: InForce) -> bool:
    """Whether a first step that is refused need not be the end, or may be another one."""
    if node.fallbacks or any(graph.edges[index].condition in _AFTER_FAILURE for index in node.out_edges):
        return True
    if node.model is not None and node.model.model in force.plan.ladders:
        return True
    return any(rule.effect in _CHANGING for rule in force.plan.policies)


def _worst(first: Beginning) -> Worst:
    """As admission will reckon it, or less: long-term memory and a conversation come on top."""
    node, model = first.node, first.node.model
    if model is None or (node.function and first.kind != StepKind.DECIDE):
        return Worst(node.cost_nanousd, 0)
    if first.kind == StepKind.DECIDE:
        tokens = bounds.choice_bytes(node, model, first.inputs, first.memory)
    else:
        tokens = bounds.first_prompt_bytes(node, model, first.inputs)
    return Worst(price(model, tokens), tokens + model.max_tokens)


def _accounts(command: Submit | Fork, graph: CompiledGraph, first: Beginning) -> Iterator[str]:
    yield f"team/{command.team}"
    yield f"agent/{command.team}/{command.agent}"
    yield f"workflow/{command.team}/{graph.name or graph.id}"
    subject = subject_of(StepKind(first.kind), first.name)
    yield from filter(None, (f"pool/{first.pool}" if first.pool else "", subject))


def _too_little(node: NodePlan, worst: Worst, what: str, remedy: str) -> Refused:
    needs = f"{dollars(worst.nanousd)} and {worst.tokens} tokens" if worst.tokens else dollars(worst.nanousd)
    message = f"{what}, and a first step of node {node.id} can take {needs}: it could never start; {remedy}"
    return Refused("budget_exceeded", message)
