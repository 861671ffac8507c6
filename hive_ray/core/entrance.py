"""Runs that may be under way at a time, by team and agent: those above the limit wait at the entrance.

A run counts while something of it, or of a child run, is under way. One that waits for people, a client or an
operator does not, and goes on at once when it is answered, even if others have taken its place meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

from hive_ray.core.plan import CLASSES, InForce
from hive_ray.core.run import Run, is_waiting

Line = tuple[str, str]
"""Runs of one team and agent share their limits: (team, agent)."""


class Entrance:
    """Who is under way, and who waits to begin. An index, made again by ``rebuild``."""

    def __init__(self) -> None:
        self._under_way: dict[str, dict[str, None]] = {}
        self._scopes: dict[str, tuple[str, ...]] = {}
        """Of the runs that are under way."""
        self._waiting: tuple[dict[Line, dict[str, None]], ...] = tuple({} for _ in CLASSES)
        """Run ids by class and line, in order of submission."""
        self._places: dict[str, tuple[int, Line]] = {}
        """Where each of those that wait stands."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._places

    def under_way(self) -> dict[str, int]:
        """Runs under way by team and agent."""
        return {scope: len(runs) for scope, runs in self._under_way.items()}

    def waiting(self) -> dict[str, dict[str, int]]:
        """Runs that wait to begin, by team and agent, and there by priority class."""
        found: dict[str, dict[str, int]] = {}
        for name, lines in zip(CLASSES, self._waiting, strict=True):
            for line, runs in lines.items():
                for scope in scopes_of(*line):
                    told = found.setdefault(scope, {})
                    told[name] = told.get(name, 0) + len(runs)
        return found

    def keeping(self, force: InForce, team: str, agent: str) -> str:
        """The team or agent that has as many runs under way as it may; empty: another one may begin."""
        for scope in scopes_of(team, agent):
            limit = force.runs(scope)
            if limit and len(self._under_way.get(scope, ())) >= limit:
                return scope
        return ""

    def wait(self, run: Run) -> None:
        """It was accepted, and may not begin yet."""
        line = (run.team, run.agent)
        self._waiting[run.priority].setdefault(line, {})[run.id] = None
        self._places[run.id] = (run.priority, line)

    def let_in(self, force: InForce) -> str:
        """The next run that may begin; empty if there is none. It waits no longer."""
        for lines in self._waiting:
            for line, runs in lines.items():
                if not self.keeping(force, *line):
                    run_id = next(iter(runs))
                    self._take_out(run_id)
                    return run_id
        return ""

    def _take_out(self, run_id: str) -> None:
        priority, line = self._places.pop(run_id)
        runs = self._waiting[priority][line]
        del runs[run_id]
        if not runs:
            del self._waiting[priority][line]

    def note(self, run: Run, known: Mapping[str, Run]) -> bool:
        """A root run was moved on; whether a place has become free.

        Args:
            known: runs in memory.
        """
        if run.terminal and run.id in self._places:
            self._take_out(run.id)
        busy = run.begun and not run.terminal and not is_waiting(run, known)
        if busy and run.id not in self._scopes:
            self._enter(run)
        elif not busy and run.id in self._scopes:
            self._leave(run.id)
            return True
        return False

    def _enter(self, run: Run) -> None:
        self._scopes[run.id] = scopes_of(run.team, run.agent)
        for scope in self._scopes[run.id]:
            self._under_way.setdefault(scope, {})[run.id] = None

    def _leave(self, run_id: str) -> None:
        for scope in self._scopes.pop(run_id):
            runs = self._under_way[scope]
            del runs[run_id]
            if not runs:
                del self._under_way[scope]

    def rebuild(self, known: Mapping[str, Run]) -> None:
        """From the runs alone, in order of submission."""
        self.__init__()
        for run in sorted(known.values(), key=lambda run: run.submitted_us):
            if run.parent or run.terminal:
                continue
            if not run.begun:
                self.wait(run)
            else:
                self.note(run, known)


def scopes_of(team: str, agent: str) -> tuple[str, ...]:
    return (f"team/{team}", f"agent/{team}/{agent}") if agent else (f"team/{team}",)
