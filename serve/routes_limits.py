"""Pools, rates, parallel runs and maintenance over HTTP: what is at work, what waits, and what may begin."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from hive_ray.control.budget_views import (
    AccountView,
    GetAccount,
    GetMaintenance,
    GetRate,
    ListParallelRuns,
    ListPools,
    ListRates,
    Page,
    PoolView,
    RateView,
    RunsView,
)
from hive_ray.control.views import LevelView
from hive_ray.core.commands import ChangeBudget, ChangeRate, ChangeRunsLimit, Maintain
from hive_ray.core.messages import StepContent
from hive_ray.core.plan import AccountPlan, RatePlan
from serve import budget_shapes
from serve.backend import Backend
from serve.bodies import Reason
from serve.budget_bodies import PoolLimits, RateLimits, RunsLimit
from serve.caller import sees_totals
from serve.names import check_pool, check_rated, check_running
from serve.routes_runs import NANO, answer, backend_of, listed

router = APIRouter(prefix="/v1", tags=["limits"])


# --- pools -------------------------------------------------------------------------------------------


@router.get("/pools", summary="All pools: workers, queues, what steps wait for, limits")
async def list_pools(request: Request) -> Response:
    backend = backend_of(request)
    return answer({"pools": await _pools(backend, tuple(backend.settings.pools))})


@router.get("/pools/{name}", summary="One pool")
async def get_pool(request: Request, name: str) -> Response:
    return await _pool(backend_of(request), name)


@router.put("/pools/{name}", summary="Change the limits of a pool")
async def put_pool(request: Request, name: str, body: PoolLimits) -> Response:
    """All of them: what is left out does not limit. They hold at once, until they are changed again or the
    configuration says otherwise."""
    backend = backend_of(request)
    account = f"pool/{check_pool(backend, name)}"
    why = StepContent(message=body.reason)
    plan = RatePlan(body.requests_per_minute, body.tokens_per_minute)
    await backend.read(ChangeRate(account, plan, why), LevelView)
    nanousd = -1 if body.usd_per_hour is None else int(body.usd_per_hour * NANO)
    await _change_hourly(backend, account, nanousd, why)
    return await _pool(backend, name)


async def _change_hourly(backend: Backend, account: str, nanousd: int, why: StepContent) -> None:
    """The pool's budget in US dollars; what else it says stays."""
    view: AccountView = await backend.read(GetAccount(account, _now_us()), AccountView)
    old = view.limits or AccountPlan()
    if old.nanousd != nanousd:
        plan = AccountPlan(nanousd, old.tokens, old.action, old.warn_percent, old.owner)
        await backend.read(ChangeBudget(account, plan, why), LevelView)


@router.delete("/pools/{name}", summary="Go back to the configuration's limits")
async def delete_pool(request: Request, name: str) -> Response:
    backend = backend_of(request)
    account = f"pool/{check_pool(backend, name)}"
    await backend.read(ChangeRate(account, None), LevelView)
    await backend.read(ChangeBudget(account, None), LevelView)
    return await _pool(backend, name)


async def _pool(backend: Backend, name: str) -> Response:
    return answer((await _pools(backend, (check_pool(backend, name),)))[0])


async def _pools(backend: Backend, names: tuple[str, ...]) -> list[dict[str, object]]:
    views: list[PoolView] = await backend.read(ListPools(_now_us(), names), list[PoolView])
    return [budget_shapes.pool(view, backend.settings.pools[view.name]) for view in views]


# --- rates -------------------------------------------------------------------------------------------


@router.get("/rates", summary="Rates of pools, models and tools")
async def list_rates(request: Request) -> Response:
    return await listed(request, "rates", ListRates(), list[RateView], budget_shapes.rate)


@router.get("/rates/{name:path}", summary="The rates of pool/NAME, model/NAME or tool/NAME")
async def get_rate(request: Request, name: str) -> Response:
    return await _rate(backend_of(request), check_rated(backend_of(request), name))


@router.put("/rates/{name:path}", summary="Change them")
async def put_rate(request: Request, name: str, body: RateLimits) -> Response:
    backend = backend_of(request)
    known = check_rated(backend, name)
    plan = RatePlan(body.requests_per_minute, body.tokens_per_minute)
    await backend.read(ChangeRate(known, plan, StepContent(message=body.reason)), LevelView)
    return await _rate(backend, known)


@router.delete("/rates/{name:path}", summary="Go back to the configuration's rates")
async def delete_rate(request: Request, name: str) -> Response:
    backend = backend_of(request)
    known = check_rated(backend, name)
    await backend.read(ChangeRate(known, None), LevelView)
    return await _rate(backend, known)


async def _rate(backend: Backend, name: str) -> Response:
    return answer(budget_shapes.rate(await backend.read(GetRate(name), RateView)))


# --- parallel runs -----------------------------------------------------------------------------------


@router.get("/limits", summary="Parallel runs: limits, under way, waiting")
async def list_limits(
    request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 1000
) -> Response:
    """In order of their names; ``next_after`` of one page is ``after`` of the next, and null on the last."""
    query = ListParallelRuns("", Page(after, limit))
    views: list[RunsView] = await backend_of(request).read(query, list[RunsView])
    following = views[-1].name if len(views) == limit else None
    return answer({"limits": [budget_shapes.runs(view) for view in views], "next_after": following})


@router.put("/limits/{scope:path}", summary="Change the parallel runs of team/NAME or agent/TEAM/NAME")
async def put_limit(request: Request, scope: str, body: RunsLimit) -> Response:
    """Runs under way stay; those that wait begin as soon as they may."""
    content = StepContent(message=body.reason)
    return await _limit(backend_of(request), ChangeRunsLimit(check_running(scope), body.runs, content))


@router.delete("/limits/{scope:path}", summary="Go back to the configuration's number")
async def delete_limit(request: Request, scope: str) -> Response:
    return await _limit(backend_of(request), ChangeRunsLimit(check_running(scope), -1))


async def _limit(backend: Backend, command: ChangeRunsLimit) -> Response:
    await backend.read(command, LevelView)
    views: list[RunsView] = await backend.read(ListParallelRuns(names=(command.name,)), list[RunsView])
    return answer(budget_shapes.runs(views[0]))


# --- maintenance -------------------------------------------------------------------------------------


@router.get("/maintenance", summary="Whether anything new is admitted")
async def get_maintenance(request: Request) -> Response:
    return await _maintenance(backend_of(request))


@router.post("/maintenance", summary="Admit nothing new; what was accepted goes on")
async def begin_maintenance(request: Request, body: Reason | None = None) -> Response:
    backend = backend_of(request)
    await backend.read(Maintain(True, StepContent(message=body.reason if body else "")), LevelView)
    return await _maintenance(backend)


@router.delete("/maintenance", summary="Admit new runs again")
async def end_maintenance(request: Request) -> Response:
    backend = backend_of(request)
    await backend.read(Maintain(False), LevelView)
    return await _maintenance(backend)


async def _maintenance(backend: Backend) -> Response:
    by: str = await backend.read(GetMaintenance(), str)
    body: dict[str, object] = {"on": bool(by), "by": by or None}
    if sees_totals():
        said = await backend.standing()
        body["live_runs"] = said.get("live_runs", 0)
        body["queued_steps"] = sum(said.get("queued", {}).values())
    return answer(body)


def _now_us() -> int:
    return time.time_ns() // 1000
