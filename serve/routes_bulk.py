"""Many runs in one request: begun, cancelled, resumed. Each has its own answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from hive_ray.control.queries import ListRuns
from hive_ray.control.views import RunLine, RunView
from hive_ray.core.commands import Cancel, Resume, Submit
from hive_ray.errors import HiveError
from serve import forks, problems, shapes
from serve.backend import Backend
from serve.bodies import Batch, BatchItem, Selection
from serve.forks import Terms
from serve.problems import Problem, invalid
from serve.routes_runs import Trace, accepted, answer, backend_of, submission

router = APIRouter(prefix="/v1", tags=["runs"])

AT_ONCE = 50
"""Commands on their way to the controller: the next wave leaves when these are durable."""
LIVE = "queued,running,waiting"


# --- begun -------------------------------------------------------------------------------------------


@router.post("/runs:batch", summary="Begin up to 1000 runs")
async def batch(request: Request, body: Batch, traceparent: Trace = "") -> Response:
    """One answer for each submission, in order: ``status`` 202 and the run, or the problem with it.

    An ``idempotency_key`` may stand in each item.
    """
    prepared = [await _prepared(request, number, item, traceparent) for number, item in enumerate(body.runs)]
    answers = await asyncio.gather(*(_begun(request, command) for command in prepared))
    count = sum(told["status"] == 202 for told in answers)
    return answer({"runs": answers, "accepted": count, "refused": len(answers) - count})


async def _prepared(request: Request, number: int, item: Any, traceparent: str) -> Submit | Problem:
    """One after the other: the items of a batch mostly share a graph, which is compiled once."""
    try:
        body = BatchItem.model_validate(item)
        return await submission(
            backend_of(request), body, request.state.request_id, body.idempotency_key, traceparent
        )
    except ValidationError as error:
        return problems.of_validation(error.errors(), "body", "runs", str(number))
    except (Problem, HiveError) as error:
        return _problem(error)


async def _begun(request: Request, command: Submit | Problem) -> dict[str, Any]:
    if isinstance(command, Problem):
        return problems.body_of(request, command)
    try:
        view = await backend_of(request).begun(command)
    except (Problem, HiveError) as error:
        return problems.body_of(request, _problem(error))
    return {**accepted(view), "status": 202}


def _problem(error: Problem | HiveError) -> Problem:
    return error if isinstance(error, Problem) else problems.of_error(error)


# --- steered -----------------------------------------------------------------------------------------


class Selected(NamedTuple):
    ids: list[str]
    cursor: str | None


@router.post("/runs:cancel", summary="End many runs")
async def cancel(request: Request, body: Selection) -> Response:
    """Those that are live, unless ``status`` says otherwise; newest first, ``limit`` in one call."""
    backend = backend_of(request)
    selected = await _select(backend, body, body.status or LIVE)

    async def end(run_id: str) -> RunView:
        return await backend.view(Cancel(run_id, body.reason))

    return await _steered(request, selected, end)


@router.post("/runs:resume", summary="Resume many runs")
async def resume(request: Request, body: Selection) -> Response:
    """Paused ones go on; in the place of failed and cancelled ones new runs begin (``run_id`` is the new
    one's, ``may_repeat`` what it may do a second time). Those that were resumed before are left out."""
    if not (body.ids or body.status or body.dead_lettered):
        remedy = "say which: status failed, cancelled or waiting, or dead_lettered: true, or ids"
        raise invalid("body.status", "is missing", remedy)
    backend = backend_of(request)

    async def go_on(run_id: str) -> RunView:
        view = await backend.run(run_id)
        if view.status not in shapes.TERMINAL:
            return await backend.view(Resume(run_id))
        return await forks.resume(
            backend, view, Terms(request.state.request_id, traceparent=view.traceparent)
        )

    return await _steered(request, await _select(backend, body, body.status), go_on)


async def _select(backend: Backend, body: Selection, status: str) -> Selected:
    if body.ids:
        return Selected(body.ids, None)
    before_us = time.time_ns() // 1000 - int(body.older_than_s * 1e6) if body.older_than_s else 0
    query = ListRuns("", status, body.agent, body.cursor, body.limit, False, body.dead_lettered, before_us)
    lines: list[RunLine] = await backend.read(query, list[RunLine])
    cursor = lines[-1].run_id if len(lines) == body.limit else None
    return Selected([line.run_id for line in lines if not line.resumed_as], cursor)


async def _steered(
    request: Request, selected: Selected, steer: Callable[[str], Awaitable[RunView]]
) -> Response:
    done: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for start in range(0, len(selected.ids), AT_ONCE):
        wave = selected.ids[start : start + AT_ONCE]
        for run_id, view in zip(wave, await _wave(steer, wave), strict=True):
            if isinstance(view, Problem):
                refused.append({**problems.body_of(request, view), "run_id": run_id})
            else:
                done.append(_told(run_id, view))
    counts = {"selected": len(selected.ids), "done": len(done), "refused": len(refused)}
    return answer({**counts, "runs": done, "problems": refused, "next_cursor": selected.cursor})


async def _wave(steer: Callable[[str], Awaitable[RunView]], ids: Sequence[str]) -> list[RunView | Problem]:
    async def one(run_id: str) -> RunView | Problem:
        try:
            return await steer(run_id)
        except (Problem, HiveError) as error:
            return _problem(error)

    return await asyncio.gather(*(one(run_id) for run_id in ids))


def _told(run_id: str, view: RunView) -> dict[str, Any]:
    told: dict[str, Any] = {"run_id": view.run_id, "status": view.status}
    if view.run_id != run_id:
        told["resumes"] = run_id
        told["may_repeat"] = list(view.origin.repeats) if view.origin is not None else []
    return told
