"""Budgets, pools, rates, parallel runs and the plan in force as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from hive_ray.config import PoolSettings
from hive_ray.control.budget_views import AccountView, PlanView, PoolView, RateView, RunsView
from hive_ray.core.accounts import WINDOWS, Ledger
from hive_ray.core.plan import CLASSES, AccountPlan, Action, Change, ControlPlan, decode_plan
from serve.shapes import iso, usd

Json = Any


def account(view: AccountView) -> dict[str, Json]:
    """One account in its present window."""
    limits, ledger = view.limits or AccountPlan(), view.ledger
    kind = view.name.partition("/")[0]
    return {
        "scope": view.name,
        "limit_usd": _usd_or_none(limits.nanousd),
        "limit_tokens": limits.tokens if limits.tokens >= 0 else None,
        "spent_usd": usd(ledger.spent_nanousd),
        "spent_tokens": ledger.spent_tokens,
        "reserved_usd": usd(ledger.held_nanousd),
        "reserved_tokens": ledger.held_tokens,
        "likely_usd": usd(ledger.likely_nanousd),
        "likely_tokens": ledger.likely_tokens,
        **_free(limits, ledger),
        "window": {"kind": WINDOWS[kind], "begins_at": iso(view.window_us), "ends_at": iso(view.until_us)},
        "at_limit": limits.action if view.limits is not None else None,
        "warn_percent": limits.warn_percent if view.limits is not None else None,
        "owner": limits.owner,
        "warned": view.warned,
        **_changed(view.changed),
        "stopped_by": view.stopped_by or None,
    }


def _usd_or_none(nanousd: int) -> str | None:
    return usd(nanousd) if nanousd >= 0 else None


def _free(limits: AccountPlan, ledger: Ledger) -> dict[str, Json]:
    """What another step may still hold: beside strict reservations, or beside what calls probably cost."""
    strict = limits.action == Action.STOP
    nanousd = ledger.held_nanousd if strict else ledger.likely_nanousd
    tokens = ledger.held_tokens if strict else ledger.likely_tokens
    free_nanousd = max(0, limits.nanousd - max(0, ledger.spent_nanousd) - nanousd)
    free_tokens = max(0, limits.tokens - max(0, ledger.spent_tokens) - tokens)
    return {
        "free_usd": usd(free_nanousd) if limits.nanousd >= 0 else None,
        "free_tokens": free_tokens if limits.tokens >= 0 else None,
    }


def _changed(change: Change | None) -> dict[str, Json]:
    """Who changed what the configuration says; null: nobody did."""
    if change is None:
        return {"changed_by": None, "changed_at": None}
    return {"changed_by": change.principal or "operator", "changed_at": iso(change.at_us)}


def rate(view: RateView) -> dict[str, Json]:
    plan = view.plan
    return {
        "name": view.name,
        "requests_per_minute": plan.requests_per_minute if plan else 0,
        "tokens_per_minute": plan.tokens_per_minute if plan else 0,
        **_changed(view.changed),
    }


def pool(view: PoolView, settings: PoolSettings) -> dict[str, Json]:
    """A pool: who works, who waits and for what, and its limits."""
    budget = account(view.account) if view.account is not None else None
    rates = rate(view.rate)
    return {
        "pool": view.name,
        "kind": settings.kind,
        "workers": view.workers,
        "workers_min": settings.workers.min,
        "workers_max": settings.workers.max,
        "slots": view.slots,
        "busy_slots": view.leases,
        "queue_limit": settings.queue_limit,
        "ready": [
            {"priority": priority, "team": team, "steps": steps} for priority, team, steps in view.ready
        ],
        "waiting": [{"for": resource, "steps": steps} for resource, steps in view.awaiting.items()],
        "requests_per_minute": rates["requests_per_minute"],
        "tokens_per_minute": rates["tokens_per_minute"],
        "rates_changed_by": rates["changed_by"],
        "usd_per_hour": budget["limit_usd"] if budget is not None else None,
        "budget": budget,
        "stopped_by": budget["stopped_by"] if budget is not None else None,
    }


def runs(view: RunsView) -> dict[str, Json]:
    return {
        "scope": view.name,
        "limit": view.limit or None,
        "under_way": view.under_way,
        "waiting": sum(view.waiting.values()),
        "waiting_by_priority": view.waiting,
        **_changed(view.changed),
    }


def plan(view: PlanView) -> dict[str, Json]:
    """What is in force."""
    changes = view.changes
    fields = ("accounts", "rates", "runs")
    return {
        "digest": view.digest,
        "applied_by": view.applied.principal or None,
        "applied_at": iso(view.applied.at_us),
        "plan": told_plan(decode_plan(view.plan)),
        "changes": [
            {"what": field, "name": name, "value": told(value), **_changed(changes.by.get(f"{field}:{name}"))}
            for field in fields
            for name, value in getattr(changes, field).items()
        ],
        "stopped": view.stopped,
        "maintenance": {"on": bool(view.maintenance), "by": view.maintenance or None},
    }


def told_plan(found: ControlPlan) -> dict[str, Json]:
    """A plan, its priority classes by name."""
    classes = {name: CLASSES[index] for name, index in found.priorities.items()}
    return {**told(found), "priorities": classes}


def told(value: Json) -> Json:
    """Any part of a plan: amounts in US dollars, durations in seconds, what is not limited as null."""
    match value:
        case msgspec.Struct():
            pairs = (_told_field(key, item) for key, item in msgspec.structs.asdict(value).items())
            return dict(pairs)
        case Mapping():
            return {str(key): told(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        case list() | tuple():
            return [told(item) for item in cast("list[Any]", value)]
        case bytes():
            return _decoded(value)
        case _:
            return value


def _told_field(key: str, item: Json) -> tuple[str, Json]:
    if key.endswith("nanousd") and isinstance(item, int):
        return key.replace("nanousd", "usd"), _usd_or_none(item)
    if key.endswith("_us") and isinstance(item, int):
        return f"{key.removesuffix('_us')}_s", item / 1e6
    if key == "tokens" and item == -1:
        return key, None
    return key, told(item)


def _decoded(value: bytes) -> Json:
    """Schemas and the like travel as JSON."""
    try:
        return msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return f"{len(value)} bytes"
