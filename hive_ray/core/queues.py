"""The line of steps that are ready for a pool: by priority class, in a class by team, in a team in order.

Teams of a class share by weight: each has a *pass* that grows by its stride whenever a step of it is taken,
and the lowest pass is next (stride scheduling: Waldspurger and Weihl, 1995). A team that comes back does not
make up for the time of its absence. Steps that wait for something that others hold stand aside, by the name
of what they wait for, until it is released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from heapq import heappop, heappush, heapreplace

from hive_ray.core.plan import CLASSES

StepRef = tuple[str, int, int]
"""(run, serial, call)."""

RELIEF = 16
"""Every so many takings go to the lowest class that waits: none starves."""
ONE_WEIGHT = 1 << 20
"""Stride of weight 1."""


class Line:
    """The steps of one team in one class."""

    __slots__ = ("entered", "passed", "place", "steps", "team")

    def __init__(self, team: str, place: int) -> None:
        self.team = team
        self.place = place
        """Order of teams with equal passes: who came first."""
        self.passed = 0
        self.steps: deque[StepRef] = deque()
        self.entered = False
        """It stands in its class' heap."""


class _Class:
    """The lines of one priority class."""

    __slots__ = ("floor", "heap", "lines")

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.heap: list[tuple[int, int, Line]] = []
        self.floor = 0
        """The pass that was served last: who comes back begins there."""

    def line(self, team: str) -> Line:
        line = self.lines.get(team)
        if line is None:
            line = self.lines[team] = Line(team, len(self.lines))
        return line

    def enter(self, line: Line) -> None:
        if not line.entered:
            line.entered = True
            line.passed = max(line.passed, self.floor)
            heappush(self.heap, (line.passed, line.place, line))

    def head(self) -> Line | None:
        """The line that is next, if any has steps."""
        heap = self.heap
        while heap:
            line = heap[0][2]
            if line.steps:
                return line
            heappop(heap)
            line.entered = False
        return None

    def charge(self, line: Line, stride: int) -> None:
        """The head was served."""
        self.floor = line.passed
        line.passed += stride
        entry = (line.passed, line.place, line)
        if len(self.heap) > 1:
            heapreplace(self.heap, entry)
        else:
            self.heap[0] = entry


Taken = tuple[StepRef, int, Line]
"""A step with the class and the line that it was taken from."""


