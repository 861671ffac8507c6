"""A whole installation for tests: `hive-ray up` in a folder of its own, ended by `hive-ray down`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from hive_ray.client import Client
from hive_ray.control.record import Record, place_of
from tests.servers.process import free_port

TOOLS = """
import os
import time
from pathlib import Path

import hive_ray as hive

@hive.function(idempotent=True)
def greet(name: str):
    return {"greeting": f"hello {name}"}

@hive.function(idempotent=True)
def shout(greeting: str):
    return {"shouted": greeting.upper()}

@hive.function(idempotent=True)
def boom(name: str):
    raise ValueError(f"no {name} today")

@hive.function(idempotent=True)
def mend(file: str):
    if not Path(file).exists():
        raise ValueError(f"{file} is missing")
    return {"found": file}

@hive.function(idempotent=True)
def deadly(file: str):
    if not Path(file).exists():
        os._exit(1)
    return {"found": file}

@hive.function(idempotent=True, timeout_s=60)
def until(file: str):
    while not Path(file).exists():
        time.sleep(0.02)
    return {"found": file}
"""


def chain() -> dict[str, Any]:
    """Two functions in a row."""
    return {
        "id": "chain",
        "nodes": [
            _function("greet", ["name"], ["greeting"]),
            _function("shout", ["greeting"], ["shouted"]),
        ],
        "edges": [{"id": "e", "source": "greet", "target": "shout", "condition": "on_success"}],
    }


def single(name: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    """One function and nothing else."""
    return {"id": name, "nodes": [_function(name, inputs, outputs) | {"max_retries": 0}], "edges": []}


def mended(name: str = "mend") -> dict[str, Any]:
    """A greeting, then what fails until its file is there, then the greeting aloud."""
    edges = [("greet", name), (name, "shout")]
    return {
        "id": f"greet-{name}",
        "nodes": [
            _function("greet", ["name"], ["greeting"]),
            _function(name, ["file"], ["found"]) | {"max_retries": 0},
            _function("shout", ["greeting"], ["shouted"]),
        ],
        "edges": [
            {"id": f"e{n}", "source": source, "target": target, "condition": "on_success"}
            for n, (source, target) in enumerate(edges)
        ],
    }


def asking() -> dict[str, Any]:
    """A greeting that a person approves."""
    human = {
        "id": "check",
        "node_type": "human_input",
        "input_keys": ["greeting"],
        "output_keys": ["approved", "feedback"],
        "approval": {"reason": "Is this polite?"},
    }
    return {
        "id": "asking",
        "nodes": [_function("greet", ["name"], ["greeting"]), human],
        "edges": [{"id": "e", "source": "greet", "target": "check", "condition": "on_success"}],
    }


def _function(name: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "node_type": "function",
        "function": name,
        "input_keys": inputs,
        "output_keys": outputs,
    }


def hive_ray(*arguments: str | Path, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Call the command line as a user would."""
    argv = [sys.executable, "-m", "hive_ray.cli", *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, input=given, capture_output=True, text=True, timeout=110)


class Installation:
    """`hive-ray up` with those sections of ``hive.yaml``; the default proxy, which starts faster."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        http: dict[str, Any] = {"port": free_port(), "ha_proxy": False, **sections.pop("http", {})}
        self.port = http["port"]
        (folder / "tools.py").write_text(TOOLS)
        settings: dict[str, Any] = {"http": http, "tools": {"modules": ["tools.py"]}, **sections}
        (folder / "hive.yaml").write_text(yaml.safe_dump(settings))
        self.config = folder / "hive.yaml"

    def __enter__(self) -> Self:
        started = hive_ray("up", cwd=self.folder)
        assert started.returncode == 0, started.stderr
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hive_ray("down", cwd=self.folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def record(self) -> Record:
        record = place_of(self.config).running()
        assert record is not None
        return record

    def client(self) -> Client:
        return Client(self.url)

    def cli(self, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        return hive_ray(*arguments, cwd=self.folder, given=given)

    def write(self, name: str, graph: dict[str, Any]) -> Path:
        file = self.folder / name
        file.write_text(yaml.safe_dump(graph))
        return file
