"""One installation for all tests of the HTTP face."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.http.installation import Installation


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Real Ray, real Serve, one replica."""
    with Installation(tmp_path_factory.mktemp("http")) as running:
        yield running


@pytest.fixture
def http(installation: Installation) -> Iterator[httpx2.Client]:
    """A plain HTTP client."""
    with httpx2.Client(base_url=installation.url, timeout=60) as client:
        yield client
