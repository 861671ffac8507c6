"""Golden releases: their wheels, what they left behind, and installations that run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hive_ray.client import Client
from hive_ray.control.record import carriers, end, place_of
from tests.golden import scenes
from tests.servers.process import free_port, wait_until

GOLDEN = Path(__file__).parent
STATE = "state.tar.gz"
EXPECTED = "expected.json"
THIS = ""
"""Names the release of this checkout where a folder of code is asked for."""


def releases() -> list[str]:
    """Versions that have golden files, oldest first."""
    found = [folder.name for folder in GOLDEN.iterdir() if (folder / EXPECTED).exists()]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def wheel_of(version: str) -> Path:
    (wheel,) = (GOLDEN / version).glob("*.whl")
    return wheel


def install(version: str, target: Path) -> Path:
    """Put a release's own code into a folder; what it depends on comes from this environment."""
    uv = Path(sys.executable).with_name("uv")
    argv = [uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--no-index", "--target", target]
    subprocess.run([*argv, wheel_of(version)], check=True, timeout=120)
    return target


def unpack_state(version: str, folder: Path) -> Path:
    """A writable copy of the state that a release left behind."""
    with tarfile.open(GOLDEN / version / STATE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "state"


def expected(version: str) -> dict[str, Any]:
    """What the release itself said of its runs: by run id ``view``, ``result`` and ``events`` (kinds)."""
    return json.loads((GOLDEN / version / EXPECTED).read_text("utf-8"))


class Release:
    """An installation of some release in a folder: `hive-ray up`, with that release's code.

    Args:
        code: folder of an installed release; ``THIS`` runs what is checked out.
    """

    def __init__(self, folder: Path, model_url: str = "http://127.0.0.1:9/v1", **sections: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "hive.yaml"
        self._code = THIS
        model = {"provider": "openai-compatible", "model": "mock", "base_url": model_url, **scenes.PRICES}
        settings = {
            "http": {"port": self.port, "ha_proxy": False},
            "state": {"url": (folder / "state").as_uri()},
            "tools": {"modules": ["tools.py"]},
            "models": {"mock": model},
            "lease": {"attach_grace_s": 2},
            **sections,
        }
        (folder / "tools.py").write_text(scenes.TOOLS, "utf-8")
        self.config.write_text(yaml.safe_dump(settings), "utf-8")

    def cli(self, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        """Call that release's command line."""
        argv = [sys.executable, "-P", "-m", "hive_ray.cli", *arguments]
        code = self._code if code is None else code
        env = {**os.environ, "PYTHONPATH": code} if code else dict(os.environ)
        return subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, timeout=150)

    def up(self, code: str | Path = THIS) -> Client:
        """Start it with that code."""
        self._code = str(code)
        started = self.cli("up")
        assert started.returncode == 0, started.stderr
        return Client(f"http://127.0.0.1:{self.port}")

    def down(self) -> None:
        end(place_of(self.config))

    def kill(self) -> None:
        """SIGKILL every process of it, the supervisor first."""
        record = place_of(self.config).running()
        assert record is not None
        for pid in [record.pid, *carriers(record.token)]:
            _kill(pid)
        wait_until(lambda: not list(carriers(record.token)), 20)


def _kill(pid: int) -> None:
    import signal
    from contextlib import suppress

    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def told_of(client: Client, runs: Sequence[str]) -> dict[str, Any]:
    """What an installation says of its runs, but for the time that passes."""
    told: dict[str, Any] = {}
    for run_id in runs:
        run = client.run(run_id)
        told[run_id] = {
            "view": run.show(),
            "result": run.outcome(0),
            "events": [event["kind"] for event in run.events()],
        }
    return told
