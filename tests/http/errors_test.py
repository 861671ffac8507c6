"""Every refusal is problem+json with place, remedy and request id."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.http.installation import chain, single

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ({"graph": single("gret", [], []), "input": {}}, 422, "nodes.gret.function"),
        ({"graph": {"id": "x", "nodes": []}}, 422, "nodes"),
        ({"graph": chain(), "input": [1]}, 422, "body.input"),
        ({"grap": {}}, 422, "body.grap"),
        ({"graph": chain(), "budget_usd": "-1"}, 422, "body.budget_usd"),
        ({"graph": chain(), "input": {"name": "y" * 9_000_000}}, 413, "body.input"),
        ({"graph": chain(), "input": {"name": "y" * 30_000_000}}, 413, "body"),
        ({"graph": chain(), "input": {"name": 1 << 70}}, 422, "body.input"),
    ],
)
def test_a_bad_submission_is_refused_by_place(
    http: httpx2.Client, body: dict[str, Any], status: int, place: str
):
    """The place leads to the fault, the remedy says what would be right."""
    answer = http.post("/v1/runs", json=body, headers={"X-Request-ID": "mine-1"})

    problem = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == problem["request_id"] == "mine-1"
    assert place in [fault["place"] for fault in problem["faults"]]
    assert all(fault["remedy"] for fault in problem["faults"])
    assert "Traceback" not in answer.text


def test_text_that_is_not_json_is_refused(http: httpx2.Client):
    """422, never 500."""
    answer = http.post("/v1/runs", content=b"{bad", headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["kind"] == "invalid"


@pytest.mark.parametrize("said", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_cannot_say_is_refused_by_its_path(http: httpx2.Client, said: str):
    """Python's parser takes it; it would become null on the way."""
    text = json.dumps({"graph": chain(), "input": {"name": {"deep": [1, "SAID"]}}}).replace('"SAID"', said)
    answer = http.post("/v1/runs", content=text, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422, answer.text
    assert [fault["place"] for fault in answer.json()["faults"]] == ["body.input.name.deep[1]"]


def test_an_unknown_status_is_refused_with_those_that_are(http: httpx2.Client):
    """An empty list would look like an answer."""
    answer = http.get("/v1/runs", params={"status": "running,zzz"})

    (fault,) = answer.json()["faults"]
    assert (answer.status_code, fault["place"]) == (422, "query.status")
    assert "'zzz'" in fault["problem"] and "waiting" in fault["remedy"]
    assert http.get("/v1/runs", params={"status": "running,failed"}).status_code == 200


def test_an_empty_idempotency_key_is_refused(http: httpx2.Client):
    """Whoever sends one means to be protected, and would not be."""
    body = {"graph": chain(), "input": {"name": "a"}}
    answer = http.post("/v1/runs", json=body, headers={"Idempotency-Key": ""})

    assert answer.status_code == 422
    assert answer.json()["faults"][0]["place"] == "headers.Idempotency-Key"


@pytest.mark.parametrize(
    "path", ["/v1/runs/nope", "/v1/runs/nope/events", "/v1/runs/nope/result", "/v1/nothing"]
)
def test_what_is_not_there_is_404(http: httpx2.Client, path: str):
    """Also as problem+json."""
    answer = http.get(path)

    assert answer.status_code == 404
    assert answer.json()["request_id"]


def test_an_event_id_that_is_no_number_is_refused(http: httpx2.Client):
    """Before a stream begins."""
    run_id = http.post("/v1/runs", json={"graph": chain(), "input": {"name": "a"}}).json()["run_id"]

    headers = {"Accept": "text/event-stream", "Last-Event-ID": "abc"}
    answer = http.get(f"/v1/runs/{run_id}/events", headers=headers)

    assert answer.status_code == 422
    assert answer.json()["faults"][0]["place"] == "headers.Last-Event-ID"


NO_BRACES = str.maketrans("", "", "{}")


NAMED = {
    "/v1/budgets/{scope}": "/v1/budgets/team/default",
    "/v1/breakers/{name}": "/v1/breakers/model/m",
    "/v1/rates/{name}": "/v1/rates/pool/tool",
}
"""Reads of what must be named in a form of its own."""


def filled(path: str) -> str:
    """The names of a path's places as what stands in them; no run or agent is called so."""
    return path.replace("{scope}", "team").translate(NO_BRACES)


def test_every_documented_read_answers(http: httpx2.Client):
    """OpenAPI names the routes; each that reads answers without a server error."""
    document = http.get("/openapi.json").json()
    reads = [path for path, item in document["paths"].items() if "get" in item]

    answers = {path: http.get(NAMED.get(path) or filled(path)) for path in reads}

    assert {"/v1/runs", "/v1/runs/{run_id}/events", "/v1/approvals", "/metrics"} <= set(reads)
    assert "202" in document["paths"]["/v1/runs"]["post"]["responses"]
    assert {path: a.status_code for path, a in answers.items() if a.status_code not in (200, 404)} == {}


def test_metrics_count_what_happened(http: httpx2.Client):
    """Plain text that Prometheus reads; a finished run raises its counter."""

    def succeeded() -> float:
        lines = http.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith("hive_runs_succeeded_total ")]
        return float(line.split()[1])

    before = succeeded()
    run_id = http.post("/v1/runs", json={"graph": chain(), "input": {"name": "m"}}).json()["run_id"]
    http.get(f"/v1/runs/{run_id}/result", params={"wait_s": 30})

    assert succeeded() == before + 1
    assert "hive_ready 1" in http.get("/metrics").text
    assert http.get("/readyz").json()["ready"] is True


def test_lint_names_faults_without_refusing(http: httpx2.Client):
    """200 either way; ``ok`` says whether the graph would be accepted."""
    good = http.post("/v1/lint", json={"graph": chain()}).json()
    bad = http.post("/v1/lint", json={"graph": single("gret", [], [])}).json()

    assert good["ok"] is True
    assert bad["ok"] is False
    assert bad["findings"][0]["place"] == "nodes.gret.function"
