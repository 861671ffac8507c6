"""What the outside sees of the state: plain structs made from runs, never the runs themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from hive_ray.control.standing import family, standing
from hive_ray.core import asking, people
from hive_ray.core.api_keys import ApiKey
from hive_ray.core.artifacts import KeptArtifact
from hive_ray.core.commands import Refused
from hive_ray.core.engine import Engine, Stands
from hive_ray.core.events import Origin
from hive_ray.core.fleet import Agent, Fleet
from hive_ray.core.longterm import Entry, Shelf
from hive_ray.core.run import Run, Step, StepStatus, Visit, Wait
from hive_ray.core.values import Value
from hive_ray.graph.asking import Asked, Final
from hive_ray.graph.compiled import CompiledGraph


class WaitView(msgspec.Struct, frozen=True):
    """Why a run waits, and what it needs."""

    approval_id: str
    run_id: str
    node: str
    reason: str
    need: str
    deadline_us: int
    since_us: int
    owner: str
    answers: tuple[str, ...]
    form: bytes
    shown: dict[str, Value]
    team: str = ""
    agent: str = ""
    asked: tuple[str, ...] = ()
    """Who has been asked so far, in order; the last one is ``owner``."""
    chain: tuple[Asked, ...] = ()
    """All owners in order, with their times."""
    final: Final = Final.FAIL
    """What holds if nobody answers."""
    four_eyes: bool = False
    edition: int = 0
    """Above 0: somebody edited the answer, which stands in ``edited``."""
    edited_by: str = ""
    edited: dict[str, Value] = {}


class StepView(msgspec.Struct, frozen=True):
    """A step that is not finished."""

    node: str
    call: int
    attempt: int
    kind: str
    name: str
    status: str
    worker: str
    waiting_for: str = ""
    """What keeps a ready step besides workers: an account, a rate, a stop, …"""


class RunView(msgspec.Struct, frozen=True):
    """One run, as of ``seq``. Money in nano-dollars, times in microseconds since the epoch."""

    run_id: str
    request_id: str
    status: str
    reason: str
    team: str
    agent: str
    graph: str
    graph_version: str
    submitted_us: int
    finished_us: int
    deadline_us: int
    budget_nanousd: int
    spent_nanousd: int
    reserved_nanousd: int
    attempts: int
    visits: int
    paused: bool
    failure: str
    failed_at: str
    message: str
    dead_lettered: bool
    parent: str
    seq: int
    steps: tuple[StepView, ...] = ()
    waits: tuple[WaitView, ...] = ()
    outputs: dict[str, Value] = {}
    segments: tuple[int, ...] = ()
    """Journal segments with its events; those up to ``compacted`` may be in the history only."""
    traceparent: str = ""
    origin: Origin | None = None
    resumed_as: str = ""
    """The run that was resumed in its place."""
    compacted: int = 0
    overrun_nanousd: int = 0
    """Cost beyond what was reserved."""
    artifacts: tuple[KeptArtifact, ...] = ()
    """Of a root run: its own and those of its child runs."""
    content_key: bytes = b""
    """Reference to the key that seals its content."""
    forgotten: bool = False
    principal: str = ""
    """Who submitted it."""
    priority: int = 1
    """Index into ``core.plan.CLASSES``."""


class RunLine(msgspec.Struct, frozen=True):
    """A run in a list."""

    run_id: str
    status: str
    reason: str
    team: str
    agent: str
    graph: str
    submitted_us: int
    finished_us: int
    spent_nanousd: int
    parent: str
    origin: str = ""
    """The run that it was forked from."""
    dead_lettered: bool = False
    resumed_as: str = ""


class AgentView(msgspec.Struct, frozen=True):
    name: str
    graph_version: str
    registered_us: int


class LevelView(msgspec.Struct, frozen=True):
    """What the state may hold: see ``core.features``."""

    feature_level: int


class MemoryView(msgspec.Struct, frozen=True):
    """A value of long-term memory."""

    key: str
    value: Value
    version: int
    written_us: int
    writer: str


class KeyView(msgspec.Struct, frozen=True):
    """An API key; its secret is not known here."""

    key_id: str
    name: str
    team: str
    scopes: tuple[str, ...]
    roles: tuple[str, ...]
    created_us: int
    created_by: str
    expires_us: int
    rolled_us: int
    old_until_us: int
    revoked_us: int
    revoked_by: str
    used_us: int
    """Of the day of UTC on which it was used last, the first use; 0: never."""


class Answer(msgspec.Struct, frozen=True):
    """The reply to a command or query: a value, or a refusal."""

    value: Any = None
    refused: Refused | None = None


WAITS_SHOWN = 100
"""Open questions in one view of a run; the list of approvals has all."""

CLIENTS_ANSWERS = ("signal", "complete")
"""What a client's question takes: requests of their own."""


def answer(engine: Engine, result: Stands | Refused) -> Answer:
    """Wrap what the engine said."""
    match result:
        case Refused():
            return Answer(refused=result)
        case Run():
            return Answer(run_view(engine, result))
        case Agent():
            return Answer(AgentView(result.name, result.graph, result.at_us))
        case Fleet():
            return Answer(LevelView(result.feature_level))
        case Entry():
            return Answer(memory_view(result))
        case Shelf():
            return Answer(result.version)
        case ApiKey():
            return Answer(key_view(result))


