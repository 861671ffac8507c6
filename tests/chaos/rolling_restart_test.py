"""A second installation takes over while the first one, whose actors have the same names, still drains."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hive_ray.state.store import open_store
from tests.chaos.journal_reader import read_history
from tests.http.installation import Installation, hive_ray, single
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(300)

CLIENTS = 2


def sections(state: Path) -> dict[str, Any]:
    return {
        "state": {"url": state.as_uri()},
        "lease": {"heartbeat_s": 0.5, "stale_s": 20, "attach_grace_s": 3.0},
    }


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def old(tmp_path: Path, state: Path) -> Iterator[Installation]:
    (tmp_path / "old").mkdir()
    with Installation(tmp_path / "old", **sections(state)) as installation:
        yield installation


@pytest.fixture
def new(tmp_path: Path, state: Path) -> Iterator[Installation]:
    """Not started yet."""
    (tmp_path / "new").mkdir()
    installation = Installation(tmp_path / "new", **sections(state))
    yield installation
    hive_ray("down", cwd=installation.folder)


class Clients:
    """They submit to the old installation until it refuses, then to the new one."""

    def __init__(self, urls: list[str], file: Path) -> None:
        self._urls = urls
        graph = single("until", ["file"], ["found"])
        # Steps of the old one's workers are lost and repeated; slow machines need more than a try.
        graph["nodes"][0]["max_retries"] = 10
        self._body = {"graph": graph, "input": {"file": str(file)}}
        self.accepted: dict[str, set[str]] = {}
        self.done = threading.Event()
        self._threads = [threading.Thread(target=self._submit) for _ in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join()

    def _submit(self) -> None:
        while not self.done.wait(1.0):
            key = uuid.uuid4().hex
            while not any(self._accepted(url, key) for url in self._urls):
                threading.Event().wait(0.1)

    def _accepted(self, url: str, key: str) -> bool:
        try:
            answer = httpx2.post(
                f"{url}/v1/runs", json=self._body, headers={"Idempotency-Key": key}, timeout=5
            )
        except httpx2.HTTPError:
            return False
        if answer.status_code == 202:
            self.accepted.setdefault(key, set()).add(answer.json()["run_id"])
        return answer.status_code == 202


def ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def test_a_rolling_restart_keeps_every_accepted_run(
    old: Installation, new: Installation, state: Path, tmp_path: Path
):
    """Refused without --take-over; with it the old one answers until it is fenced, and never after."""
    go = tmp_path / "go"
    clients = Clients([old.url, new.url], go)
    clients.start()
    wait_until(lambda: len(clients.accepted) >= 2 * CLIENTS, 60)
    refused = hive_ray("up", cwd=new.folder)
    taken = hive_ray("up", "--take-over", cwd=new.folder)
    assert taken.returncode == 0, taken.stderr
    wait_until(lambda: not ready(old.url), 60)
    before = set(clients.accepted)
    wait_until(lambda: len(clients.accepted) >= len(before) + CLIENTS, 60)
    clients.join()
    go.touch()
    runs = [run for found in clients.accepted.values() for run in found]
    with httpx2.Client(base_url=new.url, timeout=60) as http:
        ends = [http.get(f"/v1/runs/{run}/result", params={"wait_s": 50}).json()["status"] for run in runs]
    history = read_history(open_store(state.as_uri()))

    assert refused.returncode == 2
    assert "--take-over" in refused.stderr
    assert {len(found) for found in clients.accepted.values()} == {1}
    assert set(ends) == {"succeeded"}
    assert history.ends() == {"RunSucceeded": len(runs)}
    assert [epoch.epoch for epoch in history.epochs] == [1, 2]
