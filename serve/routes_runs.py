"""Runs over HTTP: submitted, looked at, steered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from hive_ray.control import queries
from hive_ray.control.queries import GetAgent, ListRuns, WatchRun
from hive_ray.control.views import AgentView, RunLine, RunView
from hive_ray.core.commands import Cancel, Complete, Forget, Pause, Signal, Submit
from hive_ray.core.plan import CLASSES
from hive_ray.core.run import RunStatus
from hive_ray.errors import Forgotten, Unavailable
from hive_ray.graph.compiled import CompiledGraph
from serve import callbacks, shapes
from serve.backend import Backend, answer_key, check_size, new_run_id
from serve.bodies import Completion, Message, Reason, Submission
from serve.caller import team
from serve.masking import encoded
from serve.problems import Problem, invalid
from serve.sealing import NO_DIGESTS, Digests

router = APIRouter(prefix="/v1/runs", tags=["runs"])

NANO = 1_000_000_000
WAIT_LIMIT_S = 60.0
T = TypeVar("T")
Key = Annotated[str, Header(max_length=255)]
Trace = Annotated[str, Header(max_length=255)]


def backend_of(request: Request) -> Backend:
    return request.app.state.backend


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON without a detour through pydantic, and without secrets."""
    return Response(encoded(body), status, headers, "application/json")


async def listed(
    request: Request, name: str, query: queries.Query, kind: type[list[T]], shape: Callable[[T], Any]
) -> Response:
    """All that a question finds, each in its shape, under a name."""
    found: list[T] = await backend_of(request).read(query, kind)
    return answer({name: [shape(one) for one in found]})


# --- submission --------------------------------------------------------------------------------------


@router.post("", status_code=202, summary="Begin a run")
async def submit(
    request: Request, body: Submission, idempotency_key: Key = "", traceparent: Trace = ""
) -> Response:
    """Accepted as soon as it is durable. Repeating an ``Idempotency-Key`` gives the same run."""
    if not idempotency_key and "idempotency-key" in request.headers:
        raise invalid("headers.Idempotency-Key", "is empty", "send a key of your own, or leave it out")
    backend = backend_of(request)
    command = await submission(backend, body, request.state.request_id, idempotency_key, traceparent)
    return begun(await backend.begun(command))


def begun(view: RunView) -> Response:
    """202 with where to look."""
    return answer(accepted(view), 202, {"Location": f"/v1/runs/{view.run_id}"})


async def submission(
    backend: Backend, body: Submission, request_id: str, idempotency_key: str, traceparent: str
) -> Submit:
    """The command of one submission, its graph accepted and its large values written."""
    check_size(body.input, backend.settings.limits.max_input_bytes, "body.input")
    graph = await graph_of(backend, body)
    run_id = new_run_id()
    key = await backend.sealing.run_key()
    digests = await _digests(backend, body, graph) if idempotency_key else NO_DIGESTS
    return Submit(
        run_id,
        request_id,
        team(),
        body.agent or graph.id,
        graph.version,
        await backend.content(run_id, graph, body.input, key=key),
        digests.digest,
        idempotency_key,
        -1 if body.budget_usd is None else int(body.budget_usd * NANO),
        _deadline_us(backend, body, graph),
        traceparent=traceparent,
        key=key,
        plain_digest=digests.plain,
        priority=class_of(body.priority),
        callback=callbacks.checked(body.callback_url, backend.settings.hooks),
    )


def class_of(priority: str | None) -> int:
    """A priority class as commands carry it; -1: as the plan has it."""
    return -1 if priority is None else CLASSES.index(priority)


async def graph_of(backend: Backend, body: Submission) -> CompiledGraph:
    if body.graph is not None:
        return await backend.acceptance.accept(body.graph)
    version = body.graph_version
    if version is None:
        version = (await backend.read(GetAgent(team(), body.agent or ""), AgentView)).graph_version
    return await backend.acceptance.current(version)


