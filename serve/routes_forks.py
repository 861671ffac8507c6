"""Runs that go on from another's state, over HTTP."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from fastapi import APIRouter, Request, Response

from hive_ray.control.queries import GetState
from hive_ray.control.replaying import Shown, replay_run
from hive_ray.core.commands import Resume
from hive_ray.core.run import decode_run
from serve import callbacks, forks, shapes
from serve.backend import Backend
from serve.bodies import ForkRequest, Resumption
from serve.forks import Terms
from serve.problems import invalid
from serve.routes_runs import NANO, Key, Trace, answer, backend_of, begun, class_of

router = APIRouter(prefix="/v1/runs", tags=["runs"])


def nanousd(amount: Decimal | None) -> int | None:
    return None if amount is None else int(amount * NANO)


def _callback(backend: Backend, body: ForkRequest | Resumption) -> str | None:
    given = body.callback_url
    return None if given is None else callbacks.checked(given, backend.settings.hooks)


@router.post("/{run_id}/fork", status_code=202, summary="Begin a run with the state of another")
async def fork(
    request: Request, run_id: str, body: ForkRequest, idempotency_key: Key = "", traceparent: Trace = ""
) -> Response:
    """Cut before a node was entered; the parent does not notice. ``may_repeat`` names nodes whose work had
    started in the parent and is not declared idempotent: they begin again."""
    terms = Terms(
        request.state.request_id,
        idempotency_key,
        traceparent,
        body.agent,
        nanousd(body.budget_usd),
        body.deadline_s,
        priority=class_of(body.priority),
        callback=_callback(backend_of(request), body),
    )
    return begun(await forks.fork(backend_of(request), run_id, body, terms))


@router.post("/{run_id}/resume", summary="Go on after a pause, or after a failure")
async def resume(request: Request, run_id: str, body: Resumption | None = None) -> Response:
    """A paused run goes on. In the place of one that failed or was cancelled a new run begins (202), from
    the last safe boundary; asking again gives the same one."""
    backend = backend_of(request)
    asked = body or Resumption()
    view = await backend.run(run_id)
    if view.status in shapes.TERMINAL:
        terms = Terms(
            request.state.request_id,
            traceparent=view.traceparent,
            budget_nanousd=nanousd(asked.budget_usd),
            deadline_s=asked.deadline_s,
            callback=_callback(backend, asked),
        )
        resumed = await forks.resume(backend, view, terms)
        headers = {"Location": f"/v1/runs/{resumed.run_id}"}
        return answer(shapes.run(resumed), 202, headers)
    for name, given in asked:
        if given is not None:
            remedy = "leave it out: a run that has not ended keeps its budget and deadline"
            raise invalid(f"body.{name}", "is for runs that have ended", remedy)
    return answer(shapes.run(await backend.view(Resume(run_id))))


@router.get("/{run_id}/replay", summary="Derive a run from its journal again, and compare")
async def replay(request: Request, run_id: str) -> Response:
    """Compared with what the controller shows and with the newest snapshot; changes nothing."""
    backend = backend_of(request)
    state: bytes = await backend.read(GetState(run_id), bytes)
    shown = [Shown("controller", decode_run(state))]
    verdict = await asyncio.to_thread(replay_run, backend.store, backend.codec, backend.blobs, run_id, shown)
    return answer(shapes.verdict(verdict))
