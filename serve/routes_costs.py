"""The ledger over HTTP: corrections of what runs were charged."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from hive_ray.core.commands import CorrectCost
from serve import shapes
from serve.bodies import Correction
from serve.routes_runs import NANO, answer, backend_of

router = APIRouter(prefix="/v1/runs", tags=["costs"])


@router.post("/{run_id}/corrections", summary="Correct what a run was charged")
async def correct(request: Request, run_id: str, body: Correction) -> Response:
    """Of a run that has ended too. The same again changes nothing, another one under its id is 409."""
    backend = backend_of(request)
    graph = await backend.acceptance.known((await backend.run(run_id)).graph_version)
    content = await backend.content(run_id, graph, {}, body.reason)
    serial, call, attempt = (int(part) for part in (body.attempt or "0.0.0").split("."))
    nanousd = int(body.amount_usd * NANO)
    command = CorrectCost(run_id, body.correction_id, nanousd, content, serial, call, attempt)
    return answer(shapes.run(await backend.view(command)))
