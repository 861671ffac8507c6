"""Policies of simulated histories: every other history has some."""

from __future__ import annotations

import msgspec

from hive_ray.core.plan import ControlPlan
from hive_ray.graph.policies import Effect, RulePlan
from tests.simulation.plan import Plan

ASK, DENY, ALLOW = Effect.REQUIRE_APPROVAL, Effect.DENY, Effect.ALLOW
SETS: tuple[tuple[RulePlan, ...], ...] = (
    (),
    (RulePlan("send", ASK, tools=("send",)), RulePlan("functions", ASK, "memory.k", kinds=("function",))),
    (),
    (
        RulePlan("no", DENY, "not memory.k", tools=("look",)),
        RulePlan("broken", ASK, "broken", tools=("read",)),
        RulePlan("there", Effect.ROUTE, "memory.l", kinds=("function",), pool="llm"),
        RulePlan("down", Effect.DEGRADE, kinds=("llm",), level=2),
        RulePlan("yes", ALLOW, kinds=("llm",)),
    ),
)
"""``when`` as ``tests.core.graphs.Facts`` reads it."""


def with_rules(plan: Plan) -> ControlPlan:
    """Chosen by what was drawn anyway: whoever kept a seed still gets the same history but for its rules."""
    return msgspec.structs.replace(plan.control, policies=SETS[(plan.steps + plan.users) % len(SETS)])
