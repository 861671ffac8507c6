"""Two releases on one state, for real: `hive-ray up` of one, then of the other, with runs under way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hive_ray.client import Client
from hive_ray.errors import Conflict
from tests.golden import scenes
from tests.golden.releases import Release, install
from tests.golden.rollback_test import OLD
from tests.servers.aimock import AimockServer
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(900)
PATIENCE_S = 120.0


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    with AimockServer(scenes.MODEL, tmp_path) as model:
        made = Release(tmp_path, model.openai_url)
        try:
            yield made
        finally:
            made.down()


def _begin(client: Client, name: str, /, **values: Any) -> str:
    return client.submit(scenes.GRAPHS[name], input=values, agent=name).id


def _waits(client: Client, run: str) -> None:
    wait_until(lambda: client.run(run).status == "waiting", PATIENCE_S)


def _approve(client: Client, run: str) -> None:
    client.approve(client.approvals(run)[0]["approval_id"], {"approved": True})
    assert client.run(run).outcome(PATIENCE_S)["status"] == "succeeded"


def _files(release: Release) -> dict[str, bytes]:
    state = release.folder / "state"
    return {str(path): path.read_bytes() for path in sorted(state.rglob("*")) if path.is_file()}


def _costs(release: Release, *arguments: str) -> tuple[int, Any]:
    done = release.cli("costs", *arguments, "--json", code="")
    assert done.stderr == "", done.stderr
    return done.returncode, json.loads(done.stdout)


def test_there_and_back_again(release: Release, tmp_path: Path):
    """Runs begun by the old release go on here, and there again; after the upgrade only here."""
    old = install(OLD, tmp_path / "old")

    runs = _begun_by_the_old_release(release, old)
    runs["Eve"] = _moved_on_by_this_release(release, runs)
    _moved_on_by_the_old_release_again(release, old, runs)
    _upgraded(release, runs)
    _refused_by_the_old_release(release, old)

    client = release.up()
    _approve(client, runs["Cay"])
    (tmp_path / "go").touch()
    client.run(runs["Dee"]).signal("enough")
    ended = {name: client.run(run).outcome(PATIENCE_S)["status"] for name, run in runs.items()}
    assert set(ended.values()) == {"succeeded"}


def _begun_by_the_old_release(release: Release, old: Path) -> dict[str, str]:
    client = release.up(old)
    runs = {name: _begin(client, "asking", name=name) for name in ("Ann", "Ben", "Cay")}
    runs["Dee"] = _begin(client, "talking", name="Dee")
    for run in runs.values():
        _waits(client, run)
    runs["file"] = _begin(client, "running", name="go")
    release.kill()
    return runs


def _moved_on_by_this_release(release: Release, runs: dict[str, str]) -> str:
    """At level 1; one more run begins."""
    client = release.up()
    assert client.status()["feature_level"] == 1
    _approve(client, runs["Ann"])
    another = _begin(client, "asking", name="Eve")
    _waits(client, another)
    with pytest.raises(Conflict, match="hive-ray state upgrade"):
        client.post(f"/v1/runs/{another}/corrections", {"correction_id": "c", "amount_usd": "1"})
    release.down()
    return another


def _moved_on_by_the_old_release_again(release: Release, old: Path, runs: dict[str, str]) -> None:
    client = release.up(old)
    assert client.run(runs["Ann"]).status == "succeeded"
    _approve(client, runs["Ben"])
    _approve(client, runs["Eve"])
    assert client.run(runs["file"]).status == "running"
    release.kill()


def _upgraded(release: Release, runs: dict[str, str]) -> None:
    client = release.up()
    _upgrade(release, client)
    _correct(release, client, runs["Dee"])
    release.down()


def _refused_by_the_old_release(release: Release, old: Path) -> None:
    """Nothing is lost, since nothing is written."""
    before = _files(release)
    refused = release.cli("up", code=str(old))
    assert refused.returncode == 2
    assert "written by a newer release (format 2, this one reads 1)" in refused.stderr
    assert _files(release) == before


def _upgrade(release: Release, client: Client) -> None:
    """Asked about; then shown everywhere; a repeat changes nothing."""
    asked = release.cli("state", "upgrade", code="")
    assert asked.returncode == 2
    assert "the state stays at feature level 1" in asked.stderr
    raised = json.loads(release.cli("state", "upgrade", "--yes", "--json", code="").stdout)
    assert (raised["raised_from"], raised["feature_level"]) == (1, 2)
    assert client.status()["feature_level"] == client.get("/v1/state")["feature_level"] == 2
    again = release.cli("state", "upgrade", code="")
    assert (again.returncode, again.stdout) == (
        0,
        "the state is at feature level 2 already, the latest of this release\n",
    )


def _correct(release: Release, client: Client, run: str) -> None:
    """By hand, then by a bill: the ledger says what was billed, to the nano-dollar, and does so once."""
    cost = client.run(run).cost
    assert cost > 0
    given = ("--amount-usd", "0.25", "--reason", "billed twice", "--id", "hand")
    for _ in range(2):
        assert _costs(release, "correct", run, *given)[0] == 0
    assert client.run(run).cost == cost + Decimal("0.25")
    day = str(next(client.run(run).events())["time"])[:10]
    window = ("--model", "mock", "--from", day, "--to", "2999-01-01")
    bill = release.folder / "bill.csv"
    bill.write_text(f"date,model,cost_usd\n{day},mock,0.000123456\n")

    code, compared = _costs(release, "reconcile", str(bill), *window)
    assert code == 1
    assert compared["differences"][0]["billed_usd"] == "0.000123456"
    assert compared["corrections"] == []
    code, applied = _costs(release, "reconcile", str(bill), *window, "--apply")
    assert code == 0 and applied["corrections"]
    assert client.run(run).cost == Decimal("0.000123456") + Decimal("0.25")
    assert _costs(release, "reconcile", str(bill), *window) == (0, {"differences": [], "corrections": []})
