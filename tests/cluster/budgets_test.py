"""Budgets on a real cluster over HTTP, with the controller killed: never a nano-dollar too much."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from hive_ray.client import Client, Run
from hive_ray.errors import Unavailable
from tests.http.installation import Installation
from tests.servers import aimock as llm
from tests.servers.aimock import AimockServer
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(420)

RUNS = 50
FITTING = Decimal("20.5")
COST = Decimal("0.1")
TEAM = "/v1/budgets/team/default"
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def slow_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AimockServer]:
    """Answers after two seconds, so that many calls are under way at a time."""
    answer = llm.delayed(llm.text(json.dumps({"reply": "Dear customer, " + "we are sorry. " * 20})), 2_000)
    with AimockServer([answer], tmp_path_factory.mktemp("llm")) as server:
        yield server


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, slow_llm: AimockServer) -> Iterator[Installation]:
    model = {
        "provider": "openai-compatible",
        "model": "slow",
        "base_url": slow_llm.openai_url,
        "input_usd_per_mtok": "0.1",
        "output_usd_per_mtok": 15,
        "cached_input_usd_per_mtok": "0.03",
    }
    with Installation(tmp_path_factory.mktemp("budgets"), models={"slow": model}) as running:
        yield running


def answering() -> dict[str, Any]:
    """One LLM call."""
    node = {"id": "answer", "node_type": "llm_generate", "input_keys": ["ticket"], "output_keys": ["reply"]}
    texts = {"system_prompt": "Answer.", "prompt": "{ticket}", "max_tokens": 100, "max_retries": 0}
    return {"id": "answering", "nodes": [node | texts], "edges": []}


def paid(*names: str) -> dict[str, Any]:
    """Functions in a row that cost a tenth of a dollar each; the first waits for a file."""
    inputs = {"until": ["file"], "greet": ["name"]}
    outputs = {"until": ["found"], "greet": ["greeting"]}
    nodes = [
        {
            "id": name,
            "node_type": "function",
            "function": name,
            "input_keys": inputs[name],
            "output_keys": outputs[name],
            "cost_usd": float(COST),
        }
        for name in names
    ]
    edges = [
        {"id": f"e{n}", "source": names[n], "target": names[n + 1], "condition": "on_success"}
        for n in range(len(names) - 1)
    ]
    return {"id": "-".join(names), "nodes": nodes, "edges": edges}


def kill_controller(installation: Installation, client: Client) -> None:
    """And wait until its successor decides."""
    before = client.status()
    os.kill(before["controller_pid"], signal.SIGKILL)

    def again() -> bool:
        try:
            told = client.status()
        except Unavailable:
            return False
        return told["ready"] and told["epoch"] > before["epoch"]

    wait_until(again, PATIENCE_S)


def usd(budget: dict[str, Any], key: str) -> Decimal:
    return Decimal(budget[f"{key}_usd"])


def settled(client: Client, runs: Iterable[Run], limit: Decimal) -> dict[str, Any]:
    """The team's budget when all runs have ended; looked at again and again on the way."""
    left = list(runs)

    def all_ended() -> bool:
        budget = client.get(TEAM)
        assert usd(budget, "spent") + usd(budget, "reserved") <= limit
        left[:] = [run for run in left if run.status not in ("succeeded", "failed")]
        return not left

    wait_until(all_ended, PATIENCE_S)
    return client.get(TEAM)


def charged(runs: Iterable[Run]) -> Decimal:
    """What the attempts of runs cost, by their events."""
    found = Decimal(0)
    for run in runs:
        found += sum(
            (Decimal(event["cost_usd"]) for event in run.events() if "cost_usd" in event), Decimal(0)
        )
    return found


def begun(client: Client, graph: dict[str, Any], agent: str, **given: Any) -> list[Run]:
    runs = client.submit_many({"graph": graph, "agent": agent, "input": given} for _ in range(RUNS))
    return [run for run in runs if isinstance(run, Run)]


def reserved(client: Client, run: Run) -> Decimal:
    """What the first attempt of a run held at its start."""
    return next(Decimal(event["reserved_usd"]) for event in run.events() if event["kind"] == "StepStarted")


