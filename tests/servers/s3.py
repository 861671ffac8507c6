"""S3 servers as settings see them: which one a run of the tests uses, and its `state` section."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.servers.ceph_s3 import CephS3Server
from tests.servers.moto_s3 import MotoS3Server

SERVER_VARIABLE = "HIVE_TEST_S3"
"""``moto`` (the default) or ``ceph``."""


class S3Server(Protocol):
    """What the servers have in common."""

    url: str

    @property
    def pid(self) -> int: ...

    def create_bucket(self, name: str) -> str: ...

    def options(self) -> dict[str, str]: ...


@contextmanager
def s3_server(folder: Path, name: str = "") -> Generator[S3Server]:
    """The server of that name, or the one that the environment asks for."""
    name = name or os.environ.get(SERVER_VARIABLE, "moto")
    made = {"moto": MotoS3Server, "ceph": CephS3Server}[name](folder)
    with made as server:
        yield server


def state_section(server: S3Server, bucket: str, folder: Path, endpoint: str = "") -> dict[str, Any]:
    """The `state` settings for a bucket of that server, perhaps through a proxy; keys are in files."""
    options = server.options() | ({"endpoint": endpoint} if endpoint else {})
    for name in ("access_key_id", "secret_access_key"):
        file = folder / name
        file.touch(0o600)
        file.write_text(options[name])
        options[name] = f"file:{file}"
    return {"url": f"{bucket}/hive", "options": options}
