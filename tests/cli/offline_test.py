"""Commands as they are put into requests, without an installation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from typing import Any

import pytest
from typer.testing import CliRunner

from hive_ray import client as sdk
from hive_ray.cli import app, steering


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
