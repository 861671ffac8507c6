"""What goes wrong at a store: the two hooks of ``MemoryStore`` with chances of each fault."""

from __future__ import annotations

from random import Random

from hive_ray.errors import StoreError

WRITES = ("create", "put")


class Weather:
    """Faults of a store at the moment; ``before`` and ``after`` are its hooks.

    Attributes:
        error: chance that an operation fails without having happened.
        lost: chance that a write happens and its acknowledgement is lost.
        full: every write fails: no space is left.
        down: every operation fails.
    """

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.error = self.lost = 0.0
        self.full = self.down = False
        self.faults = {"error": 0, "lost_ack": 0, "full": 0, "down": 0}

    @property
    def calm(self) -> bool:
        return not (self.error or self.lost or self.full or self.down)

    def before(self, operation: str, name: str) -> None:
        """Fail before the operation."""
        if self.calm:
            return
        if self.down:
            self._fail("down", f"{name}: 503 Slow Down")
        if self.full and operation in WRITES:
            self._fail("full", f"{name}: no space left on device")
        if self.error and self.chance.random() < self.error:
            self._fail("error", f"{name}: 500 Internal Server Error")

    def after(self, operation: str, name: str) -> None:
        """Fail behind a write: it happened, and nobody is told."""
        if self.lost and operation in WRITES and self.chance.random() < self.lost:
            self._fail("lost_ack", f"{name}: connection reset while waiting for the answer")

    def _fail(self, fault: str, message: str) -> None:
        self.faults[fault] += 1
        raise StoreError(message)
