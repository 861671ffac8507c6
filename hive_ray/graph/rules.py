"""Rules of ``hive.yaml`` made into plans: their conditions compiled, their names checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from hive_ray.config_policies import RuleSettings, rule_place
from hive_ray.errors import ConfigError, Fault
from hive_ray.graph.asking import Asked, AskPlan, chain_of
from hive_ray.graph.policies import DESTRUCTIVE, Effect, RulePlan
from hive_ray.graph.rule_conditions import Condition, compile_condition
from hive_ray.graph.spec import nearest
from hive_ray.graph.translation import ExpressionFault

RUNS = {"function": ("function",), "tool": ("tool",), "llm": ("llm", "decide")}
"""Kinds of steps that a pool of a kind runs."""


def plan_rules(
    rules: Sequence[RuleSettings], pools: Mapping[str, str] | None = None, asks: AskPlan | None = None
) -> tuple[RulePlan, ...]:
    """The plans of rules, in their order.

    Args:
        pools: the pools that exist, with their kinds; None: they are not known.
        asks: who is asked where a rule says nothing.

    Raises:
        ConfigError: every fault of every rule, each with its place.
    """
    faults: list[Fault] = []
    plans = [_plan(rule, pools, asks or AskPlan(), faults) for rule in rules]
    if faults:
        raise ConfigError("policies", faults)
    return tuple(plans)


def _plan(
    rule: RuleSettings, pools: Mapping[str, str] | None, asks: AskPlan, faults: list[Fault]
) -> RulePlan:
    if rule.id == DESTRUCTIVE.id:
        problem = f"the id {rule.id!r} is that of the built-in rule"
        faults.append(Fault(rule_place(rule.file, rule.id, "id"), problem, "name it differently"))
    condition = _condition(rule, faults)
    return RulePlan(
        id=rule.id, effect=Effect(rule.then), when=rule.when, cel=condition.cel, reads=condition.reads,
        tools=rule.tools, tags=rule.tags, nodes=rule.nodes, models=rule.models, agents=rule.agents,
        teams=rule.teams, kinds=_kinds(rule, pools, faults), reason=rule.reason,
        asks=_asks(rule, asks, faults), pool=rule.pool,
        level=(rule.level or 1) if rule.then == "degrade" else 0,
        description=rule.description, source=rule.file,
    )  # fmt: skip


def _asks(rule: RuleSettings, default: AskPlan, faults: list[Fault]) -> AskPlan | None:
    """Whom a rule asks; whatever it does not say is as in ``approvals``."""
    if rule.then != Effect.REQUIRE_APPROVAL or not rule.model_fields_set & _ASKS:
        return None
    total_us = sum(asked.us for asked in default.chain)
    deadline_us = total_us if rule.deadline_s is None else round(rule.deadline_s * 1e6)
    pairs = pairwise(default.chain)
    escalate = [Asked(later.owner, earlier.us) for earlier, later in pairs]
    if "escalate" in rule.model_fields_set:
        escalate = [Asked(step.owner, round(step.after_s * 1e6)) for step in rule.escalate]
    four_eyes = default.four_eyes if rule.four_eyes is None else rule.four_eyes
    try:
        chain = chain_of(rule.owner or default.chain[0].owner, deadline_us, escalate)
    except ValueError as error:
        remedy = "raise deadline_s (approvals.default_deadline_s), or shorten the after_s"
        place = rule_place(rule.file, rule.id, "escalate")
        faults.append(Fault(place, f"nothing is left for the last owner: {error}", remedy))
        return None
    return AskPlan(chain, default.final, four_eyes)


_ASKS = {"owner", "deadline_s", "four_eyes", "escalate"}


def _condition(rule: RuleSettings, faults: list[Fault]) -> Condition:
    if not rule.when.strip():
        return Condition("", ())
    try:
        return compile_condition(rule.when)
    except ExpressionFault as fault:
        place = f"when:{fault.line}:{fault.column}" if fault.line else "when"
        faults.append(Fault(rule_place(rule.file, rule.id, place), fault.problem, fault.remedy))
        return Condition("", ())


def _kinds(rule: RuleSettings, pools: Mapping[str, str] | None, faults: list[Fault]) -> tuple[str, ...]:
    """Of steps that it is about; a rule that routes is about what the pool can run."""
    if rule.then != "route" or pools is None:
        return rule.kinds
    place = rule_place(rule.file, rule.id, "pool")
    if rule.pool not in pools:
        faults.append(Fault(place, f"no pool {rule.pool!r}", nearest(rule.pool, pools) or "name it in pools"))
        return rule.kinds
    runs = RUNS[pools[rule.pool]]
    wrong = [kind for kind in rule.kinds if kind not in runs]
    if wrong:
        problem = f"pool {rule.pool!r} runs {' and '.join(runs)} steps, not {', '.join(wrong)}"
        faults.append(Fault(place, problem, "name another pool, or leave those kinds out"))
    return rule.kinds or runs
