"""Budgets, pools, limits, maintenance and configuration on the command line of a real cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.http.installation import Installation, chain, hive_ray
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)


def told(installation: Installation, *words: str) -> Any:
    """What a command prints as JSON."""
    done = installation.cli(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def agent() -> str:
    return f"a{uuid.uuid4().hex[:8]}"


def test_a_budget_is_set_shown_and_reset(installation: Installation, agent: str):
    """What is not named stays; `none` takes a limit away."""
    scope = f"agent/default/{agent}"
    first = installation.cli("budgets", "set", scope, "--usd", "5.5", "--owner", "ann", "--reason", "a trial")
    told(installation, "budgets", "set", scope, "--tokens", "100", "--at-limit", "pause_for_approval")
    both = told(installation, "budgets", scope)
    one = told(installation, "budgets", "set", scope, "--usd", "none")
    table = installation.cli("budgets")
    back = told(installation, "budgets", "reset", scope)

    assert first.returncode == 0, first.stderr
    assert f"account   {scope}\nwindow    day, " in first.stdout
    assert "limit     $5.5; at the limit stop (asked: ann), warning at 80 %" in first.stdout
    assert (both["limit_usd"], both["limit_tokens"], both["owner"]) == ("5.5", 100, "ann")
    assert (one["limit_usd"], one["limit_tokens"], one["at_limit"]) == (None, 100, "pause_for_approval")
    assert any(line.startswith(scope) and "100 tokens" in line for line in table.stdout.splitlines())
    assert (back["limit_tokens"], back["changed_by"]) == (None, None)


def test_the_kill_switch_holds_what_is_ready(installation: Installation, agent: str):
    """Until it is let go on; the pool says what it waits for."""
    scope = f"agent/default/{agent}"
    file = installation.write("chain.yaml", chain())
    stopped = installation.cli("budgets", "stop", scope, "--reason", "a leak")
    submitted = installation.cli(
        "submit", file, "--agent", agent, "--input", '{"name": "x"}', "--priority", "batch"
    )
    run = submitted.stdout.strip()

    def waiting() -> bool:
        (pool,) = [one for one in told(installation, "pools") if one["pool"] == "function"]
        return {"for": f"stopped/{scope}", "steps": 1} in pool["waiting"]

    wait_until(waiting, 60)
    shown = told(installation, "show", run)
    lines = installation.cli("show", run).stdout
    pools = installation.cli("pools", "function")
    allowed = installation.cli("budgets", "allow", scope)
    result = installation.cli("result", run, "--timeout-s", "60")

    assert f"STOPPED   by operator; go on with: hive-ray budgets allow {scope}" in stopped.stdout
    assert (shown["status"], shown["priority"], shown["attempts"]) == ("queued", "batch", 0)
    assert f"waiting for stopped/{scope}: 1" in pools.stdout
    assert f"step greet is ready and waits for stopped/{scope}" in lines
    assert "STOPPED" not in allowed.stdout
    assert "HELLO X" in result.stdout


def test_pools_rates_and_limits_change_live(installation: Installation, agent: str):
    """And go back to the configuration."""
    set_ = told(installation, "pools", "set", "llm", "--requests-per-minute", "60", "--usd-per-hour", "2.5")
    more = told(installation, "pools", "set", "llm", "--tokens-per-minute", "9000")
    lines = installation.cli("pools", "llm").stdout
    told(installation, "pools", "reset", "llm")
    rate = installation.cli("rates", "set", "model/down", "--requests-per-minute", "7")
    listed = installation.cli("rates")
    installation.cli("rates", "reset", "model/down")
    limit = installation.cli("limits", "set", f"agent/default/{agent}", "--runs", "2")
    limits = installation.cli("limits")
    told(installation, "limits", "reset", f"agent/default/{agent}")

    assert (set_["requests_per_minute"], set_["usd_per_hour"]) == (60, "2.5")
    assert (more["requests_per_minute"], more["tokens_per_minute"], more["usd_per_hour"]) == (60, 9000, "2.5")
    assert "limits: 60 requests/min, 9000 tokens/min, $2.5/hour (changed by operator)" in lines
    assert rate.stdout == "model/down           7 requests/min  (changed by operator)\n"
    assert "model/down" in listed.stdout
    assert "0 under way of 2, 0 waiting" in limit.stdout
    assert f"agent/default/{agent}" in limits.stdout


@pytest.fixture
def maintained(installation: Installation) -> Iterator[Installation]:
    yield installation
    installation.cli("maintenance", "off")


def test_maintenance_refuses_submissions_and_says_so(maintained: Installation):
    """Exit 2; afterwards they are accepted."""
    file = maintained.write("chain.yaml", chain())
    on = maintained.cli("maintenance", "on", "--reason", "a new disk")
    refused = maintained.cli("submit", file, "--input", '{"name": "x"}')
    off = maintained.cli("maintenance", "off")
    accepted = maintained.cli("submit", file, "--input", '{"name": "x"}')

    assert "maintenance on, begun by operator: nothing new is admitted" in on.stdout
    assert refused.returncode == 2
    assert "nothing new is admitted: operator has begun maintenance" in refused.stderr
    assert "maintenance off" in off.stdout
    assert accepted.returncode == 0


def test_a_configuration_is_compared_and_applied(installation: Installation, tmp_path: Path):
    """Exit 1 while it differs, 0 afterwards; what needs a restart is said, and is not applied."""
    config = yaml.safe_load(installation.config.read_text())
    file = installation.folder / "new.yaml"
    file.write_text(
        yaml.safe_dump(config | {"budgets": {"team/other": {"usd": 7}}, "limits": {"max_steps": 9}})
    )

    same = installation.cli("config", "diff")
    differs = installation.cli("config", "diff", file)
    applied = installation.cli("config", "apply", file)
    after = told(installation, "config")
    budget = told(installation, "budgets", "team/other")
    file.write_text(yaml.safe_dump(config | {"budgets": {"town/x": {"usd": 1}, "team/a": {}}, "rate": {}}))
    faulty = installation.cli("config", "apply", file)
    unchanged = told(installation, "config")
    installation.cli("config", "apply")

    assert (same.returncode, same.stdout) == (0, "equal to what is in force\n")
    assert differs.returncode == 1
    assert 'budgets.team/other.usd: none -> "7"' in differs.stdout
    assert "limits.max_steps: holds from the next start of the installation on" in differs.stdout
    assert applied.returncode == 0, applied.stderr
    assert (budget["limit_usd"], after["applied_by"]) == ("7", "operator")
    assert faulty.returncode == 2
    assert all(key in faulty.stderr for key in ("budgets.town/x", "budgets.team/a", "rate: unknown key"))
    assert unchanged["digest"] == after["digest"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("budgets", "town/x"), "no account is called 'town/x'"),
        (("budgets", "set", "team/x", "--usd", "much"), "valid decimal"),
        (("budgets", "set", "team/x", "--tokens", "few"), "--tokens: 'few' is no number"),
        (
            ("budgets", "set", "team/x", "--usd", "1", "--at-limit", "boom"),
            "'stop', 'pause_for_approval' or 'degrade'",
        ),
        (("pools", "llama"), "no pool llama; did you mean 'llm'?"),
        (("limits", "set", "pool/llm", "--runs", "1"), "has no runs"),
        (("approve", "r.1", "--usd", "much"), "--usd: 'much' is no amount"),
    ],
)
def test_faults_are_named(installation: Installation, words: tuple[str, ...], said: str):
    """Exit 2, without a traceback."""
    done = installation.cli(*words)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_faulty_file_is_refused_before_anything_is_asked(tmp_path: Path):
    """Also where nothing runs."""
    (tmp_path / "hive.yaml").write_text("budgets: {team/a: {usd: -1}}\nlimit: {}\n")

    done = hive_ray("config", "diff", cwd=tmp_path)

    assert done.returncode == 2
    assert "budgets.team/a.usd" in done.stderr
    assert "limit: unknown key (did you mean limits?)" in done.stderr


def test_an_estimate_is_printed_and_what_cannot_be_paid_is_refused(installation: Installation, agent: str):
    """Node by node; a submission that could never begin exits 2 with the budget's name."""
    graph = chain()
    for node in graph["nodes"]:
        node |= {"cost_usd": 0.25, "max_retries": 1}
    file = installation.write("paid.yaml", graph)
    scope = f"agent/default/{agent}"
    words = ("--agent", agent, "--input", '{"name": "x"}')
    told(installation, "budgets", "set", scope, "--usd", "0.75")
    estimate = installation.cli("estimate", file, *words, "--budget-usd", "2")
    told(installation, "budgets", "set", scope, "--usd", "0.2")
    refused = installation.cli("submit", file, *words)

    assert estimate.returncode == 0, estimate.stderr
    assert (
        "at worst $1, 0 tokens\nexpected $0.5, 0 tokens\nrun: carries the worst case now\n" in estimate.stdout
    )
    assert f"{scope}: carries what is expected now, not the worst case" in estimate.stdout
    assert refused.returncode == 2
    assert f"the budget {scope} has 0.2 USD in a window" in refused.stderr
