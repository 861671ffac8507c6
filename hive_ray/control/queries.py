"""Questions to the controller; with the commands they are what may be asked of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, get_args

import msgspec

from hive_ray.control import views
from hive_ray.control.breaker_views import BreakerQuery
from hive_ray.control.budget_views import BudgetQuery
from hive_ray.control.ladder_views import LadderQuery
from hive_ray.control.outbox_views import ListOutbox
from hive_ray.control.standing import standing
from hive_ray.control.views import Answer
from hive_ray.core.commands import Command, Refused
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import Worker
from hive_ray.core.parked import Kind, Parked
from hive_ray.core.policies import is_for_team
from hive_ray.core.run import Run, encode_run
from hive_ray.state.history import DEAD_LETTERED
from hive_ray.state.owner import Owner, process_is_gone

PAGE = 100


class GetRun(msgspec.Struct, frozen=True, tag=True):
    run: str

    def runs(self, engine: Engine) -> list[str]:
        """The runs that must be in memory to answer."""
        return [self.run]

    def look(self, engine: Engine) -> Answer:
        return views.run_answer(engine, self.run)


class GetState(msgspec.Struct, frozen=True, tag=True):
    """The whole state of a run, as a snapshot holds it: what a replay is compared with."""

    run: str

    def runs(self, engine: Engine) -> list[str]:
        """The runs that must be in memory to answer."""
        return [self.run]

    def look(self, engine: Engine) -> Answer:
        run = engine.runs.get(self.run)
        if run is None:
            return Answer(refused=Refused("not_found", f"no run {self.run}"))
        return Answer(encode_run(run))


class WatchRun(msgspec.Struct, frozen=True, tag=True):
    """Like ``GetRun``, but answered only when there is an event behind ``after_seq``, or after a while.

    ``until_end``: only the end of the run counts.
    """

    run: str
    after_seq: int = 0
    until_end: bool = False


class ListRuns(msgspec.Struct, frozen=True, tag=True):
    """Runs, newest first. ``before`` is the last run id of the page before.

    ``status`` may name several, with commas; ``dead_lettered`` shows those that nobody has resumed yet;
    ``submitted_before_us`` leaves out what is younger.
    """

    team: str = ""
    status: str = ""
    agent: str = ""
    before: str = ""
    limit: int = PAGE
    children: bool = False
    dead_lettered: bool = False
    submitted_before_us: int = 0

    def look(self, engine: Engine) -> Answer:
        return Answer(self.known(engine))

    def known(self, engine: Engine) -> list[views.RunLine]:
        """The page, without runs that only the history knows."""
        return [self._line(engine, run_id) for run_id in islice(self._known(engine), self.limit)]

    def page(self, engine: Engine, known: list[views.RunLine], older: list[views.RunLine]) -> Answer:
        """The page.

        Args:
            known: the answer of ``known`` before the history was read: some may be in it only by now.
            older: lines of ended runs in the history.
        """
        lines = {
            line.run_id: line
            for line in (*known, *older)
            if line.run_id not in engine.runs and line.run_id not in engine.parked
        }
        lines = {run_id: views.with_successor(engine, line) for run_id, line in lines.items()}
        lines.update((line.run_id, line) for line in self.known(engine))
        return Answer([lines[run_id] for run_id in heapq.nlargest(self.limit, lines)])

    def _known(self, engine: Engine) -> Iterator[str]:
        """Newest first, and no more looked at than are asked for."""
        live = sorted((run for run in engine.runs if not self.before or run < self.before), reverse=True)
        parked = engine.parked.newest_first(self.before, self._wants_kind)
        for run_id in heapq.merge(live, parked, reverse=True):
            run = engine.runs.get(run_id)
            if run is None:
                if self._wants(engine, run_id, engine.parked[run_id]):
                    yield run_id
            elif self._wants(engine, run_id, run) and self._has_status(standing(engine, run).status):
                yield run_id

    def _wants_kind(self, kind: Kind) -> bool:
        if (self.team and kind.team != self.team) or (self.agent and kind.agent != self.agent):
            return False
        return self._has_status(kind.status)

    def _wants(self, engine: Engine, run_id: str, run: Run | Parked) -> bool:
        if run.parent and not self.children:
            return False
        if (self.team and run.team != self.team) or (self.agent and run.agent != self.agent):
            return False
        if self.dead_lettered and (not run.dead_lettered or run_id in engine.successors):
            return False
        return not self.submitted_before_us or run.submitted_us < self.submitted_before_us

    def _has_status(self, status: str) -> bool:
        return not self.status or status in self.status.split(",")

    def _line(self, engine: Engine, run_id: str) -> views.RunLine:
        run = engine.runs.get(run_id)
        return views.run_line(engine, run) if run is not None else views.parked_line(engine, run_id)

    @property
    def marks(self) -> tuple[str, ...]:
        """Of files of the history that may hold what is asked for; none: of all."""
        if self.dead_lettered:
            return (DEAD_LETTERED,)
        return tuple(self.status.split(",")) if self.status else ()

    def lets_old_pass(self, line: Mapping[str, Any]) -> bool:
        """Whether a summary (see ``parquet.RUNS``) is asked for."""
        if (line["parent"] and not self.children) or (self.agent and line["agent"] != self.agent):
            return False
        if self.dead_lettered and not line["dead_lettered"]:
            return False
        young = self.submitted_before_us and views.microseconds(line["submitted"]) >= self.submitted_before_us
        return not young and self._has_status(line["status"])


class ListApprovals(msgspec.Struct, frozen=True, tag=True):
    """Open questions to people, oldest first.

    ``after`` is ``since_us`` and the approval's id of the last one of the page before.
    """

    team: str = ""
    run: str = ""
    after: tuple[int, str] = (0, "")
    limit: int = PAGE
    owner: str = ""
    """A principal or role: only what is, or was, asked of it."""

    def runs(self, engine: Engine) -> list[str]:
        """The runs that must be in memory to see the page."""
        if self.run:
            return [self.run]
        waiting = engine.parked.waiting
        if self.team:
            team = set(engine.parked.ids_of(lambda kind: kind.team == self.team))
            waiting = {run: waits for run, waits in waiting.items() if run in team}
        if self.owner:
            asked = engine.parked.asked
            waiting = {run: waits for run, waits in waiting.items() if self.owner in asked.get(run, ())}
        after_us = self.after[0]
        found = [(waits[0], run) for run, waits in waiting.items() if waits[0] > after_us]
        # Of these the page before may have shown some, or all.
        early = [run for run, waits in waiting.items() if waits[0] <= after_us <= waits[-1]]
        found.extend((since_us, run) for run in early for since_us in self._next(run, waiting[run]))
        # One more than fit: of the run that the page before ends with, it is not known which are behind.
        return [run for _, run in heapq.nsmallest(self.limit + 1, found)]

    def _next(self, run: str, waits: tuple[int, ...]) -> tuple[int, ...]:
        """Since when the first question of a parked run waits that may be behind the page before."""
        last = f"{run}.~"
        return next(((since_us,) for since_us in waits if (since_us, last) > self.after), ())

    def look(self, engine: Engine) -> Answer:
        found: list[views.WaitView] = []
        for run in engine.runs.values():
            if run.terminal or (self.run and run.id != self.run) or (self.team and run.team != self.team):
                continue
            found.extend(views.wait_views(run, engine.graphs.get(run.graph)))
        if self.owner:
            found = [wait for wait in found if self.owner in wait.asked]
        behind = [wait for wait in found if (wait.since_us, wait.approval_id) > self.after]
        return Answer(heapq.nsmallest(self.limit, behind, key=lambda wait: (wait.since_us, wait.approval_id)))


class GetAgent(msgspec.Struct, frozen=True, tag=True):
    team: str
    name: str

    def look(self, engine: Engine) -> Answer:
        agent = engine.fleet.agents.get(f"{self.team}/{self.name}")
        if agent is None:
            return Answer(refused=Refused("not_found", f"no agent {self.name}; register it with PUT"))
        return Answer(views.AgentView(agent.name, agent.graph, agent.at_us))


class ListAgents(msgspec.Struct, frozen=True, tag=True):
    team: str

    def look(self, engine: Engine) -> Answer:
        prefix = f"{self.team}/"
        return Answer(
            [
                views.AgentView(agent.name, agent.graph, agent.at_us)
                for key, agent in engine.fleet.agents.items()
                if key.startswith(prefix)
            ]
        )


class ListPolicies(msgspec.Struct, frozen=True, tag=True):
    """The rules in force, in order, the built-in one last; of other teams' rules none. Empty: every team."""

    team: str

    def look(self, engine: Engine) -> Answer:
        rules = engine.force.policies.rules
        return Answer([rule for rule in rules if not self.team or is_for_team(rule, self.team)])


