"""Degrade ladders of models over HTTP: on which rung each stands, and why."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hive_ray.control.ladder_views import GetLadder, LadderView, ListLadders
from hive_ray.core.ladder import LadderPlan, Rung, Tally
from serve import shapes
from serve.routes_runs import answer, backend_of, listed

router = APIRouter(prefix="/v1/ladders", tags=["ladders"])


@router.get("", summary="Where each model that has a degrade ladder stands")
async def list_ladders(request: Request) -> Response:
    return await listed(request, "ladders", ListLadders(), list[LadderView], _shape)


@router.get("/{model}", summary="Where a model stands on its degrade ladder")
async def get_ladder(request: Request, model: str) -> Response:
    """``level`` counts the rungs from the top, where nothing is different: 0."""
    return answer(_shape(await backend_of(request).read(GetLadder(model), LadderView)))


def _shape(view: LadderView) -> dict[str, Any]:
    return {
        "model": view.model,
        "level": view.level,
        "since": shapes.iso(view.since_us),
        "reason": view.reason or None,
        "asked": _rung(view.asked),
        "window": _tally(view.window),
        "trials": _tally(view.trials),
        "configured": _configured(view.plan),
    }


def _tally(counted: Tally) -> dict[str, Any]:
    p95_s = counted.p95_us / 1e6 if counted.calls else None
    return {"calls": counted.calls, "failures": counted.failures, "p95_s": p95_s}


def _rung(rung: Rung) -> dict[str, Any]:
    return {
        "model": rung.model or None,
        "max_tokens": rung.max_tokens or None,
        "context_bytes": rung.context_bytes or None,
    }


def _configured(plan: LadderPlan) -> dict[str, Any]:
    return {
        "latency_p95_s": plan.latency_us / 1e6 or None,
        "error_percent": plan.error_percent or None,
        "window_s": plan.window_us / 1e6,
        "min_calls": plan.min_calls,
        "recover_percent": plan.recover_percent,
        "calm_s": plan.calm_us / 1e6,
        "rungs": [_rung(rung) | {"budget_percent": rung.budget_percent or None} for rung in plan.rungs],
    }
