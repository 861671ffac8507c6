"""The state as a whole over HTTP: what it may hold, and raising that."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from hive_ray.control.views import LevelView
from hive_ray.core import features
from hive_ray.core.commands import RaiseLevel
from hive_ray.errors import Unavailable
from hive_ray.state.access import open_state
from hive_ray.state.lineage import read_lineage
from serve import shapes
from serve.backend import Backend
from serve.bodies import Level
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1/state", tags=["operation"])


@router.get("", summary="Whose state this is, and what it may hold")
async def get_state(request: Request) -> Response:
    backend = backend_of(request)
    said = await backend.standing()
    if not said["ready"]:
        raise Unavailable(f"the controller is not ready: {said['standing']}")
    return answer(await _told(backend, said["feature_level"]))


@router.post("/upgrade", summary="Raise the state's feature level")
async def upgrade(request: Request, body: Level) -> Response:
    """For good: releases that do not know the level refuse the state from then on."""
    backend = backend_of(request)
    raised = await backend.read(RaiseLevel(body.level), LevelView)
    return answer(await _told(backend, raised.feature_level))


async def _told(backend: Backend, level: int) -> dict[str, Any]:
    settings = backend.settings
    lineage = await asyncio.to_thread(lambda: read_lineage(open_state(settings)))
    identity = lineage.identity if lineage else None
    return {
        "url": settings.state.url,
        "environment": settings.environment,
        "lineage": identity.id if identity else None,
        "since": shapes.iso(identity.since_us) if identity else None,
        "feature_level": level,
        "latest_feature_level": features.LATEST,
        "gains": [
            {"level": gained, "gives": gives} for gained, gives in features.GAINS.items() if gained > level
        ],
    }
