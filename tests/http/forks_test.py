"""Forks and resumed runs over HTTP, on a real cluster."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hive_ray.errors import Conflict, InputError, NotFound, UserError
from tests.http.installation import Installation, asking, chain, mended
from tests.http.runs_test import begun, ended, waiting
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)
LARGE = "x" * 100_000


def forked(http: httpx2.Client, run_id: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/runs/{run_id}/fork", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def shown(http: httpx2.Client, run_id: str) -> dict[str, Any]:
    return http.get(f"/v1/runs/{run_id}").json()


def kinds(http: httpx2.Client, run_id: str) -> list[str]:
    return [event["kind"] for event in http.get(f"/v1/runs/{run_id}/events").json()["events"]]


def test_a_fork_goes_on_with_another_value(http: httpx2.Client):
    """From before the node, under its own id and budget; the parent is as it was."""
    parent = begun(http, chain(), name="Ada")
    ended(http, parent)
    before = shown(http, parent)

    answer = forked(http, parent, **{"from": "shout"}, input={"greeting": "good day"}, budget_usd="2")

    assert ended(http, answer["run_id"])["outputs"] == {"greeting": "good day", "shouted": "GOOD DAY"}
    view = shown(http, answer["run_id"])
    came = answer["forked_from"]
    assert (came["run_id"], came["node"], came["visit"]) == (parent, "shout", 1)
    assert view["forked_from"] == came
    assert view["budget_usd"] == "2"
    assert kinds(http, answer["run_id"])[:2] == ["RunForked", "NodeEntered"]
    assert shown(http, parent) == before
    assert ended(http, parent)["outputs"]["shouted"] == "HELLO ADA"


def test_values_that_are_blobs_are_the_forks_own(installation: Installation, http: httpx2.Client):
    """Copied under the fork's name: it does not depend on what becomes of its parent's content."""
    parent = begun(http, chain(), name=LARGE)
    ended(http, parent)

    fork = forked(http, parent, **{"from": "shout"})["run_id"]

    assert ended(http, fork)["outputs"]["shouted"] == f"HELLO {LARGE.upper()}"
    blobs = Path(installation.folder, ".hive", "state", "blobs", fork)
    assert len(list(blobs.iterdir())) == 3  # name and greeting, copied; and what the fork wrote itself


def test_a_waiting_run_can_be_forked_and_both_are_asked(http: httpx2.Client):
    """Each under approvals of its own."""
    parent = begun(http, asking(), name="Ada")
    asked = waiting(http, parent)

    fork = forked(http, parent, **{"from": "check"})["run_id"]

    assert waiting(http, fork)["approval_id"] == f"{fork}.1"
    assert waiting(http, parent) == asked
    for run_id in (fork, parent):
        http.post(f"/v1/runs/{run_id}/cancel")


def test_the_same_key_gives_the_same_fork(http: httpx2.Client):
    """Another body under the key is refused."""
    parent = begun(http, chain(), name="Ada")
    ended(http, parent)
    key = {"Idempotency-Key": uuid.uuid4().hex}
    path = f"/v1/runs/{parent}/fork"

    first = http.post(path, json={"from": "shout"}, headers=key)
    again = http.post(path, json={"from": "shout"}, headers=key)
    other = http.post(path, json={"from": "greet"}, headers=key)

    assert first.content == again.content
    assert (other.status_code, other.json()["kind"]) == (422, "mismatch")


def test_a_fork_survives_the_controller(http: httpx2.Client):
    """Its first event holds all that it began with."""
    parent = begun(http, asking(), name="Ada")
    waiting(http, parent)
    fork = forked(http, parent, **{"from": "check"}, input={"greeting": "good day"})["run_id"]
    before = http.get("/v1/status").json()

    os.kill(before["controller_pid"], signal.SIGKILL)
    wait_until(lambda: http.get("/readyz").status_code == 200, 60)
    approval = waiting(http, fork)["approval_id"]
    answer = http.post(f"/v1/approvals/{approval}", json={"decision": "approve"})

    assert answer.status_code == 200, answer.text
    assert ended(http, fork)["outputs"]["approved"] is True
    assert shown(http, fork)["forked_from"]["run_id"] == parent
    http.post(f"/v1/runs/{parent}/cancel")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"from": "nope"}, "the graph has no node nope; the run has visited: greet, shout"),
        ({"from": "shout", "visit": 2}, "node shout had no visit 2"),
        ({"from": "shout", "input": {"greting": "x"}}, "is a key that no node reads or writes"),
        ({"input": {}}, "from"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(http: httpx2.Client, body: dict[str, Any], said: str):
    """With what would be right; nothing begins."""
    parent = begun(http, chain(), name="Ada")
    ended(http, parent)
    count = len(http.get("/v1/runs", params={"limit": 1000}).json()["runs"])

    answer = http.post(f"/v1/runs/{parent}/fork", json=body)

    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid")
    assert said in answer.json()["detail"]
    assert len(http.get("/v1/runs", params={"limit": 1000}).json()["runs"]) == count


# --- resumed -----------------------------------------------------------------------------------------


def test_a_failed_run_is_resumed_as_another(http: httpx2.Client, tmp_path: Path):
    """What had ended is not done again; asking again gives the same run."""
    file = tmp_path / "here"
    failed = begun(http, mended(), name="Ada", file=str(file))
    assert ended(http, failed)["failure"]["kind"] == "TOOL_ERROR"
    file.touch()

    answer = http.post(f"/v1/runs/{failed}/resume")
    again = http.post(f"/v1/runs/{failed}/resume")

    assert (answer.status_code, again.status_code) == (202, 202)
    resumed = answer.json()["run_id"]
    assert again.json()["run_id"] == resumed != failed
    assert ended(http, resumed)["outputs"]["shouted"] == "HELLO ADA"
    events = http.get(f"/v1/runs/{resumed}/events").json()["events"]
    assert [e["node"] for e in events if e["kind"] == "StepSucceeded"] == ["mend", "shout"]
    assert shown(http, failed)["resumed_as"] == resumed
    assert shown(http, failed)["status"] == "failed"


def test_a_successor_that_failed_too_is_the_one_to_resume(http: httpx2.Client, tmp_path: Path):
    """The refusal names it."""
    failed = begun(http, mended(), name="Ada", file=str(tmp_path / "never"))
    ended(http, failed)
    resumed = http.post(f"/v1/runs/{failed}/resume").json()["run_id"]
    ended(http, resumed)

    answer = http.post(f"/v1/runs/{failed}/resume")

    assert answer.status_code == 409
    assert f"was resumed as {resumed}, which is failed" in answer.json()["detail"]


def test_dead_letters_are_listed_until_they_are_resumed(installation: Installation, tmp_path: Path):
    """A step that killed its worker; the resumed run has a deadline of its own."""
    file = tmp_path / "here"
    with installation.client() as client:
        dead = client.submit(mended("deadly"), input={"name": "Ada", "file": str(file)})
        assert dead.outcome(60)["failure"]["dead_lettered"]
        listed = [line["run_id"] for line in client.runs(dead_lettered=True)]
        file.touch()

        told = client.resume_runs(dead_lettered=True)

        assert dead.id in listed
        (line,) = [line for line in told["runs"] if line["resumes"] == dead.id]
        assert client.run(line["run_id"]).result(60)["found"] == str(file)
        assert dead.id not in [line["run_id"] for line in client.runs(dead_lettered=True)]


def test_a_run_that_succeeded_is_not_resumed(installation: Installation):
    """The refusal says what to do; budgets are for runs that ended; unknown runs are unknown."""
    with installation.client() as client:
        done = client.submit(chain(), input={"name": "Ada"})
        done.result(60)
        waits = client.submit(asking(), input={"name": "Ada"})

        with pytest.raises(Conflict, match="fork it from a node"):
            done.resume()
        with pytest.raises(InputError, match="is for runs that have ended"):
            waits.resume(budget_usd=1)
        with pytest.raises(NotFound):
            client.run("nope").resume()
        with pytest.raises(UserError, match="has visited: greet, shout"):
            done.fork("nope")

        assert done.fork("shout", input={"greeting": "good day"}).result(60)["shouted"] == "GOOD DAY"
        waits.cancel()


def test_a_run_is_replayed_against_what_the_controller_shows(http: httpx2.Client):
    """Also one that has not ended, and a fork."""
    parent = begun(http, asking(), name="Ada")
    waiting(http, parent)
    fork = forked(http, parent, **{"from": "check"})["run_id"]

    for run_id in (parent, fork):
        verdict = http.get(f"/v1/runs/{run_id}/replay").json()
        assert verdict["ok"], verdict
        assert verdict["compared"] == [f"controller at event {verdict['seq']}"]
        http.post(f"/v1/runs/{run_id}/cancel")
    assert http.get("/v1/runs/nope/replay").status_code == 404
