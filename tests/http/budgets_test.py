"""Budgets, limits, maintenance and configuration over HTTP, with a controller in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hive_ray.control.actions import Clock
from hive_ray.core.messages import Lease, Outcome, StepContent, encode
from hive_ray.state.memory_store import forget_memory
from tests.core.graphs import chain, node
from tests.http.in_process import Face

pytestmark = pytest.mark.anyio

COST = 1_500_000_000
PAID = chain(node("paid", cost_nanousd=COST))
TEAM = "/v1/budgets/team/default"


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    name = request.node.name.replace("[", "-").rstrip("]")
    face = Face(name, [PAID])
    face.driver.clock = Clock(time.time_ns() // 1000, face.driver.clock.mono_us)
    async with face.http:
        yield face
    forget_memory(name)


async def submitted(face: Face, **fields: Any) -> dict[str, Any]:
    answer = await face.http.post("/v1/runs", json={"graph_version": PAID.version} | fields)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def told(face: Face, method: str, path: str, **body: Any) -> dict[str, Any]:
    """A request that succeeds; its body."""
    answer = await face.http.request(method, path, json=body or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


class Hand:
    """A worker that is moved by hand."""

    def __init__(self, face: Face) -> None:
        self._driver = face.driver
        self._session = face.driver.attached("w").session
        self._n = self._call = 0

    def leases(self, *outcomes: Outcome) -> tuple[Lease, ...]:
        """What is given out now; empty if the exchange waits."""
        self._n += 1
        self._call = self._driver.exchange(self._session, self._n, *outcomes)
        return self.given()

    def given(self) -> tuple[Lease, ...]:
        """What the last exchange was answered by now."""
        replies = self._driver.replies
        return replies[self._call].leases if self._call in replies else ()

    def ended(self, lease: Lease, nanousd: int) -> tuple[Lease, ...]:
        return self.leases(Outcome(*lease.key, "", encode(StepContent()), cost_nanousd=nanousd))


async def test_a_budget_shows_what_was_spent_and_is_reserved_in_its_window(face: Face):
    """As decimal text, exact to the nano-dollar; free is what is left beside both."""
    hand = Hand(face)
    await told(face, "PUT", TEAM, usd="4.000000001", reason="a trial")
    for _ in range(2):
        await submitted(face)
    first, _ = hand.leases()
    hand.ended(first, 700_000_001)

    found = await told(face, "GET", TEAM)

    assert (found["limit_usd"], found["spent_usd"], found["reserved_usd"]) == (
        "4.000000001",
        "0.700000001",
        "1.5",
    )
    assert (found["free_usd"], found["limit_tokens"]) == ("1.8", None)
    assert (found["window"]["kind"], found["at_limit"], found["warned"]) == ("month", "stop", False)
    assert found["changed_by"] is not None
    listed = await told(face, "GET", "/v1/budgets")
    assert "agent/default/g" in [one["scope"] for one in listed["budgets"]]


async def test_a_changed_budget_goes_back_to_the_configuration(face: Face):
    """Nothing is left of the change."""
    await told(face, "PUT", TEAM, tokens=5, at_limit="pause_for_approval", owner="ann", warn_percent=50)
    changed = await told(face, "GET", TEAM)
    back = await told(face, "DELETE", TEAM)

    assert (changed["limit_tokens"], changed["at_limit"], changed["owner"]) == (
        5,
        "pause_for_approval",
        "ann",
    )
    assert (back["limit_tokens"], back["at_limit"], back["changed_by"]) == (None, None, None)


async def test_a_stop_holds_ready_steps_back_until_it_is_lifted(face: Face):
    """The pool says how many wait, and for what."""
    hand = Hand(face)
    begun = await submitted(face)
    stopped = await told(face, "POST", f"{TEAM}/stop", reason="a leak")
    while_stopped = hand.leases()
    run = await told(face, "GET", f"/v1/runs/{begun['run_id']}")
    (pool,) = [one for one in (await told(face, "GET", "/v1/pools"))["pools"] if one["pool"] == "function"]
    allowed = await told(face, "POST", f"{TEAM}/allow")

    assert (stopped["stopped_by"], while_stopped, allowed["stopped_by"]) == ("operator", (), None)
    assert pool["waiting"] == [{"for": "stopped/team/default", "steps": 1}]
    assert [step["waiting_for"] for step in run["steps"]] == ["stopped/team/default"]
    after = await told(face, "GET", f"/v1/runs/{begun['run_id']}")
    assert [step["waiting_for"] for step in after["steps"]] == [""]
    assert len(hand.given()) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/v1/budgets/town/x", None, 422, "no account is called 'town/x'"),
        ("GET", "/v1/budgets/agent/x", None, 422, "agent/TEAM/NAME"),
        ("PUT", TEAM, {}, 422, "give usd, tokens, or both"),
        ("PUT", TEAM, {"usd": "-1"}, 422, "greater than or equal to 0"),
        ("PUT", TEAM, {"usd": "0.0000000001"}, 422, "9 decimal places"),
        ("PUT", TEAM, {"usd": "1", "at_limit": "explode"}, 422, "'stop', 'pause_for_approval' or 'degrade'"),
        ("PUT", TEAM, {"usd": "1", "limit": 2}, 422, "body.limit"),
        ("PUT", "/v1/budgets/pool/functoin", {"usd": "1"}, 404, "did you mean 'function'?"),
        ("PUT", "/v1/budgets/model/none", {"usd": "1"}, 404, "models: none"),
        ("POST", "/v1/budgets/team/*/stop", {}, 422, "name one account"),
        ("PUT", "/v1/pools/nope", {"requests_per_minute": 1}, 404, "no pool nope"),
        ("PUT", "/v1/rates/team/x", {"requests_per_minute": 1}, 422, "has no rate"),
        ("PUT", "/v1/limits/pool/x", {"runs": 1}, 422, "has no runs"),
        ("PUT", "/v1/limits/team/x", {"runs": -1}, 422, "greater than or equal to 0"),
        ("POST", "/v1/runs", {"agent": "a", "priority": "urgent"}, 422, "'interactive', 'normal' or 'batch'"),
    ],
)
async def test_faults_are_named_and_change_nothing(
    face: Face, method: str, path: str, body: Any, status: int, said: str
):
    """With the place, and what would be right."""
    before = face.driver.engine.seq

    answer = await face.http.request(method, path, json=body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]
    assert face.driver.engine.seq == before


async def test_the_rates_of_a_pool_change_at_once_and_go_back(face: Face):
    """Its US dollars an hour are its budget."""
    changed = await told(face, "PUT", "/v1/pools/function", requests_per_minute=1, usd_per_hour="2.5")
    hand = Hand(face)
    for _ in range(2):
        await submitted(face)
    leases = hand.leases()
    waiting = await told(face, "GET", "/v1/pools/function")
    back = await told(face, "DELETE", "/v1/pools/function")

    assert (changed["requests_per_minute"], changed["usd_per_hour"]) == (1, "2.5")
    assert len(leases) == 1
    assert [one["steps"] for one in waiting["waiting"]] == [1]
    assert (waiting["busy_slots"], waiting["budget"]["reserved_usd"]) == (1, "1.5")
    assert (back["requests_per_minute"], back["usd_per_hour"], back["rates_changed_by"]) == (0, None, None)


async def test_rates_of_tools_and_models_have_addresses_of_their_own(face: Face):
    """A pattern is for all that are not named."""
    await told(face, "PUT", "/v1/rates/tool/*", requests_per_minute=7)
    found = await told(face, "GET", "/v1/rates/tool/send_mail")
    listed = await told(face, "GET", "/v1/rates")
    back = await told(face, "DELETE", "/v1/rates/tool/*")

    assert (found["requests_per_minute"], found["name"]) == (7, "tool/send_mail")
    assert [one["name"] for one in listed["rates"]] == ["tool/*"]
    assert back["requests_per_minute"] == 0


async def test_runs_beyond_a_limit_wait_at_the_entrance_by_priority(face: Face):
    """They are counted there, and begin when the limit is raised."""
    await told(face, "PUT", "/v1/limits/team/default", runs=1)
    first = await submitted(face)
    await submitted(face, priority="batch")
    last = await submitted(face, priority="interactive")
    limit = (await told(face, "GET", "/v1/limits"))["limits"]
    waiting = await told(face, "GET", f"/v1/runs/{last['run_id']}")
    await told(face, "DELETE", "/v1/limits/team/default")
    begun = await told(face, "GET", f"/v1/runs/{last['run_id']}")

    (team,) = [one for one in limit if one["scope"] == "team/default"]
    assert (team["limit"], team["under_way"], team["waiting"]) == (1, 1, 2)
    assert team["waiting_by_priority"] == {"interactive": 1, "batch": 1}
    assert (waiting["status"], waiting["priority"]) == ("queued", "interactive")
    assert waiting["reason"] == "team/default has 1 runs under way"
    assert begun["steps"]
    assert first["status"] == "accepted"


async def test_maintenance_admits_nothing_new_and_lets_work_finish(face: Face):
    """503 with Retry-After; a repeat of what was accepted before is answered."""
    hand = Hand(face)
    key = {"Idempotency-Key": "k"}
    body = {"graph_version": PAID.version}
    first = await face.http.post("/v1/runs", json=body, headers=key)
    await told(face, "POST", "/v1/maintenance", reason="a new disk")

    refused = await face.http.post("/v1/runs", json=body)
    again = await face.http.post("/v1/runs", json=body, headers=key)
    (lease,) = hand.leases()
    hand.ended(lease, COST)
    ended = await told(face, "GET", f"/v1/runs/{first.json()['run_id']}")
    off = await told(face, "DELETE", "/v1/maintenance")

    assert (refused.status_code, refused.json()["kind"], refused.headers["Retry-After"]) == (
        503,
        "maintenance",
        "30",
    )
    assert again.json() == first.json()
    assert ended["status"] == "succeeded"
    assert (off["on"], (await submitted(face))["status"]) == (False, "accepted")


async def test_a_configuration_is_compared_and_applied_as_a_whole(face: Face):
    """What people changed stays, unless the new configuration says otherwise than the old one."""
    await told(face, "PUT", TEAM, usd="9")
    await told(face, "PUT", "/v1/rates/tool/x", requests_per_minute=3)
    config = {
        "budgets": {"team/default": {"usd": 5}},
        "shares": {"priorities": {"team/default": "batch"}},
        "limits": {"max_steps": 7},
    }

    dry = await told(face, "POST", "/v1/config?dry_run=true", config=config)
    before = await told(face, "GET", "/v1/config")
    done = await told(face, "POST", "/v1/config", config=config)
    after = await told(face, "GET", "/v1/config")
    again = await told(face, "POST", "/v1/config", config=config)

    assert (dry["applied"], dry["digest"]) == (False, done["digest"])
    assert {"key": "budgets.team/default.usd", "from": None, "to": "5"} in dry["differences"]
    assert {"key": "shares.priorities.team/default", "from": None, "to": "batch"} in dry["differences"]
    assert (dry["undone"], dry["needs_restart"]) == (["budgets.team/default"], ["limits.max_steps"])
    assert before["digest"] != after["digest"] == done["digest"]
    assert [one["name"] for one in after["changes"]] == ["tool/x"]
    assert (await told(face, "GET", TEAM))["limit_usd"] == "5"
    assert again["differences"] == []


async def test_a_faulty_configuration_names_every_fault_and_changes_nothing(face: Face):
    """All at once, by key."""
    before = face.driver.engine.seq
    config = {"budgets": {"town/x": {"usd": 1}, "team/a": {}}, "rate": {}, "limits": {"max_steps": 0}}

    answer = await face.http.post("/v1/config", json={"config": config})

    places = [fault["place"] for fault in answer.json()["faults"]]
    assert answer.status_code == 422
    assert {"budgets.town/x", "budgets.team/a", "rate", "limits.max_steps"} <= set(places)
    assert face.driver.engine.seq == before


async def test_a_plan_that_cannot_be_made_is_refused_by_key(face: Face):
    """What only shows when its parts are put together: here a ladder of a model that is not there."""
    config = {"ladders": {"gone": {"rungs": [{"max_tokens": 5}], "latency_p95_s": 1}}}

    answer = await face.http.post("/v1/config", json={"config": config})

    assert answer.status_code == 422
    (fault,) = answer.json()["faults"]
    assert (fault["place"], fault["problem"]) == ("ladders.gone", "no model has this name")


async def test_a_run_that_could_never_begin_is_refused_at_the_door(face: Face):
    """402 with the account's name; a raised limit lets it in, and nothing was written."""
    await told(face, "PUT", TEAM, usd="1.499999999")
    before = face.driver.engine.seq

    refused = await face.http.post("/v1/runs", json={"graph_version": PAID.version})
    own = await face.http.post("/v1/runs", json={"graph_version": PAID.version, "budget_usd": "1"})

    assert (refused.status_code, refused.json()["kind"]) == (402, "budget_exceeded")
    assert "the budget team/default has 1.499999999 USD in a window" in refused.json()["detail"]
    assert "the run's budget is 1.0 USD" in own.json()["detail"]
    assert face.driver.engine.seq == before
    await told(face, "PUT", TEAM, usd="1.5")
    await submitted(face)


async def test_an_estimate_says_what_it_costs_and_who_could_carry_it(face: Face):
    """Of the worst case and of what is expected; nothing runs, nothing is written."""
    await told(face, "PUT", TEAM, usd="4")
    before = face.driver.engine.seq

    found = await told(face, "POST", "/v1/estimate", graph_version=PAID.version, budget_usd="7")

    assert (found["worst_usd"], found["expected_usd"], found["unbounded"]) == ("6", "1.5", [])
    assert [(one["node"], one["visits"], one["worst_usd"]) for one in found["nodes"]] == [("paid", 1, "6")]
    carries = {one["scope"]: (one["carries_worst"], one["carries_expected"]) for one in found["accounts"]}
    assert carries == {"run": (True, True), "team/default": (False, True)}
    assert face.driver.engine.seq == before
