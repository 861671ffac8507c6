"""What callers can send, on one replica and a controller in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hive_ray.core.artifacts import Artifact
from hive_ray.core.messages import Outcome, StepContent, encode
from hive_ray.state.memory_store import forget_memory
from tests.control.shell_test import submit
from tests.core.graphs import chain, human, node
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

ONE = chain(node("a"), human("h", "approved"))


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    name = request.node.name.replace("[", "-").rstrip("]")
    face = Face(name, [ONE])
    async with face.http:
        yield face
    forget_memory(name)


HUGE = 10**30
HALF = "\ud800"
"""Half of a character: JSON can say it, UTF-8 cannot."""
KEY = "/v1/memory/team/default/k"
FORK = "/v1/runs/r/fork"
CORRECT = "/v1/runs/r/corrections"


def asks(version: str) -> dict[str, str]:
    return {"If-Match": f'"v{version}"'}


def correction(**fields: Any) -> dict[str, Any]:
    return {"json": {"correction_id": "c", "amount_usd": "1"} | fields}


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("PUT", KEY, {"json": {"value": 1}, "headers": asks("9" * 5000)}),
        ("PUT", KEY, {"json": {"value": 1}, "headers": asks(str(HUGE))}),
        ("PUT", KEY, {"json": {"value": HALF}}),
        ("DELETE", KEY, {"headers": asks(str(HUGE))}),
        ("POST", "/v1/runs:cancel", {"content": '{"older_than_s": 1e999}'}),
        ("POST", "/v1/runs:cancel", {"content": '{"older_than_s": 1e300}'}),
        ("POST", "/v1/runs:resume", {"json": {"ids": [HALF]}}),
        ("POST", "/v1/runs:resume", {"json": {"status": "failed", "cursor": HALF}}),
        ("POST", "/v1/runs:batch", {"json": {"runs": [{"agent": "a", "idempotency_key": HALF}]}}),
        ("POST", CORRECT, correction(attempt=f"{HUGE}.0.1")),
        ("POST", CORRECT, correction(reason=HALF)),
        ("POST", CORRECT, correction(correction_id=HALF)),
        ("POST", CORRECT, correction(amount_usd="NaN")),
        ("POST", FORK, {"json": {"from": "h", "visit": HUGE}, "headers": {"Idempotency-Key": "k"}}),
        ("POST", FORK, {"json": {"from": HALF}}),
        ("POST", FORK, {"json": {"from": "a", "input": {HALF: 1}}}),
        ("POST", FORK, {"json": {"from": "a", "input": {"a": HALF}}}),
        ("GET", "/v1/runs/r/artifacts/%ED%A0%80", {}),
    ],
)
async def test_nothing_that_a_caller_sends_is_a_fault_of_ours(
    face: Face, method: str, path: str, given: dict[str, Any]
):
    """Numbers that no machine holds, halves of characters: refused by name, or taken."""
    given = dict(given)
    face.driver.command(submit("r", graph=ONE.version))
    body = given.pop("content", None)
    if "json" in given:
        body = json.dumps(given.pop("json"))
    if body is not None:
        given = {"content": body, "headers": {"Content-Type": "application/json"} | given.get("headers", {})}

    answer = await face.http.request(method, path, **given)

    assert answer.status_code < 500, answer.text


async def test_a_request_that_cannot_be_sent_keeps_no_other(face: Face):
    """Both are of one moment, and would travel in one call."""
    face.driver.command(submit("r", graph=ONE.version))
    said = json.dumps({"correction_id": "c", "amount_usd": "1", "reason": HALF})

    bad, good = await asyncio.gather(
        face.http.post(CORRECT, content=said, headers={"Content-Type": "application/json"}),
        face.http.get("/v1/runs/r"),
    )

    assert (bad.status_code, good.status_code) == (422, 200)


@pytest.mark.parametrize("wanted", [f"bytes=0-{'9' * 5000}", "bytes=٣-", f"bytes=-{'9' * 5000}"])
async def test_a_range_that_means_nothing_is_answered_with_the_whole(face: Face, wanted: str):
    """RFC 9110 lets a server leave a range out of account."""
    face.driver.command(submit("r", graph=ONE.version))
    session = face.driver.attached().session
    (lease,) = face.driver.exchanged(session, 1).leases
    blob = face.backend.blobs.put("r", b"text")
    digest = hashlib.sha256(b"text").hexdigest()
    made = Artifact("t.txt", "text/plain", 4, digest, blob.name, "a")
    face.driver.exchange(session, 2, Outcome(*lease.key, "", encode(StepContent(artifacts=(made,)))))

    answer = await face.http.get("/v1/runs/r/artifacts/t.txt", headers=[(b"Range", wanted.encode())])

    assert (answer.status_code, answer.content) == (200, b"text")
