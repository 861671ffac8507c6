"""Questions to the controller, and the decoder of a batch of questions and commands."""

from __future__ import annotations

import msgspec

from hive_ray.control import views
from hive_ray.control.standing import standing
from hive_ray.control.views import Answer
from hive_ray.core.commands import Command, Refused
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import Worker
from hive_ray.core.run import Run, encode_run
from hive_ray.state.owner import Owner, process_is_gone

PAGE = 100


class GetRun(msgspec.Struct, frozen=True, tag=True):
    run: str

    def look(self, engine: Engine) -> Answer:
        return views.run_answer(engine, self.run)


class GetState(msgspec.Struct, frozen=True, tag=True):
    """The whole state of a run, as a snapshot holds it: what a replay is compared with."""

    run: str

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
        lines: list[views.RunLine] = []
        for run_id in sorted(engine.runs, reverse=True):
            run = engine.runs[run_id]
            if len(lines) >= self.limit:
                break
            if (self.before and run_id >= self.before) or (run.parent and not self.children):
                continue
            if (self.team and run.team != self.team) or (self.agent and run.agent != self.agent):
                continue
            if self._lets_pass(engine, run):
                lines.append(views.run_line(engine, run))
        return Answer(lines)

    def _lets_pass(self, engine: Engine, run: Run) -> bool:
        if self.dead_lettered and (not run.dead_lettered or run.id in engine.successors):
            return False
        if self.submitted_before_us and run.submitted_us >= self.submitted_before_us:
            return False
        return not self.status or standing(engine, run).status in self.status.split(",")


class ListApprovals(msgspec.Struct, frozen=True, tag=True):
    """Open questions to people, oldest first."""

    team: str = ""
    run: str = ""

    def look(self, engine: Engine) -> Answer:
        found: list[views.WaitView] = []
        for run in engine.runs.values():
            if run.terminal or (self.run and run.id != self.run) or (self.team and run.team != self.team):
                continue
            found.extend(views.wait_views(run, engine.graphs.get(run.graph)))
        return Answer(sorted(found, key=lambda wait: wait.since_us))


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

    def look(self, engine: Engine) -> Answer:
        shelf = engine.find_shelf(self.scope, self.owner)
        if isinstance(shelf, Refused):
            return Answer(refused=shelf)
        entries = shelf.entries.values() if shelf is not None else ()
        found = [e for e in entries if e.key.startswith(self.prefix) and e.key > self.after]
        found.sort(key=lambda entry: entry.key)
        return Answer([views.memory_view(entry) for entry in found[: self.limit]])


QUERIES = (
    GetRun,
    GetState,
    ListRuns,
    ListApprovals,
    GetAgent,
    ListAgents,
    ListWorkers,
    GetMemory,
    ListMemory,
)
Query = (
    GetRun
    | GetState
    | ListRuns
    | ListApprovals
    | GetAgent
    | ListAgents
    | ListWorkers
    | GetMemory
    | ListMemory
)
Request = Command | Query | WatchRun

decode_requests = msgspec.msgpack.Decoder(list[Request]).decode


def worker_is_gone(worker: Worker) -> bool:
    """Whether a worker's process certainly ended, as far as this host can tell."""
    owner = Owner(worker.pid, worker.node, worker.host, worker.boot_id, worker.process_start, "", 0)
    return process_is_gone(owner) is True
