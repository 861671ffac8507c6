"""The file in which a counting server writes what reached it; used inside the server's process."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

HOLD_POLL_S = 0.02


class EffectLog:
    """Append-only JSON lines in ``folder``; held while a file ``hold`` lies there."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "effects.jsonl").open("a", encoding="utf-8")
        self._hold = folder / "hold"
        self._lock = threading.Lock()

    def append(self, effect: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(effect) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def held(self) -> bool:
        return self._hold.exists()
