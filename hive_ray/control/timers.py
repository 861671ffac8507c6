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


SPARE = 1_000
"""Entries beyond one a run that may lie in the heap before it is made anew."""


class Timers:
    """Two heaps: backoffs, which whoever takes one checks, and deadlines, of each run the last one set."""

    def __init__(self) -> None:
        self._backoffs: list[Backoff] = []
        self._deadlines: list[Deadline] = []
        """Those that count, and at most as many again that do not any more."""
        self._due: dict[str, int] = {}

    def __len__(self) -> int:
        """Entries that are kept."""
        return len(self._backoffs) + len(self._deadlines)

    def add_backoff(self, backoff: Backoff) -> None:
        heapq.heappush(self._backoffs, backoff)

    def add_deadline(self, deadline: Deadline) -> None:
        """Set a run's deadline in the place of the one that it has."""
        if self._due.get(deadline.run) == deadline.due_us:
            return
        self._due[deadline.run] = deadline.due_us
        heapq.heappush(self._deadlines, deadline)
        self._tidy()

    def drop_deadline(self, run: str) -> None:
        """Nothing is due in a run any more."""
        if self._due.pop(run, None) is not None:
            self._tidy()

    def _tidy(self) -> None:
        # Most runs end long before their deadline: a day's runs must not lie here until the day is over.
        if len(self._deadlines) > 2 * len(self._due) + SPARE:
            self._deadlines = [Deadline(due_us, run) for run, due_us in self._due.items()]
            heapq.heapify(self._deadlines)

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
            deadline = heapq.heappop(self._deadlines)
            if self._due.get(deadline.run) == deadline.due_us:
                del self._due[deadline.run]
                due.append(deadline)
        return due
