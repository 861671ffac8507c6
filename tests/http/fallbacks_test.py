"""A person in the place of a step, over HTTP, with a controller in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from hive_ray.core.messages import Outcome, StepContent, encode
from hive_ray.graph.compiled import FallbackKind, FallbackPlan, HumanPlan, RetryPlan
from hive_ray.graph.fallback_plans import AWAY
from hive_ray.state.memory_store import forget_memory
from tests.core.graphs import HOUR_US, chain, node
from tests.http.budgets_test import Hand
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
HUMAN = HumanPlan("the CRM is away", msgspec.json.encode(FORM), HOUR_US)
FALLBACK = FallbackPlan(FallbackKind.HUMAN, AWAY, human=HUMAN)
AT_CRM = chain(node("a", fallbacks=(FALLBACK,), retry=RetryPlan(max_retries=0)))


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    name = request.node.name.replace("[", "-").rstrip("]")
    face = Face(name, [AT_CRM])
    async with face.http:
        yield face
    forget_memory(name)


async def asked(face: Face) -> tuple[Hand, dict[str, Any]]:
    """A worker, and the open question of a run whose step has failed."""
    hand = Hand(face)
    answer = await face.http.post("/v1/runs", json={"graph_version": AT_CRM.version})
    assert answer.status_code == 202, answer.text
    (lease,) = hand.leases()
    content = encode(StepContent(message="refused"))
    hand.leases(Outcome(*lease.key, "TOOL_UNAVAILABLE", content, name=lease.name))
    found = (await face.http.get("/v1/approvals")).json()["approvals"]
    assert [(one["reason"], one["answers"]) for one in found] == [
        ("fallback", ["approve", "reject", "edit", "retry"])
    ]
    return hand, found[0]


async def decided(face: Face, wait: dict[str, Any], **body: Any) -> Any:
    return await face.http.post(f"/v1/approvals/{wait['approval_id']}", json=body)


async def test_the_outputs_must_fit_the_form(face: Face):
    _, wait = await asked(face)

    refused = await decided(face, wait, decision="approve")
    assert refused.status_code == 422 and "'a' is a required property" in refused.text
    answer = await decided(face, wait, decision="approve", answer={"a": 3})

    assert answer.status_code == 200 and answer.json()["run"]["status"] == "succeeded"


async def test_it_is_tried_again_without_any_outputs(face: Face):
    hand, wait = await asked(face)

    answer = await decided(face, wait, decision="retry", comment="it is back")

    assert answer.status_code == 200, answer.text
    assert [lease.call for lease in hand.leases()] == [1]
