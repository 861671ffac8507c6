"""Many runs in one request, on a real cluster."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import httpx2
import pytest

from hive_ray.client import Run
from hive_ray.errors import HiveError
from tests.http.installation import Installation, asking, chain, mended
from tests.http.runs_test import ended
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)


def test_each_of_a_batch_has_its_own_answer_in_order(http: httpx2.Client):
    """Bad ones are refused by name and spoil no other."""
    runs = [
        {"graph": chain(), "input": {"name": "a"}},
        {"graph": chain(), "inputs": {}},
        {"agent": "nobody"},
        "nothing",
        {"graph": chain(), "input": {"name": "b"}},
    ]

    answer = http.post("/v1/runs:batch", json={"runs": runs}).json()

    assert [told["status"] for told in answer["runs"]] == [202, 422, 404, 422, 202]
    assert (answer["accepted"], answer["refused"]) == (2, 3)
    assert answer["runs"][1]["faults"][0]["place"] == "body.runs.1.inputs"
    shouted = [ended(http, answer["runs"][n]["run_id"])["outputs"]["shouted"] for n in (0, 4)]
    assert shouted == ["HELLO A", "HELLO B"]


def test_keys_hold_for_each_item(http: httpx2.Client):
    """The same batch again gives the same runs, also within one batch."""
    keys = [uuid.uuid4().hex for _ in range(3)]
    runs = [{"graph": chain(), "input": {"name": key}, "idempotency_key": key} for key in (*keys, keys[0])]

    first = http.post("/v1/runs:batch", json={"runs": runs}).json()
    again = http.post("/v1/runs:batch", json={"runs": runs}).json()

    assert first == again
    ids = [told["run_id"] for told in first["runs"]]
    assert (ids[3], len(set(ids))) == (ids[0], 3)


def test_a_thousand_runs_are_accepted_at_once_and_more_are_refused(installation: Installation):
    """The SDK sends them in pieces."""
    with installation.client() as client:
        begun = client.submit_many({"graph": chain(), "input": {"name": str(n)}} for n in range(1_001))
        bad = client.submit_many([{"graph": {"id": "x", "nodes": [], "edges": []}}])
        last = begun[-1]

        assert all(isinstance(run, Run) for run in begun)
        assert isinstance(bad[0], HiveError)
        assert isinstance(last, Run)
        assert last.result(120)["shouted"] == "HELLO 1000"
        answer = httpx2.post(f"{installation.url}/v1/runs:batch", json={"runs": [{}] * 1_001}, timeout=60)
        assert answer.status_code == 422


def test_all_live_runs_of_an_agent_are_cancelled(installation: Installation, http: httpx2.Client):
    """Page by page, with counts; runs of others and ended ones stay."""
    agent = f"a{uuid.uuid4().hex[:8]}"
    with installation.client() as client:
        mine = client.submit_many(
            {"graph": asking(), "agent": agent, "input": {"name": str(n)}} for n in range(7)
        )
        other = client.submit(asking(), input={"name": "other"})
        wait_until(lambda: len(list(client.runs(agent=agent, status="waiting"))) == 7, 60)

        page = http.post("/v1/runs:cancel", json={"agent": agent, "limit": 3}).json()
        told = client.cancel_runs(agent=agent, limit=2, reason="no longer needed")

        assert (page["selected"], page["done"], page["refused"]) == (3, 3, 0)
        assert (told["selected"], told["done"], told["refused"]) == (4, 4, 0)
        assert {run.status for run in mine if isinstance(run, Run)} == {"cancelled"}
        assert other.status != "cancelled"
        other.cancel()


def test_runs_are_selected_by_age_and_by_id(installation: Installation):
    """A young run is not old; an id that is not there is refused by itself."""
    agent = f"a{uuid.uuid4().hex[:8]}"
    with installation.client() as client:
        old = client.submit(asking(), agent=agent, input={"name": "old"})
        between_s = time.time() + 0.5
        wait_until(lambda: time.time() > between_s + 0.5, 10)
        young = client.submit(asking(), agent=agent, input={"name": "young"})

        aged = client.cancel_runs(agent=agent, older_than_s=time.time() - between_s)
        named = client.cancel_runs(ids=[young.id, "nope"])

        assert [line["run_id"] for line in aged["runs"]] == [old.id]
        assert [line["run_id"] for line in named["runs"]] == [young.id]
        assert [(problem["run_id"], problem["kind"]) for problem in named["problems"]] == [
            ("nope", "not_found")
        ]


def test_failed_runs_are_resumed_once(installation: Installation, tmp_path: Path):
    """A second call finds nothing left to resume."""
    agent = f"a{uuid.uuid4().hex[:8]}"
    file = tmp_path / "here"
    with installation.client() as client:
        for n in range(3):
            client.submit(mended(), agent=agent, input={"name": str(n), "file": str(file)})
        wait_until(lambda: len(list(client.runs(agent=agent, status="failed"))) == 3, 60)
        file.touch()

        told = client.resume_runs(agent=agent, status="failed")
        again = client.resume_runs(agent=agent, status="failed")

        assert (told["done"], again["selected"]) == (3, 0)
        assert [client.run(line["run_id"]).result(60)["found"] for line in told["runs"]] == [str(file)] * 3


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("cancel", {}, "give ids, a filter, or all: true"),
        ("cancel", {"ids": ["x"], "agent": "y"}, "give either ids or filters"),
        ("resume", {"agent": "y"}, "say which"),
        ("batch", {"runs": []}, "body.runs"),
    ],
)
def test_a_selection_must_select(http: httpx2.Client, path: str, body: dict[str, object], said: str):
    """Nothing is done for a body that says nothing."""
    answer = http.post(f"/v1/runs:{path}", json=body)

    assert answer.status_code == 422
    assert said in answer.json()["detail"]
