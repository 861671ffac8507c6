"""Two teams on one installation: neither sees nor touches what is the other's. No Ray, no sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2
import pytest

from hive_ray.control.actions import Clock
from hive_ray.control.api_secrets import digest, id_of, mint, pepper_of
from hive_ray.core.commands import CreateKey
from hive_ray.state.memory_store import forget_memory
from serve.identities import REMEMBERED_S
from tests.core.graphs import chain, human, node
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

ONE = chain(node("a"), human("h", "approved"))


class Teams:
    """An installation with an admin, and keys of the teams acme and other."""

    def __init__(self, face: Face) -> None:
        self.face = face
        face.backend.keyring.open(create=True)
        self._pepper = pepper_of(face.backend.keyring)
        self.root = self.key("root", "default", ("admin",))
        everything = ("submit", "read", "approve", "operate")
        self.acme = self.key("acme", "acme", everything, ("lead",))
        self.other = self.key("other", "other", everything, ("boss",))

    def key(self, name: str, team: str, scopes: Iterable[str], roles: Iterable[str] = ()) -> dict[str, str]:
        """Headers with a new key."""
        minted = mint()
        command = CreateKey(
            minted.id, name, team, tuple(scopes), digest(self._pepper, minted.secret), tuple(roles)
        )
        answer = self.face.driver.replies[self.face.driver.command(command)]
        assert answer.refused is None, answer.refused
        return {"Authorization": f"Bearer {minted.secret}"}

    async def call(
        self, by: dict[str, str] | None, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx2.Response:
        return await self.face.http.request(method, path, json=body, headers=(by or {}) | headers)

    async def run(self, by: dict[str, str], **headers: str) -> str:
        answer = await self.call(by, "POST", "/v1/runs", {"graph_version": ONE.version}, **headers)
        assert answer.status_code == 202, answer.text
        return answer.json()["run_id"]

    def work(self) -> None:
        """Do the first step of whatever waits, so that a person is asked."""
        from hive_ray.core.messages import Outcome, StepContent, encode

        session = self.face.driver.attached().session
        leases = self.face.driver.exchanged(session, 1).leases
        done = [Outcome(*lease.key, "", encode(StepContent())) for lease in leases]
        self.face.driver.exchange(session, 2, *done)


@pytest.fixture
async def teams(request: pytest.FixtureRequest) -> AsyncIterator[Teams]:
    name = request.node.name.replace("[", "-").replace("/", "-").rstrip("]")
    face = Face(name, [ONE])
    now_us = time.time_ns() // 1000
    face.driver.clock = Clock(now_us, 1_000_000)
    async with face.http:
        yield Teams(face)
    forget_memory(name)


RUN_ROUTES = [
    ("GET", "", None),
    ("GET", "/result", None),
    ("GET", "/events", None),
    ("GET", "/replay", None),
    ("GET", "/artifacts", None),
    ("GET", "/artifacts/art-1", None),
    ("POST", "/cancel", None),
    ("POST", "/pause", None),
    ("POST", "/resume", None),
    ("POST", "/forget", None),
    ("POST", "/signal", {"said": "hi"}),
    ("POST", "/complete", None),
    ("POST", "/fork", {"from": "a"}),
]


@pytest.mark.parametrize(("method", "tail", "body"), RUN_ROUTES)
async def test_a_run_of_another_team_does_not_exist(teams: Teams, method: str, tail: str, body: Any):
    """The answer is that about a run that nobody has, but for its id."""
    run = await teams.run(teams.other)
    nothing = run[:-3] + ("111" if run[-3:] != "111" else "222")

    answer = await teams.call(teams.acme, method, f"/v1/runs/{run}{tail}", body)
    absent = await teams.call(teams.acme, method, f"/v1/runs/{nothing}{tail}", body)

    assert answer.status_code == absent.status_code == 404, answer.text
    assert _told(answer).replace(run, "RUN") == _told(absent).replace(nothing, "RUN")
    mine = await teams.call(teams.other, "GET", f"/v1/runs/{run}")
    assert mine.json()["status"] == "queued", "and nothing happened to it"


def _told(answer: httpx2.Response) -> str:
    body = answer.json()
    del body["request_id"]
    return str(body)


async def test_events_as_they_happen_are_as_hidden_as_pages(teams: Teams):
    run = await teams.run(teams.other)

    answer = await teams.call(teams.acme, "GET", f"/v1/runs/{run}/events", Accept="text/event-stream")

    assert answer.status_code == 404


async def test_lists_hold_the_teams_own(teams: Teams):
    """Runs, approvals, agents; whatever filter is given."""
    mine, theirs = await teams.run(teams.acme), await teams.run(teams.other)
    teams.work()
    named = {"graph_version": ONE.version}
    for by, name in ((teams.acme, "mine"), (teams.other, "theirs")):
        assert (await teams.call(by, "PUT", f"/v1/agents/{name}", named)).status_code == 200

    runs = (await teams.call(teams.acme, "GET", "/v1/runs?children=true")).json()["runs"]
    asked = (await teams.call(teams.acme, "GET", "/v1/approvals")).json()["approvals"]
    hidden = (await teams.call(teams.acme, "GET", f"/v1/approvals?run_id={theirs}")).json()["approvals"]
    agents = (await teams.call(teams.acme, "GET", "/v1/agents")).json()["agents"]

    assert [run["run_id"] for run in runs] == [mine]
    assert [wait["run_id"] for wait in asked] == [mine]
    assert hidden == []
    assert [agent["name"] for agent in agents] == ["mine"]
    assert (await teams.call(teams.acme, "GET", "/v1/agents/theirs")).status_code == 404


async def test_nobody_answers_for_another_team(teams: Teams):
    """The approval does not exist for them; its owner's answer carries their name."""
    run = await teams.run(teams.other)
    teams.work()
    approve = {"decision": "approve", "answer": {"approved": True}}

    refused = await teams.call(teams.acme, "POST", f"/v1/approvals/{run}.1", approve)
    assert refused.status_code == 404
    done = await teams.call(teams.other, "POST", f"/v1/approvals/{run}.1", approve)
    assert done.status_code == 200, done.text

    assert done.json()["run"]["status"] == "succeeded"


