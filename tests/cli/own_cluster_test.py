"""`run` where nothing runs yet: its own cluster, and what is left of one whose supervisor was killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from hive_ray.control.record import Place, carriers
from tests.http.installation import TOOLS, chain, hive_ray
from tests.servers.process import wait_until

pytestmark = pytest.mark.timeout(180)


def test_run_starts_a_cluster_and_down_ends_what_a_kill_left(tmp_path: Path):
    """The tools next to the graph are loaded; after SIGKILL of the supervisor `down` leaves nothing."""
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(chain()))

    ran = hive_ray("run", "graph.yaml", "--input", '{"name": "own"}', "--json", cwd=tmp_path)

    record = Place(tmp_path).running()
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["outputs"]["shouted"] == "HELLO OWN"
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: Place(tmp_path).running() is None)
    down = hive_ray("down", cwd=tmp_path)
    assert down.returncode == 0, down.stderr
    assert record.url in down.stdout
    assert list(carriers(record.token)) == []
    assert not any(Path(folder).exists() for folder in record.temporary)
    assert hive_ray("status", cwd=tmp_path).returncode == 2
