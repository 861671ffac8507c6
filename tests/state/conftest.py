"""Stores of all three kinds, with faults, and a real S3 server process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hive_ray.state.memory_store import forget_memory
from hive_ray.state.owner import Owner
from hive_ray.state.store import Store, open_store
from tests.servers.moto_s3 import MotoS3Server
from tests.state.faults import S3_OPTIONS

_SERIAL = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint(moto_s3: MotoS3Server) -> str:
    """An S3 server with the bucket ``state``."""
    moto_s3.create_bucket("state")
    return moto_s3.url


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
