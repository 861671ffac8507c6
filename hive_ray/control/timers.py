"""Due times as data: the shell is told the time, and takes from here what has come due."""

from __future__ import annotations

import heapq
from typing import NamedTuple


class Backoff(NamedTuple):
    """A step may be tried again (monotonic clock)."""

    due_us: int
    run: str
    serial: int
    call: int


class Deadline(NamedTuple):
    """Something in a run is due by the wall clock: a wait, or the run itself."""

    due_us: int
    run: str


class Timers:
    """Two heaps; entries are never removed early, so whoever takes one checks that it still holds."""

    def __init__(self) -> None:
        self._backoffs: list[Backoff] = []
        self._deadlines: list[Deadline] = []

    def add_backoff(self, backoff: Backoff) -> None:
        heapq.heappush(self._backoffs, backoff)

    def add_deadline(self, deadline: Deadline) -> None:
        heapq.heappush(self._deadlines, deadline)

    def due_backoffs(self, mono_us: int, most: int) -> list[Backoff]:
        """At most ``most`` backoffs that are over, oldest first."""
        due: list[Backoff] = []
        while self._backoffs and self._backoffs[0].due_us <= mono_us and len(due) < most:
            due.append(heapq.heappop(self._backoffs))
        return due

    def due_deadlines(self, wall_us: int, most: int) -> list[Deadline]:
        """At most ``most`` deadlines that have passed, oldest first."""
        due: list[Deadline] = []
        while self._deadlines and self._deadlines[0].due_us <= wall_us and len(due) < most:
            due.append(heapq.heappop(self._deadlines))
        return due
