"""Budgets, rates and bounds on runs of a history."""

from __future__ import annotations

import hashlib
from random import Random

from hive_ray.core.commands import ApplyPlan
from hive_ray.core.plan import AccountPlan, Action, ControlPlan, RatePlan, encode_plan

ACCOUNTS = (
    "team/team",
    "team/*",
    "agent/team/agent",
    "agent/team/*",
    "workflow/*",
    "pool/function",
    "pool/llm",
    "tool/*",
)
SCOPES = ("team/team", "agent/team/agent", "pool/function", "pool/llm")
RATED = ("pool/function", "pool/llm", "tool/read", "model/*")
RUNNING = ("team/team", "agent/team/agent", "agent/team/*")
ACTIONS = (Action.STOP, Action.STOP, Action.STOP, Action.PAUSE, Action.DEGRADE)


def draw_plan(chance: Random, limited: bool) -> ControlPlan:
    """Of a history; empty for those that limit nothing."""
    if not limited:
        return ControlPlan()
    return ControlPlan(
        accounts={name: draw_budget(chance) for name in chance.sample(ACCOUNTS, chance.randint(1, 5))},
        rates={name: draw_rate(chance) for name in chance.sample(RATED, chance.randint(0, 2))},
        runs={name: chance.randint(1, 30) for name in chance.sample(RUNNING, chance.randint(0, 2))},
        spare_slots={"function": 2},
        weights={"team": chance.randint(1, 3)},
        priorities={"agent/team/other": chance.randint(0, 2)},
    )


def draw_budget(chance: Random) -> AccountPlan:
    """From what pays for a few steps to what pays for thousands."""
    nanousd = int(30 * 2 ** (chance.random() * 10))
    return AccountPlan(nanousd, -1, chance.choice(ACTIONS), chance.choice((50, 80, 100)))


def draw_rate(chance: Random) -> RatePlan:
    return RatePlan(int(60 * 2 ** (chance.random() * 12)), 0)


def apply_plan(plan: ControlPlan) -> ApplyPlan:
    data = encode_plan(plan)
    return ApplyPlan(data, hashlib.sha256(data).hexdigest(), "configuration")