def _deadline_us(backend: Backend, body: Submission, graph: CompiledGraph) -> int:
    if body.deadline_s is None:
        return 0
    return time.time_ns() // 1000 + int(body.deadline_s * 1e6)


async def _digests(backend: Backend, body: Submission, graph: CompiledGraph) -> Digests:
    """An agent's name counts, not what it stands for: it may be given a new graph between two tries."""
    named = body.graph is None and body.graph_version is None
    version = "" if named else body.graph_version or graph.version
    told = [body.agent, version, body.input, body.budget_usd, body.deadline_s]
    # Only if it is given: keys that were used before there were priorities stay good.
    told += [body.priority] if body.priority is not None else []
    told += [{"callback_url": body.callback_url}] if body.callback_url else []
    return await backend.sealing.digests(told)


def accepted(view: RunView) -> dict[str, Any]:
    """The same for every repeat, however far the run is."""
    body: dict[str, Any] = {
        "run_id": view.run_id,
        "status": "accepted",
        "graph_version": view.graph_version,
        "submitted_at": shapes.iso(view.submitted_us),
        "links": shapes.links(view.run_id),
    }
    if view.origin is not None:
        body["forked_from"] = shapes.origin(view.origin)
    return body


# --- looking -----------------------------------------------------------------------------------------


@router.get("", summary="List runs, newest first")
async def list_runs(
    request: Request,
    status: str = "",
    agent: str = "",
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    children: bool = False,
    dead_lettered: bool = False,
) -> Response:
    """``next_before`` of one page is ``before`` of the next; it is null on the last.

    ``status`` may name several, with commas. ``dead_lettered`` shows those that nobody has resumed yet.
    """
    _check_statuses(status)
    query = ListRuns("", status, agent, before, limit, children, dead_lettered)
    lines: list[RunLine] = await backend_of(request).read(query, list[RunLine])
    following = lines[-1].run_id if len(lines) == limit else None
    return answer({"runs": [shapes.line(line) for line in lines], "next_before": following})


def _check_statuses(named: str) -> None:
    """Several may stand there, with commas."""
    known = [status.value for status in RunStatus]
    for name in named.split(",") if named else ():
        if name not in known:
            raise invalid("query.status", f"{name!r} is no status", f"use one of {', '.join(known)}")


@router.get("/{run_id}", summary="Show a run")
async def get_run(request: Request, run_id: str) -> Response:
    return answer(shapes.run(await backend_of(request).run(run_id)))


@router.get("/{run_id}/result", summary="The outputs of a run that ended")
async def get_result(
    request: Request, run_id: str, wait_s: Annotated[float, Query(ge=0, le=WAIT_LIMIT_S)] = 0.0
) -> Response:
    """200 when it ended, 202 with its status until then; ``wait_s`` waits for the end."""
    backend = backend_of(request)
    view = await backend.run(run_id)
    until = time.monotonic() + wait_s
    while view.status not in shapes.TERMINAL and (left_s := until - time.monotonic()) > 0:
        watched = asyncio.ensure_future(backend.view(WatchRun(run_id, view.seq, True)))
        done, _ = await asyncio.wait([watched], timeout=left_s)
        if not done:
            watched.cancel()
            view = await backend.run(run_id)
            break
        view = watched.result()
    return await _result(backend, view)


async def _result(backend: Backend, view: RunView) -> Response:
    if view.forgotten:
        raise Forgotten(f"run {view.run_id} was forgotten: its content is gone for good")
    body = {
        "run_id": view.run_id,
        "status": view.status,
        "reason": view.reason,
        "outputs": await backend.loaded(view.outputs),
        "cost_usd": shapes.usd(view.spent_nanousd),
        "failure": shapes.failure(view),
        "waits": [shapes.wait(wait) for wait in view.waits],
        "finished_at": shapes.iso(view.finished_us),
    }
    return answer(body, 200 if view.status in shapes.TERMINAL else 202)


