"""The guard before each route: nobody's body is read before it is known who they are."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from hive_ray.core.principals import Scope
from serve.access import ROUTES, needs
from serve.backend import Backend


class Guarded(APIRoute):
    """A route that is entered with the scope that the table says."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()
        path = self.path

        async def guarded(request: Request) -> Response:
            backend: Backend = request.app.state.backend
            await backend.identities.admit(request, needs(request.method, path))
            return await inner(request)

        return guarded


def guard(router: APIRouter) -> APIRouter:
    """The same router, every route of it guarded, whatever class it was made with."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            route.__class__ = Guarded
    return router


def describe(app: FastAPI) -> None:
    """Let the OpenAPI document say which credential and which scope each route needs."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _tell_scopes(plain())
        return plain()

    # FastAPI's own way of extending the document.
    app.openapi = openapi  # type: ignore[method-assign]


def _tell_scopes(document: dict[str, Any]) -> None:
    bearer = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (hrk_…), or a token of a person.",
    }
    document.setdefault("components", {})["securitySchemes"] = {"bearer": bearer}
    table = {
        (method.lower(), path.replace(":path}", "}")): needed for (method, path), needed in ROUTES.items()
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            needed = table.get((method, path), (Scope.ADMIN,))
            operation["security"] = [] if needed == "open" else [{"bearer": []}]
            operation["x-scopes"] = [] if isinstance(needed, str) else [scope.value for scope in needed]
