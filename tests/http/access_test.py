"""The table of routes and scopes, held against the application."""

from __future__ import annotations

from typing import get_args

import httpx2
import pytest
from fastapi import APIRouter

from hive_ray.core.principals import Scope
from hive_ray.state.memory_store import forget_memory
from serve import access
from serve.access import ROUTES
from serve.api import build
from serve.guard import Guarded, guard
from tests.http.in_process import Face

OPEN = {("GET", "/healthz"), ("GET", "/readyz")}


def routes() -> set[tuple[str, str]]:
    """Every route of the application but the description of itself."""
    found: set[tuple[str, str]] = set()
    for path, methods in build().openapi()["paths"].items():
        found |= {(method.upper(), path) for method in methods}
    return found


def test_every_route_stands_in_the_table_and_nothing_else_does():
    """One that is forgotten needs admin; none is forgotten."""
    table = {(method, path.replace(":path}", "}")) for method, path in ROUTES}

    assert routes() == table


def test_the_openapi_document_says_what_each_route_needs():
    document = build().openapi()

    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    cancel = document["paths"]["/v1/runs/{run_id}/cancel"]["post"]
    assert (cancel["security"], cancel["x-scopes"]) == ([{"bearer": []}], ["operate"])
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert document["paths"]["/v1/memory/{scope}/{owner}/{key}"]["put"]["x-scopes"] == ["operate"]


def test_only_liveness_and_readiness_are_open():
    assert {route for route, needed in ROUTES.items() if needed == "open"} == OPEN


def test_what_is_not_in_the_table_needs_admin():
    assert access.needs("POST", "/v1/forgotten") == (Scope.ADMIN,)
    words = set(get_args(get_args(access.Needs)[1]))
    assert all(isinstance(needed, tuple) or needed in words for needed in ROUTES.values())


def test_a_route_is_guarded_however_it_was_made():
    """By its router's own class, which knows nothing of scopes."""
    router = APIRouter()

    @router.get("/v1/forgotten")
    async def forgotten() -> None: ...

    assert {type(route) for route in guard(router).routes} == {Guarded}


@pytest.mark.anyio
async def test_the_description_of_the_application_is_nobodys_secret():
    transport = httpx2.ASGITransport(app=build(Face("described", []).backend))
    async with httpx2.AsyncClient(transport=transport, base_url="http://face") as http:
        assert (await http.get("/openapi.json")).status_code == 200
    forget_memory("described")
