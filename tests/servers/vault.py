"""A server that speaks Vault's transit API, in a process of its own, with switches for what goes wrong."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

from tests.servers.process import ServerProcess, accepts, free_port
from tests.servers.vault_main import SEED

SWITCHES = ("expired", "forbidden", "sealed", "hold")


class VaultServer(ServerProcess):
    """Its keys and its token lie in the folder, so that a second server there is the same Vault again.

    Switches: ``expired`` (every token), ``forbidden`` (the token lives and may not), ``sealed`` (503),
    ``hold`` (no answer at all).
    """

    def __init__(self, folder: Path, port: int = 0, keys: tuple[str, ...] = ("hive",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.token = "hvs." + secrets.token_hex(12)
        (folder / "token").write_text(self.token)
        (folder / "keys").write_text("\n".join(keys))
        if not (folder / SEED).exists():
            (folder / SEED).write_text(secrets.token_hex(16))
        argv = [sys.executable, "-m", "tests.servers.vault_main", str(self.port), str(folder)]
        super().__init__(argv, folder / "server.log")
        self.await_ready(lambda: accepts(self.port))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def switch(self, name: str, on: bool = True) -> None:
        assert name in SWITCHES
        file = self.folder / name
        file.touch() if on else file.unlink(missing_ok=True)

    def calls(self) -> list[str]:
        """Paths that were asked for, in order."""
        file = self.folder / "calls.jsonl"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        return [json.loads(line)["path"] for line in lines]
