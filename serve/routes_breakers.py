"""Breakers of models and tools over HTTP: what they are, and forcing them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from hive_ray.control.breaker_views import BreakerView, GetBreaker, ListBreakers
from hive_ray.control.views import LevelView
from hive_ray.core.commands import ForceBreaker
from hive_ray.core.messages import StepContent
from serve import shapes
from serve.backend import Backend
from serve.bodies import Body
from serve.names import check_broken
from serve.routes_runs import answer, backend_of, listed

router = APIRouter(prefix="/v1/breakers", tags=["breakers"])


class Force(Body):
    """What a breaker is to be: held open, held closed, or left to decide by itself again."""

    force: Literal["open", "closed", "auto"]
    reason: str = Field(default="", max_length=2000)


@router.get("", summary="Breakers that have counted something, or are not closed")
async def list_breakers(request: Request) -> Response:
    return await listed(request, "breakers", ListBreakers(), list[BreakerView], _shape)


@router.get("/{name:path}", summary="The breaker of model/NAME or tool/NAME")
async def get_breaker(request: Request, name: str) -> Response:
    backend = backend_of(request)
    return await _breaker(backend, check_broken(backend, name))


@router.put("/{name:path}", summary="Force it open or closed, or let it decide again")
async def put_breaker(request: Request, name: str, body: Force) -> Response:
    """Open: steps that need it fail fast, whatever happens. Closed: it never opens."""
    backend = backend_of(request)
    command = ForceBreaker(check_broken(backend, name), body.force, StepContent(message=body.reason))
    await backend.read(command, LevelView)
    return await _breaker(backend, command.name)


async def _breaker(backend: Backend, name: str) -> Response:
    return answer(_shape(await backend.read(GetBreaker(name), BreakerView)))


def _shape(view: BreakerView) -> dict[str, Any]:
    plan, counts = view.plan, view.counts
    configured = plan is not None and {
        "window_s": plan.window_us / 1e6,
        "min_calls": plan.min_calls,
        "failure_percent": plan.failure_percent,
        "slow_s": plan.slow_us / 1e6,
        "slow_percent": plan.slow_percent,
        "open_s": plan.open_us / 1e6,
        "failures": list(plan.kinds),
    }
    return {
        "name": view.name,
        "state": view.mode,
        "since": shapes.iso(view.since_us) if view.since_us else None,
        "reason": view.reason or None,
        "probe": view.probe or None,
        "forced_by": view.forced_by or None,
        "window": {"calls": counts.calls, "failures": counts.failures, "slow": counts.slow},
        "configured": configured or None,
    }