class Queue:
    """All steps that are ready for one pool.

    Args:
        weights: of teams; one that is not named has weight 1.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        self._classes = tuple(_Class() for _ in CLASSES)
        self._takings = 0
        self._aside: dict[str, deque[Taken]] = {}
        self._kept_by: dict[StepRef, str] = {}
        """What each of them waits for."""
        self.aside = 0
        """Steps that wait for something that others hold."""
        self.ready = 0
        """Steps that wait for nothing but a worker, stale entries included."""

    def __len__(self) -> int:
        return self.ready + self.aside

    def __iter__(self) -> Iterator[StepRef]:
        """Every entry, in no particular order."""
        for one in self._classes:
            for line in one.lines.values():
                yield from line.steps
        for entries in self._aside.values():
            yield from (ref for ref, _, _ in entries)

    def count(self, ref: StepRef) -> int:
        """How often a step stands here."""
        ready = sum(line.steps.count(ref) for one in self._classes for line in one.lines.values())
        aside = sum(entry == ref for entries in self._aside.values() for entry, _, _ in entries)
        return ready + aside

    def put(self, ref: StepRef, team: str, priority: int) -> None:
        one = self._classes[priority]
        line = one.line(team)
        line.steps.append(ref)
        one.enter(line)
        self.ready += 1

    def take_of(self, teams: Container[str]) -> Taken | None:
        """The next step of some teams, out of turn."""
        for priority, one in enumerate(self._classes):
            lines = [line for line in one.lines.values() if line.steps and line.team in teams]
            if lines:
                line = min(lines, key=lambda line: (line.passed, line.place))
                line.passed += self._stride(line)
                self.ready -= 1
                return line.steps.popleft(), priority, line
        return None

    def teams(self) -> set[str]:
        """Those that have a step ready."""
        return {line.team for one in self._classes for line in one.lines.values() if line.steps}

    def take(self) -> Taken | None:
        """The next step."""
        if not self.ready:
            return None
        # Now and then the last class goes first.
        relief = self._takings % RELIEF == RELIEF - 1
        for priority in _LAST_FIRST if relief else _FIRST_FIRST:
            one = self._classes[priority]
            line = one.head() if one.heap else None
            if line is not None:
                one.charge(line, self._stride(line))
                self._takings += 1
                self.ready -= 1
                return line.steps.popleft(), priority, line
        return None

    def put_back(self, taken: Taken) -> None:
        """Return a step to the head of its line, as if it had not been taken."""
        ref, priority, line = taken
        line.steps.appendleft(ref)
        line.passed -= self._stride(line)
        self._classes[priority].enter(line)
        self.ready += 1

    def set_aside(self, resource: str, taken: Taken) -> None:
        """It was taken, and waits for something that others hold."""
        taken[2].passed -= self._stride(taken[2])
        self._aside.setdefault(resource, deque()).append(taken)
        self._kept_by[taken[0]] = resource
        self.aside += 1

    def wake(self, resource: str, most: int) -> int:
        """Let the first of those that wait for something try again; how many did."""
        entries = self._aside.get(resource)
        if not entries:
            return 0
        count = min(most, len(entries))
        woken = [entries.popleft() for _ in range(count)]
        if not entries:
            del self._aside[resource]
        self.aside -= count
        for ref, priority, line in reversed(woken):
            self._kept_by.pop(ref, None)
            line.steps.appendleft(ref)
            self._classes[priority].enter(line)
        self.ready += count
        return count

    def awaited(self) -> list[str]:
        """What steps wait for."""
        return list(self._aside)

    def awaiting(self) -> dict[str, int]:
        """How many steps wait for what."""
        return {resource: len(entries) for resource, entries in self._aside.items()}

    def kept_by(self, ref: StepRef) -> str:
        """What a step waits for; empty: a worker."""
        return self._kept_by.get(ref, "")

    def remove(self, ref: StepRef, team: str, priority: int) -> None:
        """Take a step out, wherever it stands."""
        line = self._classes[priority].line(team)
        try:
            line.steps.remove(ref)
        except ValueError:
            self._remove_aside(ref)
        else:
            self.ready -= 1

    def _remove_aside(self, ref: StepRef) -> None:
        for resource, entries in self._aside.items():
            found = next((entry for entry in entries if entry[0] == ref), None)
            if found is not None:
                entries.remove(found)
                self._kept_by.pop(ref, None)
                self.aside -= 1
                if not entries:
                    del self._aside[resource]
                return
        raise ValueError(f"step {ref} does not stand in line")

    def prune(self, alive: Callable[[StepRef], bool]) -> None:
        """Take out entries that mean nothing any more."""
        for one in self._classes:
            for line in one.lines.values():
                line.steps = deque(ref for ref in line.steps if alive(ref))
        for resource in list(self._aside):
            kept = deque(entry for entry in self._aside[resource] if alive(entry[0]))
            self._aside[resource] = kept
            if not kept:
                del self._aside[resource]
        self._kept_by = {e[0]: name for name, entries in self._aside.items() for e in entries}
        self.aside = sum(len(entries) for entries in self._aside.values())
        self.ready = sum(len(line.steps) for one in self._classes for line in one.lines.values())

    def lengths(self) -> dict[tuple[str, str], int]:
        """Ready steps by class and team."""
        return {
            (CLASSES[priority], line.team): len(line.steps)
            for priority, one in enumerate(self._classes)
            for line in one.lines.values()
            if line.steps
        }

    def _stride(self, line: Line) -> int:
        return ONE_WEIGHT // self._weights.get(line.team, 1)


_FIRST_FIRST = tuple(range(len(CLASSES)))
_LAST_FIRST = _FIRST_FIRST[::-1]
