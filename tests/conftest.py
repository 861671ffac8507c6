"""What every test may use: real servers in processes of their own, on free ports of loopback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers.aimock import AimockServer, Fixture
from tests.servers.effects import CountingServer, SmtpServer
from tests.servers.mcp import EverythingServer
from tests.servers.moto_s3 import MotoS3Server
from tests.servers.vault import VaultServer

# Before anything imports Ray: else ray.init writes a token into the home folder, and reports usage.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# A developer's own configuration must not reach the tests.
os.environ.pop("HIVE_RAY_CONFIG", None)

StartAimock = Callable[[Sequence[Fixture]], AimockServer]


@pytest.fixture
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartAimock]:
    """Start LLM servers with the fixtures that a test wants: ``aimock([text("hello")]).openai_url``."""
    with ExitStack() as servers:
        yield lambda fixtures: servers.enter_context(
            AimockServer(fixtures, tmp_path_factory.mktemp("aimock"))
        )


@pytest.fixture
def smtp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    """An SMTP server that has no mail yet."""
    with SmtpServer(tmp_path_factory.mktemp("smtp")) as server:
        yield server


@pytest.fixture
def counting_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    """An HTTP server that has counted nothing yet."""
    with CountingServer(tmp_path_factory.mktemp("counting")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoS3Server]:
    """One S3 server for the session; a test makes a bucket of its own."""
    with MotoS3Server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def mcp_everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EverythingServer]:
    """One MCP server on streamable HTTP for the session."""
    with EverythingServer(tmp_path_factory.mktemp("everything")) as server:
        yield server


@pytest.fixture
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    """A Vault whose transit engine has the key ``hive``."""
    with VaultServer(tmp_path_factory.mktemp("vault")) as server:
        yield server


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def hive_agents() -> Path:
    """The folder of exported Hive agents, which lies beside a checkout."""
    folder = Path(__file__).parents[1] / ".." / "shared" / "hive-agents"
    if not folder.is_dir():
        pytest.skip("no hive-agents folder beside this checkout")
    return folder.resolve()
