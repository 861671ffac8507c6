"""The installation's secrets leave in no answer, whoever wrote them."""

from __future__ import annotations

import httpx2
import pytest

from tests.http.conftest import CANARY
from tests.http.installation import Installation, asking, chain, single
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)


def _everything(http: httpx2.Client, run_id: str) -> str:
    """All that HTTP tells of a run."""
    paths = ["", "/result", "/events"]
    stream = {"Accept": "text/event-stream"}
    told = [http.get(f"/v1/runs/{run_id}{path}").text for path in paths]
    told.append(http.get(f"/v1/runs/{run_id}/events", headers=stream, timeout=60).text)
    return "\n".join([*told, http.get("/v1/runs").text])


def test_a_function_that_raises_with_a_models_key_does_not_show_it(http: httpx2.Client):
    """Its own process does not know the key: the replica masks it."""
    body = {"graph": single("boom", ["name"], ["never"]), "input": {"name": f"x{CANARY}y"}}
    run_id = http.post("/v1/runs", json=body).json()["run_id"]
    result = http.get(f"/v1/runs/{run_id}/result", params={"wait_s": 60}).json()
    told = _everything(http, run_id)

    assert "no x[redacted]y today" in result["failure"]["message"]
    assert "[redacted]" in told and CANARY not in told


def test_outputs_that_repeat_a_key_are_masked(http: httpx2.Client):
    """A model may echo what it is called with; nobody's result is an API key."""
    body = {"graph": chain(), "input": {"name": CANARY}}
    run_id = http.post("/v1/runs", json=body).json()["run_id"]
    result = http.get(f"/v1/runs/{run_id}/result", params={"wait_s": 60}).json()

    assert result["outputs"]["greeting"] == "hello [redacted]"
    assert CANARY not in _everything(http, run_id)


def test_approvals_and_problems_are_masked_too(http: httpx2.Client, installation: Installation):
    """What is shown to who decides, what the command line prints, and errors that repeat a request."""
    body = {"graph": asking(), "input": {"name": CANARY}}
    run_id = http.post("/v1/runs", json=body).json()["run_id"]
    wait_until(lambda: bool(http.get(f"/v1/runs/{run_id}").json()["waits"]), 60)
    listed = http.get("/v1/approvals", params={"run_id": run_id}).text
    printed = installation.cli("approvals")
    refused = http.get("/v1/runs", params={"status": CANARY})

    assert "hello [redacted]" in listed and CANARY not in listed
    assert "hello [redacted]" in printed.stdout and CANARY not in printed.stdout
    assert refused.status_code == 422 and CANARY not in refused.text
    http.post(f"/v1/runs/{run_id}/cancel", json={})