class ListWorkers(msgspec.Struct, frozen=True, tag=True):
    def look(self, engine: Engine) -> Answer:
        return Answer(
            [
                {
                    "worker": worker.name,
                    "pool": worker.pool,
                    "slots": worker.slots,
                    "leases": len(worker.leases),
                    "pid": worker.pid,
                    "host": worker.host,
                }
                for worker in engine.fleet.workers.values()
            ]
        )


class GetMemory(msgspec.Struct, frozen=True, tag=True):
    """One value of long-term memory."""

    scope: str
    owner: str
    key: str

    def runs(self, engine: Engine) -> list[str]:
        """A run's own memory is in it."""
        return [self.owner] if self.scope == "run" else []

    def look(self, engine: Engine) -> Answer:
        shelf = engine.find_shelf(self.scope, self.owner)
        if isinstance(shelf, Refused):
            return Answer(refused=shelf)
        entry = shelf.entries.get(self.key) if shelf is not None else None
        if entry is None:
            return Answer(refused=Refused("not_found", f"no key {self.key} in this {self.scope}'s memory"))
        return Answer(views.memory_view(entry))


class ListMemory(msgspec.Struct, frozen=True, tag=True):
    """Keys of long-term memory in order. ``after`` is the last key of the page before."""

    scope: str
    owner: str
    prefix: str = ""
    after: str = ""
    limit: int = PAGE

    def runs(self, engine: Engine) -> list[str]:
        """A run's own memory is in it."""
        return [self.owner] if self.scope == "run" else []

    def look(self, engine: Engine) -> Answer:
        shelf = engine.find_shelf(self.scope, self.owner)
        if isinstance(shelf, Refused):
            return Answer(refused=shelf)
        entries = shelf.entries.values() if shelf is not None else ()
        found = [e for e in entries if e.key.startswith(self.prefix) and e.key > self.after]
        found.sort(key=lambda entry: entry.key)
        return Answer([views.memory_view(entry) for entry in found[: self.limit]])


