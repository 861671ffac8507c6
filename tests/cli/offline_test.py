"""Commands without an installation: how they are put into requests, and what they tell where nothing runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hive_ray import client as sdk
from hive_ray.cli import app, steering
from hive_ray.errors import Unavailable


class Recording:
    """In the place of a client: what is posted, and where."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []

    def run(self, run_id: str) -> sdk.Run:
        return sdk.Run(self, run_id)  # type: ignore[arg-type]

    def post(self, path: str, body: Any) -> dict[str, Any]:
        self.posted.append((path, body))
        return {"run_id": "new", "status": "running", "reason": ""}


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    found = Recording()

    @contextlib.contextmanager
    def client_of(*_: Any) -> Generator[Recording]:
        yield found

    monkeypatch.setattr(steering, "client_of", client_of)
    return found


@pytest.mark.parametrize("given", ["https://desk.example/x", ""])
def test_resume_may_say_where_the_end_of_the_new_run_is_told(recording: Recording, given: str):
    """Empty is nowhere; without the option it is where the parent's is told."""
    told = CliRunner().invoke(app, ["resume", "r", "--callback-url", given, "--json"])
    assert (told.exit_code, json.loads(told.stdout)["run_id"]) == (0, "new"), told.output
    CliRunner().invoke(app, ["resume", "r", "--json"])

    assert recording.posted == [("/v1/runs/r/resume", {"callback_url": given}), ("/v1/runs/r/resume", {})]


def test_a_callback_is_for_one_run(recording: Recording):
    told = CliRunner().invoke(app, ["resume", "--all", "--status", "failed", "--callback-url", "https://x"])

    assert (told.exit_code, recording.posted) == (2, [])
    assert "for one run" in told.output


HIVE_YAML = """
models:
  small: {provider: openai, model: x, input_usd_per_mtok: 1, output_usd_per_mtok: 2, max_tokens: 100}
policies:
  rules: [{id: no-mail, tools: [send], then: deny}]
"""
GRAPH = """
id: g
nodes: [{id: ask, node_type: llm_generate, model: small, prompt: "{x}", input_keys: [x], output_keys: [y]}]
entry_node: ask
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One in which nothing runs, with a configuration and a graph."""
    (tmp_path / "hive.yaml").write_text(HIVE_YAML)
    (tmp_path / "g.yaml").write_text(GRAPH)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*arguments: str) -> Any:
    told = CliRunner().invoke(app, [*arguments, "--json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


@pytest.mark.usefixtures("folder")
def test_an_estimate_needs_no_installation():
    """By the prices of hive.yaml; of the accounts only the run's own is known."""
    told = asked("estimate", "g.yaml", "-i", '{"x": "hello"}', "--budget-usd", "0.5")

    assert told["expected_usd"] is not None and float(told["worst_usd"]) > 0
    assert [(one["scope"], one["carries_worst"]) for one in told["accounts"]] == [("run", True)]
    assert "nothing runs here" in CliRunner().invoke(app, ["estimate", "g.yaml"]).stdout


def test_an_estimate_without_prices_is_refused(folder: Path):
    """A graph that costs nothing because nobody told what it costs would be a lie."""
    (folder / "hive.yaml").unlink()

    told = CliRunner().invoke(app, ["estimate", "g.yaml"])
    assert isinstance(told.exception, Unavailable)
    assert "no hive.yaml" in str(told.exception)


@pytest.mark.usefixtures("folder")
def test_the_rules_of_hive_yaml_are_told_where_nothing_runs():
    """With the built-in one behind them, as they would be in force."""
    rules = asked("policies", "list")

    assert [(rule["id"], rule["then"]) for rule in rules] == [
        ("no-mail", "deny"),
        ("destructive", "require_approval"),
    ]
    assert asked("policies", "show", "no-mail") == rules[0]
