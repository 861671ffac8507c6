"""Breakers over HTTP, with a controller in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hive_ray.state.memory_store import forget_memory
from tests.core.graphs import chain, node
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

CRM = "/v1/breakers/tool/crm"


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    name = request.node.name.replace("[", "-").rstrip("]")
    face = Face(name, [chain(node("a"))])
    async with face.http:
        yield face
    forget_memory(name)


async def told(face: Face, method: str, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await face.http.request(method, path, json=body or None)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_breaker_is_closed_until_somebody_or_something_opens_it(face: Face):
    found = await told(face, "GET", CRM)

    assert (found["state"], found["configured"], found["window"]["calls"]) == ("closed", None, 0)
    assert (await told(face, "GET", "/v1/breakers"))["breakers"] == []


async def test_forcing_it_says_who_did_and_is_listed_until_it_is_undone(face: Face):
    forced = await told(face, "PUT", CRM, force="open", reason="the CRM is being moved")
    assert (forced["state"], forced["reason"]) == ("open", "an operator decided so")
    assert forced["forced_by"] and forced["since"]
    assert [one["name"] for one in (await told(face, "GET", "/v1/breakers"))["breakers"]] == ["tool/crm"]

    freed = await told(face, "PUT", CRM, force="auto")

    assert (freed["state"], freed["forced_by"]) == ("closed", None)


@pytest.mark.parametrize(
    ("path", "force", "status"),
    [(CRM, "ajar", 422), ("/v1/breakers/team/a", "open", 422), ("/v1/breakers/model/none", "open", 404)],
)
async def test_what_cannot_be_forced_is_refused(face: Face, path: str, force: str, status: int):
    await told(face, "PUT", path, status, force=force)
