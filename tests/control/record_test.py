"""What an installation leaves behind, and how its user learns of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from hive_ray.control.record import Place, Record

GONE = Record(token="t" * 32, pid=2**22 + 1, start=1, url="http://127.0.0.1:1", ray_address="10.0.0.5:6379")


def down(folder: Path, record: Record) -> subprocess.CompletedProcess[str]:
    place = Place(folder)
    place.hive.mkdir()
    place.write(record)
    argv = [sys.executable, "-m", "hive_ray.cli", "down"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120)


def test_down_after_a_killed_supervisor_on_a_joined_cluster_says_how_to_end_its_actors(tmp_path: Path):
    """The cluster is not ours to end, and only somebody with its token may touch its actors."""
    said = down(tmp_path, msgspec.structs.replace(GONE, joined=True))

    assert said.returncode == 1
    assert "hive-ray up --address 10.0.0.5:6379 && hive-ray down" in said.stderr
    assert Place(tmp_path).read() is None


def test_down_after_a_killed_supervisor_of_its_own_cluster_leaves_nothing_to_say(tmp_path: Path):
    """All its processes were ours."""
    said = down(tmp_path, GONE)

    assert (said.returncode, said.stderr) == (0, "")
