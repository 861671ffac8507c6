"""The configuration over HTTP: the plan in force, and putting another one in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response

from hive_ray.config import Settings, of_content
from hive_ray.control.applying import needs_restart, undone
from hive_ray.control.budget_views import GetPlan, PlanView
from hive_ray.control.planning import apply_plan
from hive_ray.control.views import LevelView
from hive_ray.core.commands import ApplyPlan
from hive_ray.core.plan import ControlPlan, decode_plan
from hive_ray.errors import ConfigError
from serve import budget_shapes
from serve.backend import Backend
from serve.budget_bodies import NewConfiguration
from serve.problems import Problem
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1/config", tags=["configuration"])

SECTIONS = {
    "accounts": "budgets",
    "runs": "parallel_runs",
    "weights": "shares.weights",
    "priorities": "shares.priorities",
}
"""Parts of the plan under the names that ``hive.yaml`` has for them."""


@router.get("", summary="The plan in force, and what people changed since")
async def get_config(request: Request) -> Response:
    return answer(budget_shapes.plan(await _in_force(backend_of(request))))


@router.post("", summary="Put a configuration's plan in force")
async def apply(
    request: Request, body: NewConfiguration, dry_run: Annotated[bool, Query()] = False
) -> Response:
    """Looked at whole, every fault named; applied at once or not at all. ``needs_restart`` names keys that
    hold from the next start of the installation on. ``dry_run`` only says what would change."""
    backend = backend_of(request)
    settings, command = await asyncio.to_thread(_checked, body.config)
    before = await _in_force(backend)
    if not dry_run:
        await backend.read(command, LevelView)
    return answer(_told(before, decode_plan(command.plan), command.digest, settings, backend, dry_run))


async def _in_force(backend: Backend) -> PlanView:
    return await backend.read(GetPlan(), PlanView)


def _checked(content: Mapping[str, Any]) -> tuple[Settings, ApplyPlan]:
    """What the content says, and the command that puts it in force.

    Prices may come from a list, whose import takes seconds.

    Raises:
        Problem: every fault of it.
    """
    try:
        settings = of_content(content)
        return settings, apply_plan(settings, "")
    except ConfigError as error:
        raise Problem(422, "invalid", str(error), error.faults) from error


def _told(
    before: PlanView, plan: ControlPlan, digest: str, settings: Settings, backend: Backend, dry_run: bool
) -> dict[str, Any]:
    old = decode_plan(before.plan)
    ended = undone(old, plan, before.changes)
    return {
        "digest": digest,
        "digest_before": before.digest,
        "applied": not dry_run,
        "differences": list(_differences(_leaves(old), _leaves(plan))),
        "undone": [f"{SECTIONS.get(field, field)}.{name}" for field, name in ended],
        "needs_restart": needs_restart(backend.settings, settings),
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield {"key": key, "from": old.get(key), "to": new.get(key)}


def _leaves(plan: ControlPlan) -> dict[str, Any]:
    told: dict[str, Any] = budget_shapes.told_plan(plan)
    return dict(_flat("", {SECTIONS.get(name, name): part for name, part in told.items()}))


def _flat(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _flat(f"{place}.{key}" if place else key, inner)
    elif value != {}:
        yield place, value
