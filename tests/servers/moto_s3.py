"""moto's S3 in a process of its own."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.servers.process import SCRIPTS, ServerProcess, accepts, free_port


class MotoS3Server(ServerProcess):
    """A running moto server; it forgets everything when it ends."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        argv = [str(SCRIPTS / "moto_server"), "--host", "127.0.0.1", "--port", str(port)]
        super().__init__(argv, folder / "moto.log")
        self.await_ready(lambda: accepts(port))

    def create_bucket(self, name: str) -> str:
        """Make a bucket and return its ``s3://`` URL."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"

    def options(self) -> dict[str, str]:
        """What an S3 client needs to talk to this server; moto takes any credentials."""
        return {
            "endpoint": self.url,
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
        }
