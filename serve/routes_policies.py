"""Policies over HTTP: the rules in force."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hive_ray.control.queries import ListPolicies
from hive_ray.graph.asking import AskPlan
from hive_ray.graph.policies import RulePlan
from serve.routes_runs import listed

router = APIRouter(prefix="/v1/policies", tags=["operation"])
_SELECTORS = ("tools", "tags", "nodes", "models", "agents", "teams", "kinds")


@router.get("", summary="The rules in force, in order")
async def list_policies(request: Request) -> Response:
    """Those that are for no other team alone; the built-in rule stands last."""
    return await listed(request, "policies", ListPolicies(""), list[RulePlan], shape)


def shape(rule: RulePlan) -> dict[str, Any]:
    """A rule as its author would write it."""
    written = {
        "when": rule.when,
        **{key: list(getattr(rule, key)) for key in _SELECTORS},
        "reason": rule.reason,
        "pool": rule.pool,
        "level": rule.level,
        "description": rule.description,
        "asks": _asks(rule.asks) if rule.asks is not None else None,
    }
    told = {key: value for key, value in written.items() if value}
    return {"id": rule.id, "then": str(rule.effect), **told, "source": rule.source or "hive.yaml"}


def _asks(asks: AskPlan) -> dict[str, Any]:
    chain = [{"owner": asked.owner, "for_s": asked.us / 1e6} for asked in asks.chain]
    return {"chain": chain, "finally": str(asks.final), "four_eyes": asks.four_eyes}
