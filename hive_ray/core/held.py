"""Steps that a person must allow before they start: the question, and what follows from the answer."""

from __future__ import annotations

from hive_ray.core import asking, steps
from hive_ray.core import events as ev
from hive_ray.core.admission import Ask
from hive_ray.core.commands import Moment
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent
from hive_ray.core.run import Run, Step, Visit, Wait
from hive_ray.core.values import decode
from hive_ray.graph.compiled import NodePlan

NANO = 1_000_000_000


def ask(run: Run, visit: Visit, step: Step, question: Ask, now: Moment) -> Draft:
    """Hold a step until somebody answers."""
    asks = question.asks or now.asks
    if question.owner:
        asks = asks.asking(question.owner)
    event = asking.request(run, visit, question.reason, asks, now, step.call)
    content = StepContent(message=question.message, form=question.form, outputs=question.shown)
    return draft(event, content)


def answered(
    run: Run, node: NodePlan, visit: Visit, wait: Wait, decision: str, content: StepContent, principal: str
) -> list[Draft]:
    """What follows a person's answer to a question about a held step, besides that it is ready or failed."""
    if decision == "reject":
        return refuse(run, node, visit, visit.steps[wait.call], _KINDS[wait.reason], _why(content))
    if wait.reason == "budget":
        return [_allowance(run, wait, content, principal)]
    return []


_KINDS = {"budget": FailureKind.BUDGET_EXCEEDED, "policy": FailureKind.REJECTED}


def _why(content: StepContent) -> str:
    return content.message or "a human rejected it"


def _allowance(run: Run, wait: Wait, content: StepContent, principal: str) -> Draft:
    """So much as the answer says; by default as much as the step needs."""
    needed = {key: decode(value) for key, value in wait.shown.items()}
    given = {key: decode(value) for key, value in content.outputs.items()}
    nanousd, tokens = int(needed.get("needed_nanousd", 0)), int(needed.get("needed_tokens", 0))
    if given.get("usd") is not None:
        nanousd = round(given["usd"] * NANO)
    if given.get("tokens") is not None:
        tokens = int(given["tokens"])
    return Draft(ev.AllowanceGranted(run.id, needed["account"], nanousd, tokens, principal))


def refuse(
    run: Run, node: NodePlan, visit: Visit, step: Step, kind: FailureKind | str, message: str
) -> list[Draft]:
    """A step may never start: the LLM of an agent loop is told, any other node fails."""
    if step.turn >= 0 and kind != FailureKind.BUDGET_EXCEEDED:
        return [steps.tool_call_failed(run, node, visit, step, kind, message)]
    return [steps.fail_node(run, node, visit, kind, message)]
