"""What forks take over from their parents, on one replica and a controller in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hive_ray.state.memory_store import forget_memory
from tests.control.shell_test import done, submit
from tests.core.graphs import chain, graph, human, mail, mapping, node
from tests.core.story import content
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

BODY = chain(node("x"), id="body")
ONE = chain(node("a"), human("h", "approved"))
SEND = chain(mail("send"), id="send")
MANY = graph([mapping("m", "list", BODY)], subgraphs=(BODY,), id="many")
LARGE = {"text": "x" * 100_000}


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    face = Face(request.node.name, [ONE, MANY, BODY, SEND])
    async with face.http:
        yield face
    forget_memory(request.node.name)


async def test_a_child_run_is_forked_within_its_root_s_budget(face: Face):
    """It has none of its own: its fork, which nobody above pays for, must not have none either."""
    face.driver.command(submit("r", graph=MANY.version, content=content(list=[1]), budget_nanousd=5_000))

    answer = await face.http.post("/v1/runs/r_1-0/fork", json={"from": "x"})

    assert answer.status_code == 202, answer.text
    view = (await face.http.get(f"/v1/runs/{answer.json()['run_id']}")).json()
    assert view["budget_usd"] == "0.000005"


async def test_the_memory_of_a_fork_is_its_own(face: Face):
    """Large values too: its parent's may be forgotten."""
    face.driver.command(submit("r", graph=ONE.version))
    await face.http.put("/v1/memory/run/r/key", json={"value": LARGE})
    session = face.driver.attached().session
    (lease,) = face.driver.exchanged(session, 1).leases
    face.driver.exchange(session, 2, done(lease))

    fork = (await face.http.post("/v1/runs/r/fork", json={"from": "h"})).json()["run_id"]
    for name in face.backend.store.list("blobs/r/"):
        face.backend.store.delete(name)

    answer = await face.http.get(f"/v1/memory/run/{fork}/key")
    assert answer.status_code == 200, answer.text
    assert answer.json()["value"] == LARGE


async def test_who_resumes_many_runs_is_told_what_they_may_repeat(face: Face):
    """As with each of them alone."""
    face.driver.command(submit("r", graph=SEND.version))
    session = face.driver.attached().session
    (lease,) = face.driver.exchanged(session, 1).leases
    face.driver.exchange(session, 2, done(lease, "BAD_INPUT"))

    told = (await face.http.post("/v1/runs:resume", json={"ids": ["r"]})).json()

    (line,) = told["runs"]
    assert (line["resumes"], line["may_repeat"]) == ("r", ["send"])
