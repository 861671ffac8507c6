"""What the tests with real kills share: a seed that is printed, and an S3 server that may be stopped."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cluster import ray_session
from tests.servers.effects import CountingServer
from tests.servers.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    """Counts the effects of every run; the keys begin with the run's id."""
    with CountingServer(tmp_path_factory.mktemp("counting")) as server:
        yield server


@pytest.fixture(scope="module")
def gate_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, gated effects stop right before they happen."""
    return tmp_path_factory.mktemp("gate") / "closed"


@pytest.fixture(scope="module")
def ray_cluster(counting: CountingServer, gate_file: Path) -> Iterator[None]:
    """A local Ray, ended after the file; its workers find the counting server and the gate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFECTS_URL", counting.url)
        patch.setenv("EFFECTS_GATE", str(gate_file))
        with ray_session():
            yield


@pytest.fixture
def seed() -> int:
    """What chance rests on; `HIVE_SEED` repeats one."""
    seed = int(os.environ.get("HIVE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    return seed


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """The S3 server of this session: moto, or what `HIVE_TEST_S3` names."""
    # Not pytest's folder: names of sockets are limited to 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="hive-s3-", ignore_cleanup_errors=True) as folder,
        s3_server(Path(folder)) as server,
    ):
        yield server