class ListKeys(msgspec.Struct, frozen=True, tag=True):
    """All API keys, those that have ended too, in order of making."""

    def look(self, engine: Engine) -> Answer:
        return Answer([views.key_view(key) for key in engine.fleet.api_keys.values()])


class WhoAmI(msgspec.Struct, frozen=True, tag=True):
    """Whom the caller's credential belongs to; answered at the door."""


Query = (
    GetRun
    | GetState
    | ListRuns
    | ListApprovals
    | GetAgent
    | ListAgents
    | ListPolicies
    | ListWorkers
    | GetMemory
    | ListMemory
    | ListKeys
    | BudgetQuery
    | BreakerQuery
    | LadderQuery
    | ListOutbox
)
QUERIES: tuple[type[Any], ...] = get_args(Query)
"""Made from the union, so that no question is in one and not in the other."""
Request = Command | Query | WatchRun | WhoAmI


_OF_RUNS = (GetRun, GetState, ListApprovals, GetMemory, ListMemory)


def runs_of(query: Query, engine: Engine) -> list[str]:
    """The runs that must be in memory to answer a query."""
    return query.runs(engine) if isinstance(query, _OF_RUNS) else []


def worker_is_gone(worker: Worker) -> bool:
    """Whether a worker's process certainly ended, as far as this host can tell."""
    owner = Owner(worker.pid, worker.node, worker.host, worker.boot_id, worker.process_start, "", 0)
    return process_is_gone(owner) is True