async def test_many_runs_are_steered_one_by_one(teams: Teams):
    """Ids of another team's runs among them are not found."""
    mine, theirs = await teams.run(teams.acme), await teams.run(teams.other)

    answer = (await teams.call(teams.acme, "POST", "/v1/runs:cancel", {"ids": [mine, theirs]})).json()
    every = (await teams.call(teams.acme, "POST", "/v1/runs:cancel", {"all": True})).json()

    assert [run["run_id"] for run in answer["runs"]] == [mine]
    assert [(p["run_id"], p["status"]) for p in answer["problems"]] == [(theirs, 404)]
    assert every["selected"] == 0
    assert (await teams.call(teams.other, "GET", f"/v1/runs/{theirs}")).json()["status"] == "queued"


async def test_long_term_memory_is_the_teams_own(teams: Teams):
    """Of the team, and of agents that have the same name in both."""
    for by, team, value in ((teams.acme, "acme", 1), (teams.other, "other", 2)):
        for place in (f"team/{team}", "agent/bot"):
            put = await teams.call(by, "PUT", f"/v1/memory/{place}/k", {"value": value})
            assert put.status_code == 200, put.text

    mine = await teams.call(teams.acme, "GET", "/v1/memory/agent/bot/k")
    theirs = await teams.call(teams.acme, "GET", "/v1/memory/team/other/k")
    wrote = await teams.call(teams.acme, "PUT", "/v1/memory/team/other/k", {"value": 3})
    run = await teams.run(teams.other)
    in_run = await teams.call(teams.acme, "GET", f"/v1/memory/run/{run}")
    crossed = await teams.call(teams.acme, "GET", "/v1/memory/agent/other%2Fbot/k")

    assert mine.json()["value"] == 1
    assert (theirs.status_code, wrote.status_code, in_run.status_code) == (404, 404, 404)
    assert crossed.status_code == 404
    assert (await teams.call(teams.other, "GET", "/v1/memory/team/other/k")).json()["value"] == 2


async def test_an_idempotency_key_is_the_teams_own(teams: Teams):
    """Two teams that chose the same key have a run each."""
    mine = await teams.run(teams.acme, **{"Idempotency-Key": "k"})
    theirs = await teams.run(teams.other, **{"Idempotency-Key": "k"})

    assert mine != theirs
    assert await teams.run(teams.acme, **{"Idempotency-Key": "k"}) == mine


async def test_a_team_in_the_body_is_refused(teams: Teams):
    """It follows from the key alone."""
    body = {"graph_version": ONE.version, "team": "other"}

    answer = await teams.call(teams.acme, "POST", "/v1/runs", body)

    assert answer.status_code == 422
    assert "body.team" in answer.text


async def test_an_admin_sees_and_steers_every_team(teams: Teams):
    """By id as it is; lists and new runs for the team that it names."""
    run = await teams.run(teams.other)

    assert (await teams.call(teams.root, "GET", f"/v1/runs/{run}")).status_code == 200
    assert (await teams.call(teams.root, "GET", "/v1/runs")).json()["runs"] == []
    listed = await teams.call(teams.root, "GET", "/v1/runs", **{"Hive-Team": "*"})
    assert [line["team"] for line in listed.json()["runs"]] == ["other"]
    begun = await teams.run(teams.root, **{"Hive-Team": "acme"})
    assert (await teams.call(teams.acme, "GET", f"/v1/runs/{begun}")).json()["team"] == "acme"
    refused = await teams.call(teams.acme, "GET", "/v1/runs", **{"Hive-Team": "other"})
    assert (refused.status_code, refused.json()["kind"]) == (403, "forbidden")


