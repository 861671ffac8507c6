"""Servers that count what reached them, in a file that outlives every crash of the sender.

Each effect is one JSON line, written before it is answered. While a server is *held* it has counted the
effect and does not answer: that is the moment in which the sender's death leaves the outcome unknown.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.process import ServerProcess, accepts, free_port


class EffectServer(ServerProcess):
    """A counting server in a process of its own; its folder holds the effects and the hold."""

    module: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._effects = folder / "effects.jsonl"
        self._hold = folder / "hold"
        argv = [sys.executable, "-m", self.module, str(self.port), str(folder)]
        super().__init__(argv, folder / "server.log")
        self.await_ready(lambda: accepts(self.port))

    def effects(self) -> list[dict[str, Any]]:
        """What arrived, in order."""
        if not self._effects.exists():
            return []
        # The last line may be half written: only what ends in a newline counts.
        lines = self._effects.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    @property
    def count(self) -> int:
        return len(self.effects())

    def hold(self) -> None:
        """From now on count and do not answer."""
        self._hold.touch()

    def release(self) -> None:
        """Answer what waits, and everything after."""
        self._hold.unlink(missing_ok=True)


class SmtpServer(EffectServer):
    """An SMTP server; an effect has ``sender``, ``recipients``, ``subject``, ``message_id`` and ``body``."""

    module = "tests.servers.smtp_main"


class CountingServer(EffectServer):
    """An HTTP server; ``POST /effects`` with ``Idempotency-Key`` is one effect, with ``key`` and ``body``."""

    module = "tests.servers.counting_main"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/effects"

    def counts(self) -> dict[str, int]:
        """How often each idempotency key arrived."""
        counts: dict[str, int] = {}
        for effect in self.effects():
            counts[effect["key"]] = counts.get(effect["key"], 0) + 1
        return counts