# --- events ------------------------------------------------------------------------------------------


@router.get("/{run_id}/events", summary="What happened in a run")
async def get_events(
    request: Request,
    run_id: str,
    after_seq: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=5000)] = 500,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """A page of JSON, or with ``Accept: text/event-stream`` events as they happen, to the run's end.

    ``Last-Event-ID`` goes on behind that event.
    """
    backend = backend_of(request)
    view = await backend.run(run_id)
    if "text/event-stream" in accept:
        after = _event_id(last_event_id) or after_seq
        # Read before the answer begins: a fault is still a problem then, not a broken stream.
        first = await backend.history.events(view, after)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(backend, view, after, first), 200, headers, "text/event-stream")
    events = await backend.history.events(view, after_seq, limit)
    last = events[-1]["seq"] if events else after_seq
    return answer({"run_id": run_id, "events": events, "last_seq": last, "more": last < view.seq})


def _event_id(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise invalid("headers.Last-Event-ID", f"{text!r} is no event's id", "send a number")
    return int(text)


async def _stream(
    backend: Backend, view: RunView, after: int, events: list[dict[str, Any]]
) -> AsyncIterator[bytes]:
    """Events from the journal; the controller is asked only whether there are more."""
    while True:
        for event in events:
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                event["seq"],
                event["kind"].encode(),
                encoded(event),
            )
            after = event["seq"]
            if event["kind"] in shapes.ENDS:
                return
        if view.status in shapes.TERMINAL and (after >= view.seq or not events):
            return
        if not events:
            yield b": waiting\n\n"
        try:
            view = await backend.view(WatchRun(view.run_id, after))
        except (Unavailable, Problem):
            # The client comes back with the id of the last event that it got.
            return
        events = await backend.history.events(view, after)


# --- steering ----------------------------------------------------------------------------------------


@router.post("/{run_id}/cancel", summary="End a run")
async def cancel(request: Request, run_id: str, body: Reason | None = None) -> Response:
    view = await backend_of(request).view(Cancel(run_id, body.reason if body else ""))
    return answer(shapes.run(view))


@router.post("/{run_id}/forget", summary="Give up the content of a run that has ended, for good")
async def forget(request: Request, run_id: str) -> Response:
    """What it did, when, and what it cost stays; its keys are erased, those of its children too."""
    return answer(shapes.run(await backend_of(request).view(Forget(run_id))))


@router.post("/{run_id}/pause", summary="Start no further steps")
async def pause(request: Request, run_id: str, body: Reason | None = None) -> Response:
    view = await backend_of(request).view(Pause(run_id, body.reason if body else ""))
    return answer(shapes.run(view))


@router.post("/{run_id}/signal", summary="Say something to a run that waits for its client")
async def signal(request: Request, run_id: str, body: Message) -> Response:
    backend = backend_of(request)
    check_size({"said": body.said}, backend.settings.limits.max_input_bytes, "body.said")
    view = await backend.run(run_id)
    graph = await backend.acceptance.known(view.graph_version)
    key = answer_key(view, graph, "client", body.node)
    content = await backend.content(run_id, graph, {"said": body.said}, key=key)
    return answer(shapes.run(await backend.view(Signal(run_id, content, body.node))))


@router.post("/{run_id}/complete", summary="End the conversation of a run with its client")
async def complete(request: Request, run_id: str, body: Completion | None = None) -> Response:
    backend = backend_of(request)
    ending = body or Completion()
    check_size(ending.outputs, backend.settings.limits.max_input_bytes, "body.outputs")
    view = await backend.run(run_id)
    graph = await backend.acceptance.known(view.graph_version)
    content = await backend.content(run_id, graph, ending.outputs, key=view.content_key)
    return answer(shapes.run(await backend.view(Complete(run_id, content, ending.node))))
