"""One Ray session for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.cluster import ray_session


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local Ray, ended after the file."""
    with ray_session():
        yield
