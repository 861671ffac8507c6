"""Admission of a step: one atomic decision. All that it needs is taken, or nothing is.

The answer is ``Granted``, ``Wait`` (something that others hold must be released first) or ``Exhausted``
(no release can help). The run's own hard budget is decided here; accounts above it, rates, breakers
and policies are further clauses of the same decision.
"""

from __future__ import annotations

import msgspec

from hive_ray.core import agent_loop, bounds
from hive_ray.core.messages import StepKind
from hive_ray.core.run import Run, Step, Visit
from hive_ray.core.values import Value
from hive_ray.graph.compiled import ModelPlan, NodePlan


class Granted(msgspec.Struct, frozen=True):
    reserved_nanousd: int


class Wait(msgspec.Struct, frozen=True):
    resource: str


class Exhausted(msgspec.Struct, frozen=True):
    account: str
    message: str


MTOK = 1_000_000


def worst_case_nanousd(run: Run, node: NodePlan, visit: Visit, step: Step, inputs: dict[str, Value]) -> int:
    """Strict upper bound on what an attempt can cost."""
    if step.kind is StepKind.LLM or step.kind is StepKind.DECIDE:
        model = node.model
        return _price(model, bounds.prompt_tokens(run, node, visit, step, inputs)) if model else 0
    if step.turn >= 0:
        tool = agent_loop.tool_plan(node, step.name)
        return tool.cost_nanousd if tool else 0
    return node.cost_nanousd


def _price(model: ModelPlan, tokens: int) -> int:
    nanousd = tokens * model.input_nanousd_per_mtok + model.max_tokens * model.output_nanousd_per_mtok
    return -(-nanousd // MTOK)


def admit(run: Run, worst_case: int) -> Granted | Wait | Exhausted:
    """Decide over one step's worst case against the run's ceiling."""
    if run.budget_nanousd < 0 or worst_case == 0:
        return Granted(worst_case)
    # A sum below 0, where a late outcome came after a correction of the whole run, is no money to spend.
    free = run.budget_nanousd - max(run.spent_nanousd, 0)
    if worst_case > free:
        message = (
            f"the run's budget is {dollars(run.budget_nanousd)}, {dollars(run.spent_nanousd)} is spent, and "
            f"this step can cost up to {dollars(worst_case)}; raise budget_usd or lower max_tokens"
        )
        return Exhausted(f"run/{run.id}", message)
    if worst_case > free - run.reserved_nanousd:
        return Wait(f"run/{run.id}")
    return Granted(worst_case)


def dollars(nanousd: int) -> str:
    """Exact text of an amount: ``0.25 USD``."""
    whole, rest = divmod(nanousd, 1_000_000_000)
    digits = f"{rest:09d}".rstrip("0")
    return f"{whole}.{digits or '0'} USD"