async def test_what_is_missing_is_named(teams: Teams):
    """401 without a key or with a wrong one, 403 with the scope; both as problem+json."""
    reader = teams.key("reader", "acme", ("read",))
    wrong = {"Authorization": f"Bearer {mint().secret}"}
    cases = [
        (None, "GET", "/v1/runs", 401, "needs an API key"),
        (wrong, "GET", "/v1/runs", 401, "unknown here"),
        ({"Authorization": "Bearer nonsense"}, "GET", "/v1/runs", 401, "no API key"),
        ({"Authorization": "Basic YTpi"}, "GET", "/v1/runs", 401, "Basic is not known"),
        (reader, "POST", "/v1/runs", 403, "needs scope submit; key:reader has read"),
        (reader, "POST", "/v1/runs/r/cancel", 403, "needs scope operate"),
        (reader, "GET", "/v1/keys", 403, "needs scope admin"),
        (reader, "POST", "/v1/state/upgrade", 403, "needs scope admin"),
    ]
    for by, method, path, status, said in cases:
        answer = await teams.call(by, method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert said in answer.json()["detail"]
        assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_a_body_is_not_read_before_the_caller_is_known(teams: Teams):
    """Nonsense from nobody is 401, not 422."""
    answer = await teams.face.http.post(
        "/v1/runs", content=b"{", headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 401


async def test_a_secret_is_shown_once_and_nowhere_else(teams: Teams):
    """Not in lists, nor to whoever looks at the key later; pages mask what looks like a key."""
    made = await teams.call(teams.root, "POST", "/v1/keys", {"scopes": ["read"], "team": "acme", "name": "n"})
    secret = made.json()["secret"]

    listed = await teams.call(teams.root, "GET", "/v1/keys")
    echoed = await teams.call(teams.root, "GET", f"/v1/runs/{secret}")

    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert secret not in listed.text
    assert secret not in echoed.text
    used = await teams.call({"Authorization": f"Bearer {secret}"}, "GET", "/v1/whoami")
    assert used.json() == {"principal": "key:n", "team": "acme", "scopes": ["read"], "roles": []}


async def test_a_rolled_key_goes_on_under_its_id(teams: Teams):
    """With both secrets for the grace time; revoked, with none."""
    made = await teams.call(teams.root, "POST", "/v1/keys", {"scopes": ["read"], "team": "acme"})
    key_id, old = made.json()["key_id"], made.json()["secret"]

    rolled = await teams.call(teams.root, "POST", f"/v1/keys/{key_id}/roll", {"grace_s": 3600})
    new = rolled.json()["secret"]
    assert rolled.json()["old_secret_until"] is not None
    for secret in (old, new):
        used = await teams.call({"Authorization": f"Bearer {secret}"}, "GET", "/v1/whoami")
        assert used.json()["principal"] == f"key:{key_id}"

    revoked = await teams.call(teams.root, "DELETE", f"/v1/keys/{key_id}")
    assert revoked.json()["status"] == "revoked"
    assert revoked.json()["revoked_by"] == "key:root"
    for secret in (old, new):
        used = await teams.call({"Authorization": f"Bearer {secret}"}, "GET", "/v1/runs")
        assert used.status_code == 401, "the controller refuses at once, whatever the replica remembers"


async def test_a_replica_remembers_who_somebody_is_for_a_moment_only(teams: Teams):
    """What it answers by itself it answers for that long after a key was revoked."""
    assert REMEMBERED_S <= 5


async def test_totals_of_all_teams_are_for_admins(teams: Teams):
    """And for keys with the role metrics, so that a scraper needs no more than that."""
    scraper = teams.key("scraper", "ops", (), ("metrics",))

    mine = (await teams.call(teams.acme, "GET", "/metrics")).text
    theirs = (await teams.call(scraper, "GET", "/metrics")).text

    assert "hive_live_runs 0" not in mine
    assert "hive_ready 1" in mine
    assert "hive_live_runs" in theirs
    assert (await teams.call(None, "GET", "/metrics")).status_code == 401
    assert (await teams.call(None, "GET", "/healthz")).status_code == 200


async def test_a_key_shows_the_day_on_which_it_was_used_last(teams: Teams):
    """One event a day, whatever it asks for; one that was never used says so."""

    async def used() -> dict[str, Any]:
        keys = (await teams.call(teams.root, "GET", "/v1/keys")).json()["keys"]
        return {key["name"]: key["last_used_on"] for key in keys}

    clock = teams.face.driver.clock
    today = time.strftime("%Y-%m-%d", time.gmtime(clock.wall_us / 1e6))
    before = await used()
    seq = teams.face.driver.engine.seq
    for _ in range(3):
        assert (await teams.call(teams.acme, "GET", "/v1/runs")).status_code == 200
    key_id = id_of(teams.other["Authorization"].removeprefix("Bearer ")) or ""
    wrong = {"Authorization": f"Bearer {mint(key_id).secret}"}
    assert (await teams.call(wrong, "GET", "/v1/runs")).status_code == 401

    assert before == {"root": today, "acme": None, "other": None}
    assert await used() == {"root": today, "acme": today, "other": None}
    assert teams.face.driver.engine.seq == seq + 1
