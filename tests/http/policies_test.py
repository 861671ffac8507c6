"""Policies on a real cluster: a destructive tool waits for a person, and the controller dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hive_ray.config import load
from hive_ray.state.access import open_state
from hive_ray.state.segments import segment_name
from tests.chaos.journal_reader import owner_at
from tests.http.installation import Installation
from tests.http.runs_test import begun, ended, waiting
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(300)

WIPING = """
from pathlib import Path
import hive_ray as hive

@hive.tool(tags=["destructive"])
def wipe(table: str, rows: int, ctx: hive.ToolContext) -> str:
    with open(Path(__file__).with_name("wiped.jsonl"), "a") as file:
        file.write(f'{{"key": "{ctx.idempotency_key}", "table": "{table}", "rows": {rows}}}\\n')
    return f"{rows} rows of {table}"

@hive.tool()
def pay(amount: int) -> int:
    return amount
"""
RULES: list[dict[str, Any]] = [
    {"id": "small", "then": "allow", "tools": ["wipe"], "when": "args.rows < 10"},
    {
        "id": "whole",
        "then": "deny",
        "tools": ["wipe"],
        "when": "args.rows > 1000",
        "reason": "not the whole table",
    },
    {"id": "broken", "then": "deny", "tools": ["pay"], "when": "args.nothing > 1"},
]


def calling(tool: str, *inputs: str) -> dict[str, Any]:
    """One tool call."""
    node = {
        "id": tool,
        "node_type": "tool",
        "tool": tool,
        "input_keys": list(inputs),
        "output_keys": ["done"],
    }
    return {"id": f"calling-{tool}", "nodes": [node], "edges": []}


WIPE = calling("wipe", "table", "rows")


class Wiping(Installation):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, policies=RULES)
        (folder / "tools.py").write_text(WIPING)

    def wiped(self, run_id: str) -> list[tuple[str, int]]:
        """What a run has wiped, once for each call of the tool."""
        file = self.folder / "wiped.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        told = [json.loads(line) for line in lines]
        return [(one["table"], one["rows"]) for one in told if one["key"].startswith(run_id)]

    def controller(self) -> int:
        """The pid of the newest owner of the journal."""
        store = open_state(load(self.config))
        folder = Path(store.url.removeprefix("file://"))
        number, pid = 1, 0
        while (folder / segment_name(0, number)).exists():
            owner = owner_at(store, number)
            pid = owner.pid if owner is not None else pid
            number += 1
        return pid


@pytest.fixture(scope="module")
def wiping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wiping]:
    with Wiping(tmp_path_factory.mktemp("policies")) as running:
        yield running


@pytest.fixture
def site(wiping: Wiping) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=wiping.url, timeout=60) as client:
        yield client


def kinds(site: httpx2.Client, run_id: str) -> list[str]:
    return [event["kind"] for event in site.get(f"/v1/runs/{run_id}/events").json()["events"]]


def test_a_destructive_tool_waits_over_the_death_of_the_controller_and_runs_as_it_was_decided(
    wiping: Wiping, site: httpx2.Client
):
    """Approved it runs once, as it was shown; rejected it does not; edited as it was edited."""
    runs = [begun(site, WIPE, table=name, rows=50) for name in ("approved", "rejected", "edited", "too_far")]
    questions = [waiting(site, run_id) for run_id in runs]
    dead = wiping.controller()
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: wiping.controller() != dead, 60)
    wait_until(lambda: site.get("/readyz").status_code == 200, 60)

    assert [waiting(site, run_id) for run_id in runs] == questions
    assert [wiping.wiped(run_id) for run_id in runs] == [[], [], [], []]
    question = questions[0]
    assert (question["reason"], question["answers"]) == ("policy", ["approve", "reject", "edit"])
    assert question["shown"] == {"table": "approved", "rows": 50}
    assert "needs approval by the policy destructive" in question["need"]

    decide(site, questions[0], "approve")
    decide(site, questions[1], "reject", comment="keep it")
    decide(site, questions[2], "edit", table="edited", rows=20)
    decide(site, questions[3], "edit", table="too_far", rows=5000)
    results = [ended(site, run_id) for run_id in runs]
    assert [result["status"] for result in results] == ["succeeded", "failed", "succeeded", "failed"]
    assert [result["failure"] and result["failure"]["kind"] for result in results] == [
        None,
        "REJECTED",
        None,
        "POLICY_DENIED",
    ]
    wiped = [wiping.wiped(run_id) for run_id in runs]
    assert wiped == [[("approved", 50)], [], [("edited", 20)], []]
    assert kinds(site, runs[3]).count("PolicyDecided") == 2


def decide(
    site: httpx2.Client, question: dict[str, Any], decision: str, comment: str = "", **given: Any
) -> None:
    body = {"decision": decision, "answer": given, "comment": comment}
    path = f"/v1/approvals/{question['approval_id']}"
    answers = [site.post(path, json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text


def test_an_edit_that_does_not_fit_the_tool_s_schema_is_refused(wiping: Wiping, site: httpx2.Client):
    """Nothing is decided by it; neither by an approval that brings arguments of its own."""
    run_id = begun(site, WIPE, table="t", rows=50)
    question = waiting(site, run_id)
    path = f"/v1/approvals/{question['approval_id']}"
    for decision, given in (
        ("edit", {"table": "t", "rows": "many"}),
        ("edit", {"table": "t"}),
        ("approve", {"rows": 1}),
    ):
        refused = site.post(path, json={"decision": decision, "answer": given})
        assert refused.status_code == 422, refused.text
    assert waiting(site, run_id) == question
    decide(site, question, "edit", table="t", rows=9)
    assert ended(site, run_id)["status"] == "succeeded"
    assert wiping.wiped(run_id) == [("t", 9)]


def test_rules_allow_and_deny_and_are_told(wiping: Wiping, site: httpx2.Client):
    small = ended(site, begun(site, WIPE, table="t", rows=1))
    whole = ended(site, begun(site, WIPE, table="t", rows=2000))
    broken = ended(site, begun(site, calling("pay", "amount"), amount=1))
    assert small["status"] == "succeeded"
    assert (whole["failure"]["kind"], broken["failure"]["kind"]) == ("POLICY_DENIED", "POLICY_DENIED")
    assert "not the whole table" in whole["failure"]["message"]
    told = site.get(f"/v1/runs/{broken['run_id']}/events").json()["events"]
    (decided,) = [event for event in told if event["kind"] == "PolicyDecided"]
    assert (decided["effect"], decided["rule"], decided["errors"]) == ("deny", "broken", ["broken"])


def test_the_rules_in_force_are_listed(wiping: Wiping, site: httpx2.Client):
    """In order, the built-in one last; over HTTP and on the command line."""
    rules = site.get("/v1/policies").json()["policies"]
    assert [rule["id"] for rule in rules] == ["small", "whole", "broken", "destructive"]
    shown = {
        "id": "small",
        "then": "allow",
        "when": "args.rows < 10",
        "tools": ["wipe"],
        "source": "hive.yaml",
    }
    assert rules[0] == shown
    listed = wiping.cli("policies", "list")
    assert [line.split()[:2] for line in listed.stdout.splitlines()][-1] == [
        "destructive",
        "require_approval",
    ]
    assert json.loads(wiping.cli("policies", "show", "whole", "--json").stdout)["then"] == "deny"
    assert wiping.cli("policies", "show", "none").returncode == 2
