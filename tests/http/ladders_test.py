"""Degrade ladders over HTTP, with a controller in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hive_ray.cli import ladders
from hive_ray.core.messages import Outcome, StepContent, Usage, encode
from hive_ray.state.memory_store import forget_memory
from tests.core.graphs import chain, llm
from tests.http.budgets_test import Hand
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

GRAPH = chain(llm("a", pool="function"))
PRICED = {
    "provider": "openai-compatible",
    "model": "x",
    "base_url": "http://127.0.0.1:1/v1",
    "input_usd_per_mtok": 1,
    "output_usd_per_mtok": 1,
}
CONFIG = {
    "models": {"small": PRICED, "cheap": PRICED},
    "ladders": {
        "small": {
            "latency_p95_s": 1,
            "min_calls": 4,
            "window_s": 10,
            "rungs": [{"model": "cheap", "budget_percent": 80}, {"max_tokens": 5}],
        }
    },
}


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    face = Face(request.node.name, [GRAPH])
    async with face.http:
        answer = await face.http.post("/v1/config", json={"config": CONFIG})
        assert answer.status_code == 200, answer.text
        yield face
    forget_memory(request.node.name)


async def told(face: Face, path: str, status: int = 200) -> dict[str, Any]:
    answer = await face.http.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def call(face: Face, hand: Hand, took_s: float, failure: str = "") -> None:
    """A run whose only call takes so long and ends so; then a second passes, and ladders are looked at."""
    answer = await face.http.post("/v1/runs", json={"graph_version": GRAPH.version})
    assert answer.status_code == 202, answer.text
    (lease,) = hand.leases()
    usage = Usage(1, 1, latency_us=int(took_s * 1e6))
    hand.leases(Outcome(*lease.key, failure, encode(StepContent()), usage=usage))
    face.driver.pass_time(1_000_000)


async def test_a_model_that_never_moved_stands_at_the_top(face: Face):
    found = await told(face, "/v1/ladders/small")

    assert (found["level"], found["since"], found["reason"]) == (0, None, None)
    assert found["window"] == found["trials"] == {"calls": 0, "failures": 0, "p95_s": None}
    assert found["configured"]["rungs"][0] == {
        "model": "cheap", "max_tokens": None, "context_bytes": None, "budget_percent": 80,
    }  # fmt: skip
    assert (await told(face, "/v1/ladders"))["ladders"] == [found]


async def test_a_model_that_went_down_shows_why_and_what_its_calls_do_now(face: Face):
    """The calls that led down are no news of the level below."""
    hand = Hand(face)
    for _ in range(4):
        await call(face, hand, 2)
    down = await told(face, "/v1/ladders/small")
    await call(face, hand, 0.25)
    await call(face, hand, 0.5, "TIMEOUT")
    seen = await told(face, "/v1/ladders/small")
    face.driver.pass_time(11_000_000)
    later = await told(face, "/v1/ladders/small")

    assert (down["level"], down["reason"]) == (1, "p95 of 4 calls in 10 s is 2 s")
    assert down["since"] and down["window"]["calls"] == 0
    assert down["asked"] == {"model": "cheap", "max_tokens": None, "context_bytes": None}
    assert seen["window"] == {"calls": 2, "failures": 1, "p95_s": 0.5}
    assert later["window"]["calls"] == 0, "they have left the window"


async def test_a_ladder_is_one_line_on_a_terminal(face: Face):
    hand = Hand(face)
    top = ladders.line_of(await told(face, "/v1/ladders/small"))
    for took_s in (2, 2, 2, 2, 0.25):
        await call(face, hand, took_s)
    found = await told(face, "/v1/ladders/small")

    assert top == "small  rung 0 of 2 (0 calls, 0 failed)"
    assert ladders.line_of(found) == (
        f"small  rung 1 of 2 since {found['since']}: p95 of 4 calls in 10 s is 2 s; asked: model cheap"
        " (1 calls, 0 failed, p95 0.25 s; trials: 0 calls, 0 failed)"
    )


async def test_a_model_without_a_ladder_is_not_found(face: Face):
    problem = await told(face, "/v1/ladders/cheap", 404)

    assert problem["detail"] == "model cheap has no ladder; these do: small"
