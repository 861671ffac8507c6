"""Budgets, rates, bounds on runs, breakers and ladders of a history."""

from __future__ import annotations

import hashlib
from random import Random

import msgspec

from hive_ray.core.breakers import BreakerPlan
from hive_ray.core.commands import ApplyPlan
from hive_ray.core.ladder import LadderPlan, Rung
from hive_ray.core.plan import AccountPlan, Action, ControlPlan, RatePlan, encode_plan
from hive_ray.graph.compiled import ModelPlan
from tests.core.random_graphs import MODEL

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
BREAKING = ("tool/*", "tool/read", "tool/send", "model/*", "model/m")
SCOPES = ("team/team", "agent/team/agent", "pool/function", "pool/llm")
RATED = ("pool/function", "pool/llm", "tool/read", "model/*")
RUNNING = ("team/team", "agent/team/agent", "agent/team/*")
ACTIONS = (Action.STOP, Action.STOP, Action.STOP, Action.PAUSE, Action.DEGRADE)


CHEAPER = ModelPlan("cheaper", 2, 3, 500_000, 500_000)
"""What steps of ``MODEL`` ask when that is away, slow or too dear."""


def draw_plan(chance: Random, limited: bool, breaks: bool) -> ControlPlan:
    """Of a history; empty for those that limit and break nothing."""
    drawn = _draw_limits(chance) if limited else ControlPlan()
    if not breaks:
        return drawn
    ladder = _draw_ladder(chance)
    return msgspec.structs.replace(
        drawn,
        breakers={name: _draw_breaker(chance) for name in chance.sample(BREAKING, chance.randint(1, 4))},
        ladders={MODEL.model: ladder} if chance.random() < 0.7 else {},
        models={CHEAPER.model: CHEAPER},
    )


def _draw_breaker(chance: Random) -> BreakerPlan:
    """One that opens soon, and closes soon."""
    slow_us = chance.choice((0, 0, 4_000))
    return BreakerPlan(1_000_000, chance.randint(2, 10), 30, slow_us, 40, int(50_000 + chance.random() * 2e6))


def _draw_ladder(chance: Random) -> LadderPlan:
    rungs = (Rung(max_tokens=2, context_bytes=200, budget_percent=50), Rung(CHEAPER.model, budget_percent=90))
    latency_us = chance.choice((0, 3_000, 5_000))
    return LadderPlan(rungs, 1_000_000, 4, latency_us, chance.choice((0, 10, 30)), 70, 500_000)


def _draw_limits(chance: Random) -> ControlPlan:
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
