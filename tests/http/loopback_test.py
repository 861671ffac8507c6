"""Without keys whoever reaches the port may do everything: so only this machine may reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hive_ray.config import is_loopback
from hive_ray.state.memory_store import forget_memory
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    face = Face("loopback", [])
    async with face.http:
        yield face
    forget_memory("loopback")


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "localhost", "[::1]:8700", "127.8.8.8", "a.localhost"])
async def test_names_of_this_machine_may_ask(face: Face, host: str):
    answer = await face.http.get("/v1/runs", headers={"Host": host})

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "192.0.2.1:8700", "0.0.0.0", "localhost.evil.example", "[::1", ""]
)
async def test_a_name_that_leads_to_loopback_may_not(face: Face, host: str):
    """A page of somebody else calls its own name, which it has made to mean this machine."""
    answer = await face.http.get("/v1/runs", headers={"Host": host})

    assert answer.status_code == 401
    assert "need an API key" in answer.json()["detail"]


async def test_a_page_of_somebody_else_may_not_post(face: Face):
    """Browsers send a post without a body anywhere, and say from where."""
    path = "/v1/runs/r/cancel"
    answers = {
        origin: (await face.http.post(path, headers={"Origin": origin} if origin else {})).status_code
        for origin in ("", "http://127.0.0.1:8700", "http://evil.example", "null")
    }

    assert answers == {"": 404, "http://127.0.0.1:8700": 404, "http://evil.example": 401, "null": 401}


def test_what_is_loopback():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "hive.example", "127.0.0.1.example")))
