"""One installation for all tests of the command line that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http.installation import Installation
from tests.servers.process import free_port


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Real Ray, real Serve; its only model is at a port where nobody listens."""
    model = {
        "provider": "openai-compatible",
        "model": "none",
        "base_url": f"http://127.0.0.1:{free_port()}/v1",
        "input_usd_per_mtok": 0,
        "output_usd_per_mtok": 0,
        "timeout_s": 5,
    }
    with Installation(tmp_path_factory.mktemp("cli"), models={"down": model}) as running:
        yield running
