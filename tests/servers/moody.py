"""A server that people stop, start and slow down: a CRM and an LLM (``moody_main``)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from tests.servers.process import ServerProcess, accepts


class MoodyServer(ServerProcess):
    """A running one. Its folder outlives it: what it counted, and how slow it is."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        if not (folder / "latency_ms").exists():
            self.take(200)
        argv = [sys.executable, "-m", "tests.servers.moody_main", str(port), str(folder)]
        super().__init__(argv, folder / "moody.log")
        self.await_ready(lambda: accepts(port))

    def take(self, latency_ms: int) -> None:
        """From now on LLM calls of the model ``large`` take so long; others 50 ms."""
        file = self._folder / "latency_ms.new"
        file.write_text(str(latency_ms))
        file.rename(self._folder / "latency_ms")


def effects(folder: Path) -> Counter[str]:
    """How often each idempotency key arrived."""
    file = folder / "effects.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter(json.loads(line)["key"] for line in lines)