def test_fifty_llm_calls_never_pass_a_budget_that_fits_twenty_and_a_half(
    installation: Installation, capsys: pytest.CaptureFixture[str]
):
    """The controller dies while they are under way; the ledger is the sum of the attempts."""
    with installation.client() as client:
        probe = client.submit(answering(), agent="llm", input={"ticket": "x" * 400})
        probe.result(PATIENCE_S)
        worst = reserved(client, probe)
        limit = usd(client.get(TEAM), "spent") + FITTING * worst
        client.send("PUT", TEAM, {"usd": str(limit)})

        runs = begun(client, answering(), "llm", ticket="x" * 400)
        wait_until(lambda: usd(client.get(TEAM), "reserved") > 0, PATIENCE_S)
        kill_controller(installation, client)
        under_way = client.get(TEAM)
        told = installation.cli("budgets").stdout
        after = settled(client, runs, limit)
        kill_controller(installation, client)
        recovered = client.get(TEAM)
        outcomes = Counter(run.outcome(0)["status"] for run in runs)
        kinds = {(run.outcome(0)["failure"] or {}).get("kind") for run in runs}
        by_events, cost = charged([probe, *runs]), probe.cost
        client.send("DELETE", TEAM)

    with capsys.disabled():
        print(f"\none call: at worst ${worst}, in fact ${cost}; limit ${limit}\n{told}{dict(outcomes)}")
        print(f"spent ${after['spent_usd']} of ${after['limit_usd']}, by events ${by_events}")
    assert len(runs) == RUNS
    assert usd(under_way, "reserved") <= 20 * worst
    assert outcomes["succeeded"] >= 20
    assert outcomes["failed"] > 0
    assert kinds == {None, "BUDGET_EXCEEDED"}
    assert limit - worst < usd(after, "spent") <= limit
    assert usd(after, "spent") == usd(recovered, "spent") == by_events
    assert usd(recovered, "reserved") == 0


def test_of_fifty_paid_calls_twenty_run_and_one_warning_is_given(
    installation: Installation, capsys: pytest.CaptureFixture[str]
):
    """All that fit are under way at once when the controller dies, and each is charged once."""
    file = installation.folder / "go"
    with installation.client() as client:
        before = usd(client.get(TEAM), "spent")
        limit = before + FITTING * COST
        client.send("PUT", TEAM, {"usd": str(limit), "warn_percent": 80})
        runs = begun(client, paid("until"), "priced", file=str(file))
        wait_until(lambda: usd(client.get(TEAM), "reserved") == 20 * COST, PATIENCE_S)
        kill_controller(installation, client)
        again = client.get(TEAM)
        file.touch()
        after = settled(client, runs, limit)
        outcomes = Counter(run.outcome(0)["status"] for run in runs)
        failed = next(run for run in runs if run.status == "failed").outcome(0)
        shown = installation.cli("budgets", "team/default").stdout
        warnings = installation.cli(
            "sql", "SELECT kind FROM events WHERE kind = 'BudgetWarned'", "--json"
        ).stdout
        by_events = charged(runs)
        client.send("DELETE", TEAM)

    with capsys.disabled():
        print(f"\n{shown}{dict(outcomes)}\n{failed['failure']}")
    assert usd(again, "reserved") == 20 * COST
    assert outcomes == {"succeeded": 20, "failed": 30}
    assert failed["failure"]["kind"] == "BUDGET_EXCEEDED"
    assert usd(after, "spent") == before + 20 * COST
    assert by_events == 20 * COST
    assert after["warned"]
    assert len(json.loads(warnings)) == 1


def test_the_kill_switch_lets_end_what_runs_and_starts_nothing(installation: Installation):
    """Also after the controller was killed; what waits goes on when it is lifted."""
    file = installation.folder / "stopped"
    scope = "/v1/budgets/agent/default/switched"
    graph = paid("until", "greet")
    with installation.client() as client:
        run = client.submit(graph, agent="switched", input={"file": str(file), "name": "Ann"})
        wait_until(lambda: any(event["kind"] == "StepStarted" for event in run.events()), PATIENCE_S)
        client.post(f"{scope}/stop", {"reason": "a leak"})
        file.touch()
        kill_controller(installation, client)

        def waits() -> bool:
            return {"for": "stopped/agent/default/switched", "steps": 1} in client.get("/v1/pools/function")[
                "waiting"
            ]

        wait_until(waits, PATIENCE_S)
        spent = usd(client.get(scope), "spent")
        client.post(f"{scope}/allow")
        result = run.result(PATIENCE_S)

    assert spent == COST
    assert result["greeting"] == "hello Ann"


def test_a_budget_that_pauses_asks_for_more_and_the_run_goes_on(
    installation: Installation, capsys: pytest.CaptureFixture[str]
):
    """The amount that a person allows is for this run only."""
    scope = "/v1/budgets/agent/default/asking"
    file = installation.folder / "there"
    file.touch()
    with installation.client() as client:
        client.send("PUT", scope, {"usd": "0.15", "at_limit": "pause_for_approval"})
        graph = paid("until", "greet")
        run = client.submit(graph, agent="asking", input={"file": str(file), "name": "Ann"})
        wait_until(lambda: run.status == "waiting", PATIENCE_S)
        (wait,) = run.waits
        asked = installation.cli("approvals").stdout
        approved = installation.cli("approve", wait["approval_id"], "--usd", "0.05")
        result = run.result(PATIENCE_S)
        budget = client.get(scope)

    with capsys.disabled():
        print(f"\n{asked}{approved.stdout}")
    assert (wait["reason"], wait["answers"]) == ("budget", ["approve", "reject"])
    assert wait["shown"]["needed_usd"] == "0.05"
    assert f"hive-ray approve {wait['approval_id']} --usd AMOUNT" in asked
    assert approved.returncode == 0, approved.stderr
    assert result["greeting"] == "hello Ann"
    assert usd(budget, "spent") == 2 * COST
