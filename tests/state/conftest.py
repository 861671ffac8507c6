"""Stores of all three kinds, with faults, and a real S3 server process."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hive_ray.state.memory_store import forget_memory
from hive_ray.state.owner import Owner
from hive_ray.state.store import Store, open_store
from tests.state.faults import S3_OPTIONS

_SERIAL = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server in a process of its own, with one bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/state", method="PUT"), timeout=10).close()
        yield endpoint
    finally:
        server.kill()
        server.wait()


def _wait_for(endpoint: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture(params=["file", "memory", "s3"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same state again and again, as several processes would."""
    name = f"t{next(_SERIAL)}"
    if request.param == "file":
        yield lambda: open_store(f"file://{tmp_path}/state")
    elif request.param == "memory":
        yield lambda: open_store(f"memory://{name}")
        forget_memory(name)
    else:
        endpoint = request.getfixturevalue("s3_endpoint")
        yield lambda: open_store(f"s3://state/{name}", options={**S3_OPTIONS, "endpoint": endpoint})


@pytest.fixture
def store(opener: Callable[[], Store]) -> Iterator[Store]:
    """One store of each kind."""
    opened = opener()
    yield opened
    opened.close()


@pytest.fixture
def owner() -> Owner:
    """A controller's process that is none of ours."""
    return Owner(4242, "node-1", "elsewhere", "boot-1", 777, "cluster-1", 1_700_000_000_000_000)
