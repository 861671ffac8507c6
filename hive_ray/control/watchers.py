"""Calls that wait for news of a run, or for its end."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class _Entry(NamedTuple):
    since_us: int
    run: str
    call: int
    until_end: bool


class Watchers:
    """By run and by age; both ways of taking a call out are cheap when nobody watches."""

    def __init__(self) -> None:
        self._news: dict[str, dict[int, None]] = {}
        self._ends: dict[str, dict[int, None]] = {}
        self._ages: deque[_Entry] = deque()

    def add(self, run: str, call: int, until_end: bool, mono_us: int) -> None:
        """``call`` waits for any news of ``run``, or with ``until_end`` for its end only."""
        self._of(until_end).setdefault(run, {})[call] = None
        self._ages.append(_Entry(mono_us, run, call, until_end))

    def has(self, run: str) -> bool:
        """Whether somebody watches a run."""
        return run in self._news or run in self._ends

    def take(self, run: str, ended: bool) -> list[int]:
        """The calls that news of a run answer."""
        calls = list(self._news.pop(run, ())) if run in self._news else []
        if ended and run in self._ends:
            calls.extend(self._ends.pop(run))
        return calls

    def take_since(self, mono_us: int) -> list[tuple[str, int]]:
        """(run, call) of those that have waited since ``mono_us`` or longer."""
        old: list[tuple[str, int]] = []
        while self._ages and self._ages[0].since_us <= mono_us:
            entry = self._ages.popleft()
            calls = self._of(entry.until_end).get(entry.run)
            if calls is None or entry.call not in calls:
                continue
            del calls[entry.call]
            if not calls:
                del self._of(entry.until_end)[entry.run]
            old.append((entry.run, entry.call))
        return old

    def _of(self, until_end: bool) -> dict[str, dict[int, None]]:
        return self._ends if until_end else self._news