def key_view(key: ApiKey) -> KeyView:
    return KeyView(
        key.id,
        key.name,
        key.team,
        key.scopes,
        key.roles,
        key.created_us,
        key.created_by,
        key.expires_us,
        key.rolled_us,
        key.old_until_us,
        key.revoked_us,
        key.revoked_by,
        key.used_us,
    )


def memory_view(entry: Entry) -> MemoryView:
    return MemoryView(entry.key, entry.value, entry.version, entry.at_us, entry.writer)


def run_answer(engine: Engine, run_id: str) -> Answer:
    run = engine.runs.get(run_id)
    if run is None:
        return Answer(refused=Refused("not_found", f"no run {run_id}"))
    return Answer(run_view(engine, run))


def run_view(engine: Engine, run: Run) -> RunView:
    """Everything about one run."""
    graph = engine.graphs.get(run.graph)
    stands = standing(engine, run)
    return RunView(
        run.id,
        run.request_id,
        stands.status,
        stands.reason,
        run.team,
        run.agent,
        run.graph_name,
        run.graph,
        run.submitted_us,
        run.finished_us,
        run.deadline_us,
        run.budget_nanousd,
        run.spent_nanousd,
        run.reserved_nanousd,
        run.attempts,
        run.serial,
        run.paused,
        run.failure,
        run.failed_at,
        run.message,
        run.dead_lettered,
        run.parent,
        run.told,
        tuple(_steps(engine, run, graph)),
        tuple(itertools.islice(_waits(engine, run), WAITS_SHOWN)),
        {key: run.memory[key] for key in run.output_keys if key in run.memory},
        tuple(run.segments),
        run.traceparent,
        run.origin,
        engine.successors.get(run.id, ""),
        engine.compacted,
        run.overrun_nanousd,
        tuple(run.artifacts),
        run.key,
        run.forgotten,
        run.principal,
        run.priority,
    )


def _node_id(graph: CompiledGraph | None, visit: Visit) -> str:
    return graph.nodes[visit.node].id if graph is not None else str(visit.node)


def _steps(engine: Engine, run: Run, graph: CompiledGraph | None) -> list[StepView]:
    return [
        StepView(
            _node_id(graph, visit),
            step.call,
            step.attempt,
            step.kind,
            step.name,
            StepStatus(step.status).name.lower(),
            step.worker,
            _kept_by(engine, run, visit, step),
        )
        for visit in run.visits.values()
        for step in visit.steps.values()
    ]


def _kept_by(engine: Engine, run: Run, visit: Visit, step: Step) -> str:
    queue = engine.fleet.queues.get(step.pool)
    if queue is None or not queue.aside or step.status is not StepStatus.READY:
        return ""
    return queue.kept_by((run.id, visit.serial, step.call))


def _waits(engine: Engine, run: Run) -> Iterator[WaitView]:
    """The open questions of a run and of its children."""
    for member in family(engine, run):
        yield from wait_views(member, engine.graphs.get(member.graph))


def wait_views(run: Run, graph: CompiledGraph | None) -> list[WaitView]:
    """The open questions of a run."""
    return [
        WaitView(
            wait.approval,
            run.id,
            _node_id(graph, visit),
            wait.reason,
            wait.message,
            wait.deadline_us,
            wait.since_us,
            wait.owner,
            CLIENTS_ANSWERS if wait.reason == "client" else people.answers(wait),
            wait.form,
            wait.shown,
            run.team,
            run.agent,
            asking.owners(wait),
            wait.chain or (Asked(wait.owner, wait.deadline_us - wait.since_us),),
            wait.final,
            wait.four_eyes,
            *_edit(wait),
        )
        for visit in run.visits.values()
        if (wait := visit.wait) is not None
    ]


def _edit(wait: Wait) -> tuple[int, str, dict[str, Value]]:
    if wait.edit is None:
        return 0, "", {}
    return wait.edit.edition, wait.edit.principal, wait.edit.answer.outputs


def run_line(engine: Engine, run: Run) -> RunLine:
    stands = standing(engine, run)
    return RunLine(
        run.id,
        stands.status,
        stands.reason,
        run.team,
        run.agent,
        run.graph_name,
        run.submitted_us,
        run.finished_us,
        run.spent_nanousd,
        run.parent,
        run.origin.run if run.origin is not None else "",
        run.dead_lettered,
        engine.successors.get(run.id, ""),
    )


def parked_line(engine: Engine, run_id: str) -> RunLine:
    """A run in a list that is not in memory."""
    row = engine.parked[run_id]
    return RunLine(
        run_id,
        row.kind.status,
        row.kind.reason,
        row.team,
        row.agent,
        row.kind.graph_name,
        row.submitted_us,
        row.finished_us,
        row.spent_nanousd,
        row.parent,
        row.origin,
        row.dead_lettered,
        engine.successors.get(run_id, ""),
    )


def old_line(line: Mapping[str, Any]) -> RunLine:
    """A run in a list that only the history knows (see ``parquet.RUNS``)."""
    return RunLine(
        line["run_id"],
        line["status"],
        line["reason"] or line["failure_kind"] or "",
        line["team"],
        line["agent"],
        line["graph"],
        microseconds(line["submitted"]),
        microseconds(line["finished"]),
        int(line["cost_usd"].scaleb(9)),
        line["parent"] or "",
        dead_lettered=line["dead_lettered"],
    )


def with_successor(engine: Engine, line: RunLine) -> RunLine:
    """A line that says what was resumed in the run's place, which the history does not know."""
    successor = engine.successors.get(line.run_id, "")
    return msgspec.structs.replace(line, resumed_as=successor) if successor else line


def microseconds(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)
