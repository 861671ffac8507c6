"""One installation for all tests of the HTTP face."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.http.installation import Installation

CANARY = "canary-of-a-model-7f3a"
"""The key of a model; pools of functions do not know it."""


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Real Ray, real Serve, one replica."""
    folder = tmp_path_factory.mktemp("http")
    (folder / "key.txt").write_text(CANARY)
    model = {"provider": "openai-compatible", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    model |= {"api_key": "file:key.txt", "input_usd_per_mtok": 0, "output_usd_per_mtok": 0}
    with Installation(folder, models={"m": model}) as running:
        yield running


@pytest.fixture
def http(installation: Installation) -> Iterator[httpx2.Client]:
    """A plain HTTP client."""
    with httpx2.Client(base_url=installation.url, timeout=60) as client:
        yield client
