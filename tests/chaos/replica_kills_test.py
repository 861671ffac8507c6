"""The HTTP face dies or stands still under submissions with idempotency keys."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hive_ray.control.record import carriers
from tests.http.installation import Installation, chain
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(300)

ROUNDS = int(os.environ.get("HIVE_CHAOS_ROUNDS", "1"))
CLIENTS = 8
EACH = 4
"""Keys of one client."""
STANDSTILL_S = 2.0


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("replicas")) as running:
        yield running


def replicas(installation: Installation) -> list[int]:
    """Processes that serve requests."""
    found = [pid for pid in carriers(installation.record.token) if b"ServeReplica" in title(pid)]
    assert found, "no replica runs"
    return found


def title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Crowd:
    """Clients that submit under keys of their own, each until it has its 202."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.accepted: dict[str, set[str]] = {}
        """Run ids that a key was answered with."""
        self.repeats = 0
        self._lock = threading.Lock()

    def work(self) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._client, range(CLIENTS)))

    def _client(self, _number: int) -> None:
        for _ in range(EACH):
            key = uuid.uuid4().hex
            while not self._submitted(key):
                self.repeats += 1
            # Also what was answered may be asked again.
            self._submitted(key)

    def _submitted(self, key: str) -> bool:
        body = {"graph": chain(), "input": {"name": key}}
        headers = {"Idempotency-Key": key}
        try:
            answer = httpx2.post(f"{self.url}/v1/runs", json=body, headers=headers, timeout=10)
        except httpx2.HTTPError:
            return False
        if answer.status_code != 202:
            assert answer.status_code >= 429, answer.text
            return False
        with self._lock:
            self.accepted.setdefault(key, set()).add(answer.json()["run_id"])
        return True


def killed(installation: Installation) -> None:
    before = replicas(installation)
    for pid in before:
        os.kill(pid, signal.SIGKILL)


def stopped(installation: Installation) -> None:
    before = replicas(installation)
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(STANDSTILL_S)
    for pid in before:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("trouble", [killed, stopped])
def test_every_202_is_a_run_and_no_key_has_two(
    installation: Installation, trouble: Callable[[Installation], None]
):
    """Whatever a client had to repeat: one key, one run, and every run ends."""
    for _ in range(ROUNDS):
        crowd = Crowd(installation.url)
        submitting = threading.Thread(target=crowd.work)
        submitting.start()
        wait_until(lambda crowd=crowd: len(crowd.accepted) >= CLIENTS, 60)
        trouble(installation)
        submitting.join()
        ends = results(installation, crowd)

        assert len(crowd.accepted) == CLIENTS * EACH
        assert {len(runs) for runs in crowd.accepted.values()} == {1}
        assert ends == {("succeeded", key.upper()): 1 for key in names(crowd)}


def names(crowd: Crowd) -> list[str]:
    return [f"hello {key}" for key in crowd.accepted]


def results(installation: Installation, crowd: Crowd) -> Counter[tuple[str, str]]:
    """How the runs of these keys ended, and what they say: by the list of all runs, whatever clients know."""
    ends: Counter[tuple[str, str]] = Counter()
    with httpx2.Client(base_url=installation.url, timeout=60) as http:
        runs = [run["run_id"] for run in listed(http)]
        for run in runs:
            answer = http.get(f"/v1/runs/{run}/result", params={"wait_s": 30}).json()
            shouted = answer["outputs"]["shouted"]
            if shouted.removeprefix("HELLO ").lower() in crowd.accepted:
                ends[answer["status"], shouted] += 1
    return ends


def listed(http: httpx2.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        page = http.get("/v1/runs", params={"limit": 1000, "before": before}).json()
        found += page["runs"]
        before = page["next_before"]
        if not before:
            return found
