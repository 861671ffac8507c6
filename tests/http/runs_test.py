"""Runs over HTTP, on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.http.installation import Installation, asking, chain, single
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)
CLIENTS = 100


def begun(http: httpx2.Client, graph: dict[str, Any], **given: Any) -> str:
    answer = http.post("/v1/runs", json={"graph": graph, "input": given})
    assert answer.status_code == 202, answer.text
    return answer.json()["run_id"]


def ended(http: httpx2.Client, run_id: str) -> dict[str, Any]:
    answer = http.get(f"/v1/runs/{run_id}/result", params={"wait_s": 30})
    assert answer.status_code == 200, answer.text
    return answer.json()


def waiting(http: httpx2.Client, run_id: str) -> dict[str, Any]:
    """The open question of a run."""
    found: list[dict[str, Any]] = []

    def asked() -> bool:
        found[:] = http.get("/v1/approvals", params={"run_id": run_id}).json()["approvals"]
        return bool(found)

    wait_until(asked, 20)
    return found[0]


def test_a_submitted_run_reaches_its_result(http: httpx2.Client):
    """202 with links at once; the result has the outputs of all nodes."""
    answer = http.post("/v1/runs", json={"graph": chain(), "input": {"name": "Ada"}, "budget_usd": "1.5"})
    run_id = answer.json()["run_id"]

    result = ended(http, run_id)

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/runs/{run_id}"
    assert result["status"] == "succeeded"
    assert result["outputs"] == {"greeting": "hello Ada", "shouted": "HELLO ADA"}
    assert http.get(f"/v1/runs/{run_id}").json()["budget_usd"] == "1.5"


def test_a_hundred_clients_with_one_key_begin_one_run(installation: Installation, http: httpx2.Client):
    """Each gets the same 202, byte for byte; another body under the key is refused."""
    body = {"graph": chain(), "input": {"name": "all"}}
    key = {"Idempotency-Key": uuid.uuid4().hex}

    def submit(_number: int) -> tuple[int, bytes]:
        answer = httpx2.post(f"{installation.url}/v1/runs", json=body, headers=key, timeout=60)
        return answer.status_code, answer.content

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = set(pool.map(submit, range(CLIENTS)))
    other = http.post("/v1/runs", json={**body, "input": {"name": "one"}}, headers=key)

    assert len(answers) == 1
    status, content = answers.pop()
    assert status == 202
    run_id = json.loads(content)["run_id"]
    assert ended(http, run_id)["outputs"]["shouted"] == "HELLO ALL"
    listed = [run["run_id"] for run in http.get("/v1/runs", params={"limit": 1000}).json()["runs"]]
    assert listed.count(run_id) == 1
    assert other.status_code == 422
    assert other.json()["kind"] == "mismatch"
    assert run_id in other.json()["detail"]


def test_one_key_begins_one_run_even_over_a_killed_controller(
    installation: Installation, http: httpx2.Client
):
    """The replica repeats a submission under the same run id until the next incarnation answers."""
    before = http.get("/v1/status").json()
    os.kill(before["controller_pid"], signal.SIGKILL)

    run_id = begun(http, chain(), name="again")

    assert ended(http, run_id)["status"] == "succeeded"
    assert http.get("/v1/status").json()["epoch"] > before["epoch"]


def streamed(http: httpx2.Client, run_id: str, last_id: str = "") -> Iterator[dict[str, Any]]:
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
    with http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        shown: dict[str, Any] = {}
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                shown = {"id": value}
            elif field == "data":
                yield {**shown, "data": json.loads(value)}


def test_a_stream_goes_on_behind_the_last_event_id(http: httpx2.Client, tmp_path: Path):
    """Nothing is lost or doubled by a reconnect in the middle of the run; the stream ends with the run."""
    file = tmp_path / "go"
    run_id = begun(http, single("until", ["file"], ["found"]), file=str(file))
    first = []
    for event in streamed(http, run_id):
        first.append(event)
        if event["data"]["kind"] == "StepStarted":
            break
    file.touch()

    rest = list(streamed(http, run_id, first[-1]["id"]))

    page = http.get(f"/v1/runs/{run_id}/events").json()
    assert [event["data"] for event in (*first, *rest)] == page["events"]
    assert page["events"][-1]["kind"] == "RunSucceeded"
    assert page["more"] is False
    assert {event["node"] for event in page["events"]} == {"", "until"}


def test_events_come_in_pages(http: httpx2.Client):
    """``after_seq`` goes on behind the page before."""
    run_id = begun(http, chain(), name="pages")
    ended(http, run_id)
    whole = http.get(f"/v1/runs/{run_id}/events").json()["events"]

    seen: list[dict[str, Any]] = []
    more = True
    while more:
        after = seen[-1]["seq"] if seen else 0
        page = http.get(f"/v1/runs/{run_id}/events", params={"after_seq": after, "limit": 3}).json()
        seen += page["events"]
        more = page["more"]

    assert seen == whole
    assert len(whole) > 6


def test_an_approval_is_answered_exactly_once(http: httpx2.Client):
    """An answer that does not fit is refused by place; the same answer again is fine, another one is 409."""
    run_id = begun(http, asking(), name="Ada")
    question = waiting(http, run_id)
    path = f"/v1/approvals/{question['approval_id']}"

    wrong = http.post(path, json={"decision": "approve", "answer": {"feedback": 7}})
    first = http.post(path, json={"decision": "approve", "answer": {"feedback": "kind"}})
    again = http.post(path, json={"decision": "approve", "answer": {"feedback": "kind"}})
    other = http.post(path, json={"decision": "reject"})

    assert question["need"] == "Is this polite?"
    assert question["shown"] == {"greeting": "hello Ada"}
    assert wrong.status_code == 422
    assert wrong.json()["faults"][0]["place"] == "body.answer.feedback"
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 409)
    outputs = ended(http, run_id)["outputs"]
    assert (outputs["approved"], outputs["feedback"]) == (True, "kind")


@pytest.mark.parametrize("decision", ["approve", "edit"])
def test_an_answer_that_contradicts_its_decision_is_refused(http: httpx2.Client, decision: str):
    """Who approves and says approved = false is asked again: nothing is decided."""
    run_id = begun(http, asking(), name="Cy")
    question = waiting(http, run_id)
    path = f"/v1/approvals/{question['approval_id']}"

    no = http.post(path, json={"decision": decision, "answer": {"approved": False}})
    maybe = http.post(path, json={"decision": decision, "answer": {"approved": "maybe"}})

    assert (no.status_code, maybe.status_code) == (422, 422)
    assert "body.answer.approved" in no.json()["detail"]
    assert waiting(http, run_id)["approval_id"] == question["approval_id"]
    http.post(f"/v1/runs/{run_id}/cancel")


def test_a_rejection_needs_no_form(http: httpx2.Client):
    """``approved`` is false, the comment stays optional."""
    run_id = begun(http, asking(), name="Bo")
    question = waiting(http, run_id)

    answer = http.post(f"/v1/approvals/{question['approval_id']}", json={"decision": "reject"})

    assert answer.status_code == 200
    assert ended(http, run_id)["outputs"]["approved"] is False


def test_a_run_is_paused_resumed_and_cancelled(http: httpx2.Client):
    """Cancelling ends it; what has ended cannot be cancelled otherwise."""
    run_id = begun(http, asking(), name="Cy")
    waiting(http, run_id)

    paused = http.post(f"/v1/runs/{run_id}/pause", json={"reason": "lunch"}).json()
    resumed = http.post(f"/v1/runs/{run_id}/resume").json()
    cancelled = http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "enough"}).json()
    successor = http.post(f"/v1/runs/{run_id}/resume")

    assert (paused["paused"], paused["reason"]) == (True, "lunch")
    assert resumed["paused"] is False
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "enough")
    assert successor.status_code == 202
    assert successor.json()["run_id"] != run_id


def test_large_values_travel_whole(http: httpx2.Client):
    """A value above 4 KiB is a blob inside, and itself again in the result."""
    name = "x" * 100_000
    run_id = begun(http, chain(), name=name)

    result = ended(http, run_id)

    assert result["outputs"]["greeting"] == f"hello {name}"
    events = http.get(f"/v1/runs/{run_id}/events").json()["events"]
    assert events[0]["outputs"]["name"]["$blob"] is True


def test_a_failed_run_says_where_and_why(http: httpx2.Client):
    """The result of a failed run is 200 with kind, place and message."""
    run_id = begun(http, single("boom", ["name"], ["x"]), name="bread")

    failure = ended(http, run_id)["failure"]

    assert failure["kind"] == "TOOL_ERROR"
    assert failure["place"] == "boom"
    assert "no bread today" in failure["message"]


def test_an_agent_is_a_name_for_a_graph(http: httpx2.Client):
    """Registered, listed, submitted by its name."""
    put = http.put("/v1/agents/greeter", json={"graph": chain()})
    answer = http.post("/v1/runs", json={"agent": "greeter", "input": {"name": "Di"}})

    assert put.status_code == 200
    assert answer.json()["graph_version"] == put.json()["graph_version"]
    assert ended(http, answer.json()["run_id"])["outputs"]["greeting"] == "hello Di"
    assert "greeter" in [agent["name"] for agent in http.get("/v1/agents").json()["agents"]]
    assert http.get("/v1/agents/nobody").status_code == 404
