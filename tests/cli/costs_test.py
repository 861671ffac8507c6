"""``hive-ray costs``: what needs nothing that runs; corrections themselves are made in ``tests/golden``."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.golden import scenes
from tests.golden.releases import expected, releases, unpack_state
from tests.http.installation import hive_ray

pytestmark = pytest.mark.timeout(120)
VERSION = releases()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ``hive.yaml`` with a model, and a state in which it was called."""
    model = {"provider": "openai-compatible", "model": "gpt-x", "base_url": "http://127.0.0.1:9/v1"}
    state = {"url": unpack_state(VERSION, tmp_path).as_uri()}
    config = {"state": state, "models": {"mock": model | scenes.PRICES}}
    (tmp_path / "hive.yaml").write_text(json.dumps(config))
    return tmp_path


def _reconcile(folder: Path, bill: str, *more: str, model: str = "mock") -> subprocess.CompletedProcess[str]:
    (folder / "bill.csv").write_text(bill)
    window = ("--from", "2026-01-01", "--to", "2026-12-31", "--model", model)
    return hive_ray("costs", "reconcile", "bill.csv", *window, *more, cwd=folder)


def _called() -> tuple[str, Decimal]:
    """The day on which the release's runs called their model, and what they were charged for it."""
    runs: list[dict[str, Any]] = [told["view"] for told in expected(VERSION).values()]
    talks = [run for run in runs if run["graph"] == "talking"]
    return talks[0]["submitted_at"][:10], sum((Decimal(run["cost_usd"]) for run in talks), Decimal(0))


def test_a_bill_that_agrees_says_so(folder: Path):
    """Exit 0; the provider's name of the model is known too."""
    day, cost = _called()

    done = _reconcile(folder, f"date,model,cost_usd\n{day},gpt-x,{cost}\n")

    assert (done.returncode, done.stdout) == (0, "charged and billed agree\n")


def test_differences_are_printed_and_nothing_is_written(folder: Path):
    """Exit 1; a day of which we know nothing is shown as that."""
    day, cost = _called()
    bill = f"date,cost_usd\n{day},{cost + 1}\n2026-01-02,3\n"

    done = _reconcile(folder, bill, "--json")
    shown = _reconcile(folder, bill)

    assert done.returncode == shown.returncode == 1
    told = json.loads(done.stdout)["differences"]
    assert [(line["group"], line["difference_usd"]) for line in told] == [("2026-01-02", "3"), (day, "1")]
    assert "no attempt of ours: nothing to correct" in shown.stdout


def test_small_differences_can_be_overlooked(folder: Path):
    """Providers round."""
    day, cost = _called()

    done = _reconcile(folder, f"date,cost_usd\n{day},{cost + Decimal('0.004')}\n", "--tolerance-usd", "0.005")

    assert done.returncode == 0


@pytest.mark.parametrize(
    ("bill", "more", "said"),
    [
        ("date,cost_usd\n2026-11-24,1\n2026-11-24,x\n", (), "bill.csv:3: cost_usd 'x' is no decimal number"),
        ("when,cost_usd\n", (), "bill.csv:1: has no column date"),
        ("", (), "bill.csv:1: has no column date and no column cost_usd"),
        ("date,cost_usd\n", ("--tolerance-usd", "little"), "--tolerance-usd: 'little' is no amount"),
        ("date,cost_usd\n", ("--to", "2025-12-31"), "--to: 2025-12-31 lies before 2026-01-01"),
        ("date,cost_usd\n", ("--from", "January"), "--from: 'January' is no day (YYYY-MM-DD)"),
        ("date,cost_usd\n", ("--model", "other"), "--model: no model other (models of hive.yaml: mock)"),
    ],
)
def test_faults_are_named(folder: Path, bill: str, more: tuple[str, ...], said: str):
    """By line or option, exit 2, without a traceback."""
    done = _reconcile(folder, bill, *more)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_correcting_needs_an_installation(folder: Path):
    """It is a command to the controller."""
    done = hive_ray("costs", "correct", "r", "--amount-usd", "1", "--reason", "why", cwd=folder)

    assert done.returncode == 2
    assert "nothing runs here" in done.stderr
