"""The whole cluster dies at once; a new one on the same state goes on with every run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from hive_ray.client import Client, connect
from hive_ray.control.launch import UpOptions, free_port, launch
from hive_ray.control.record import Record, carriers, end, place_of
from hive_ray.state.store import open_store
from tests.chaos.controller_kills_test import SLOTS
from tests.chaos.journal_reader import read_history
from tests.servers.effects import CountingServer
from tests.servers.process import wait_until

RUNS = 60
STEPS = 6
CONFIG = """\
http: {{port: {port}, ha_proxy: false}}
pools:
  function: {{slots: {slots}, num_cpus: 0.1}}
tools: {{modules: [tests.chaos.effects]}}
observe: {{log_level: ERROR}}
"""


def graph() -> dict[str, object]:
    names = [f"n{i}" for i in range(STEPS)]
    return {
        "id": "effects",
        "entry_node": names[0],
        "nodes": [
            {
                "id": name,
                "node_type": "function",
                "function": "count_idempotent_effect",
                "input_keys": ["item"],
                "output_keys": ["item"],
            }
            for name in names
        ],
        "edges": [
            {"id": f"e{i}", "source": a, "target": b, "condition": "on_success"}
            for i, (a, b) in enumerate(pairwise(names))
        ],
    }


def kill_all(record: Record) -> int:
    """SIGKILL every process of an installation, the supervisor first; returns how many there were."""
    killed = 0
    for pid in [record.pid, *carriers(record.token)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    wait_until(lambda: not list(carriers(record.token)), 20)
    return killed


def started_effects(client: Client, counting: CountingServer) -> bool:
    return counting.count >= RUNS


@pytest.mark.timeout(300)
def test_a_new_cluster_on_the_same_state_goes_on_with_every_run(
    tmp_path: Path, counting_http: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run is lost: those under way are retried where idempotent, and all succeed."""
    monkeypatch.setenv("EFFECTS_URL", counting_http.url)
    config = tmp_path / "hive.yaml"
    config.write_text(CONFIG.format(port=free_port(), slots=SLOTS))
    place = place_of(config)
    record = launch(place, UpOptions(str(config)))
    try:
        with connect(record.url) as client:
            client.register("effects", graph())
            runs = [client.submit(agent="effects", input={"item": "x"}).id for _ in range(RUNS)]
            wait_until(lambda: started_effects(client, counting_http), 60)
        assert kill_all(record) > 5
        begun = time.monotonic()
        record = launch(place, UpOptions(str(config)))
        print(f"a new cluster is ready after {time.monotonic() - begun:.1f} s")
        with connect(record.url) as client:
            results = [client.run(run).outcome(timeout_s=120) for run in runs]
    finally:
        end(place)
    history = read_history(open_store((tmp_path / ".hive" / "state").as_uri()))

    assert {result["status"] for result in results} == {"succeeded"}
    assert history.ends() == {"RunSucceeded": RUNS}
    assert len(history.epochs) == 2
    assert history.epochs[1].under_way > 0
    assert len(counting_http.counts()) == RUNS * STEPS
