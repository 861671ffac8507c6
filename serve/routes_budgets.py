"""Budgets over HTTP: what accounts may spend, what they have spent, and the switch that stops it."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from hive_ray.control.budget_views import AccountView, GetAccount, ListAccounts, Page
from hive_ray.control.views import LevelView
from hive_ray.core.commands import AllowSpending, ChangeBudget, StopSpending
from hive_ray.core.messages import StepContent
from hive_ray.core.plan import AccountPlan
from serve import budget_shapes
from serve.backend import Backend
from serve.bodies import Reason
from serve.budget_bodies import BudgetLimits
from serve.names import check_account
from serve.routes_runs import NANO, answer, backend_of

router = APIRouter(prefix="/v1/budgets", tags=["budgets"])


@router.get("", summary="Accounts that have a limit or were used")
async def list_budgets(
    request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 1000
) -> Response:
    """In order of their names; ``next_after`` of one page is ``after`` of the next, and null on the last."""
    query = ListAccounts(_now_us(), "", Page(after, limit))
    views: list[AccountView] = await backend_of(request).read(query, list[AccountView])
    following = views[-1].name if len(views) == limit else None
    return answer({"budgets": [budget_shapes.account(view) for view in views], "next_after": following})


@router.get("/{scope:path}", summary="One account: limit, spent, reserved, window")
async def get_budget(request: Request, scope: str) -> Response:
    """``team/NAME``, ``agent/TEAM/NAME``, ``workflow/TEAM/GRAPH``, ``pool/NAME``, ``model/NAME`` or
    ``tool/NAME``."""
    return await shown(backend_of(request), check_account(backend_of(request), scope))


@router.put("/{scope:path}", summary="Change an account's limits")
async def put_budget(request: Request, scope: str, body: BudgetLimits) -> Response:
    """They hold at once, until they are changed again or the configuration says otherwise."""
    backend = backend_of(request)
    name = check_account(backend, scope)
    plan = AccountPlan(
        -1 if body.usd is None else int(body.usd * NANO),
        -1 if body.tokens is None else body.tokens,
        body.at_limit,
        body.warn_percent,
        body.owner,
    )
    await backend.read(ChangeBudget(name, plan, StepContent(message=body.reason)), LevelView)
    return await shown(backend, name)


@router.delete("/{scope:path}", summary="Go back to the configuration's limits")
async def delete_budget(request: Request, scope: str) -> Response:
    backend = backend_of(request)
    name = check_account(backend, scope)
    await backend.read(ChangeBudget(name, None), LevelView)
    return await shown(backend, name)


@router.post("/{scope:path}/stop", summary="Start no further step that this account pays for")
async def stop(request: Request, scope: str, body: Reason | None = None) -> Response:
    """What is under way ends; steps that are ready wait, whatever is left of the budget."""
    backend = backend_of(request)
    name = check_account(backend, scope)
    content = StepContent(message=body.reason if body else "")
    await backend.read(StopSpending(name, content), LevelView)
    return await shown(backend, name)


@router.post("/{scope:path}/allow", summary="Let it go on")
async def allow(request: Request, scope: str) -> Response:
    backend = backend_of(request)
    name = check_account(backend, scope)
    await backend.read(AllowSpending(name), LevelView)
    return await shown(backend, name)


async def shown(backend: Backend, name: str) -> Response:
    """An account as it stands."""
    view = await backend.read(GetAccount(name, _now_us()), AccountView)
    return answer(budget_shapes.account(view))


def _now_us() -> int:
    return time.time_ns() // 1000
