"""The guard before each route: nobody's body is read before it is known who they are."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from serve.access import needs
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
