"""Time that passes only when it is told to."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

START_WALL_US = 1_700_000_000_000_000


class SimulatedClock:
    """A queue of what is to happen, in the order in which it is due; and both clocks of a machine.

    Attributes:
        mono_us: never goes back.
        wall_us: the same time by the wall clock, which ``jump`` sets.
    """

    def __init__(self, wall_us: int = START_WALL_US) -> None:
        self.mono_us = 1_000_000
        self._ahead_us = wall_us - self.mono_us
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    @property
    def wall_us(self) -> int:
        return self.mono_us + self._ahead_us

    def __len__(self) -> int:
        return len(self._due)

    def after(self, us: int, happens: Callable[[], None]) -> None:
        """Have something happen later; what is due at one time happens in the order of the calls."""
        heapq.heappush(self._due, (self.mono_us + us, next(self._order), happens))

    def jump(self, us: int) -> None:
        """Set the wall clock forward, or back; nothing else takes part."""
        self._ahead_us += us

    def stall(self, us: int) -> None:
        """Let time pass in which nothing happens: everything that was due is late."""
        self.mono_us += us

    def turn(self) -> bool:
        """Let the next thing happen; False if there is none."""
        if not self._due:
            return False
        due_us, _, happens = heapq.heappop(self._due)
        if due_us > self.mono_us:
            self.mono_us = due_us
        happens()
        return True

    def pass_time(self, us: int) -> None:
        """Let everything happen that is due within this time; it may be called while something happens."""
        until_us = self.mono_us + us
        while self._due and self._due[0][0] <= until_us:
            self.turn()
        self.mono_us = max(self.mono_us, until_us)
