"""The HTTP application: routes, errors, and what holds for every request. Knows nothing of Ray."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request

from hive_ray.observe.logging import bound
from serve import (
    problems,
    routes_agents,
    routes_artifacts,
    routes_audit,
    routes_breakers,
    routes_budgets,
    routes_bulk,
    routes_config,
    routes_costs,
    routes_estimate,
    routes_forks,
    routes_health,
    routes_keys,
    routes_ladders,
    routes_limits,
    routes_memory,
    routes_outbox,
    routes_people,
    routes_policies,
    routes_runs,
    routes_state,
)
from serve.backend import Backend
from serve.guard import describe, guard
from serve.problems import Problem

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

GRAPH_BYTES = 4 << 20
"""What a body may hold besides the run's input."""
_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,128}$")


def build(backend: Backend | None = None, *, behind_proxy: bool = False) -> FastAPI:
    """The application; a backend may be set later as ``app.state.backend``.

    Args:
        behind_proxy: whoever is in front puts ``X-Request-ID`` on answers.
    """
    app = FastAPI(
        title="hive_ray",
        version="1",
        summary="Durable agent graphs on Ray",
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.backend = backend
    for routes in (
        routes_runs,
        routes_forks,
        routes_breakers,
        routes_ladders,
        routes_bulk,
        routes_costs,
        routes_artifacts,
        routes_memory,
        routes_people,
        routes_outbox,
        routes_keys,
        routes_budgets,
        routes_limits,
        routes_config,
        routes_audit,
        routes_estimate,
        routes_agents,
        routes_policies,
        routes_state,
        routes_health,
    ):
        app.include_router(guard(routes.router))
    problems.install(app)
    describe(app)
    app.add_middleware(Door, names_answers=not behind_proxy)
    return app


class Door:
    """Names each request, bounds its body, counts its answer."""

    def __init__(self, app: App, names_answers: bool) -> None:
        self._app = app
        self._names_answers = names_answers

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        backend: Backend = scope["app"].state.backend
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = request_id
        limit = backend.settings.limits.max_input_bytes * 2 + GRAPH_BYTES

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self._names_answers:
                    name = (b"x-request-id", request_id.encode())
                    message["headers"] = [*message.get("headers", ()), name]
                key = (scope["method"], message["status"])
                backend.requests[key] = backend.requests.get(key, 0) + 1
            await send(message)

        with bound(request_id=request_id):
            if int(headers.get(b"content-length", b"0")) > limit:
                too_large = problems.respond(Request(scope), _too_large(limit))
                await too_large(scope, receive, named)
            else:
                await self._app(scope, _bounded(receive, limit), named)


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.match(text) else str(uuid.uuid4())


def _too_large(limit: int) -> Problem:
    remedy = "send a reference to the data instead, or raise limits.max_input_bytes"
    return problems.invalid("body", f"is larger than {limit} bytes", remedy, 413)


def _bounded(receive: Receive, limit: int) -> Receive:
    """A body sent without its length is counted as it comes."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return bounded
