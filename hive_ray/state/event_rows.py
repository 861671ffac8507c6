"""Journal rows as wide, typed rows: what ``sql`` shows and Parquet keeps of an event.

An event itself names its run and visit only; team, agent, graph and node were said when the run was
submitted and the node was entered. ``Told`` remembers these while events are read in order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.messages import Usage
from hive_ray.state.records import decode_event
from hive_ray.state.segments import Row

RUNS_REMEMBERED = 20_000


class EventRow(NamedTuple):
    """One event. None stands where a kind of event has nothing to say.

    ``run_id`` and ``team`` are empty for the fleet's own events. Times in microseconds, money in
    nano-dollars; ``body`` and ``content`` are the journal's.
    """

    seq: int
    time_us: int
    partition: int
    kind: str
    run_id: str
    team: str
    request_id: str | None = None
    agent: str | None = None
    graph: str | None = None
    graph_version: str | None = None
    node: str | None = None
    visit: int | None = None
    call: int | None = None
    attempt: int | None = None
    pool: str | None = None
    name: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    cost_nanousd: int | None = None
    duration_us: int | None = None
    failure_kind: str | None = None
    reason: str | None = None
    principal: str | None = None
    trace_id: str | None = None
    body: bytes = b""
    content: bytes = b""


class Place(msgspec.Struct, array_like=True, gc=False):
    """Where a step runs: its node, its pool, and the function, tool or model."""

    node: str
    pool: str
    name: str


class RunFacts(msgspec.Struct, array_like=True):
    """What the events of a run do not repeat."""

    team: str = ""
    request_id: str | None = None
    agent: str | None = None
    graph: str | None = None
    graph_version: str | None = None
    trace_id: str | None = None
    visits: dict[int, Place] = {}
    """By the visit's serial number."""
    steps: dict[tuple[int, int], Place] = {}
    """By (serial, call): steps behind the first of a visit."""
    ended: bool = False


class Told:
    """The facts of the runs that were read last.

    Args:
        look_up: finds facts that were said before the first event that was read; by run id.
    """

    def __init__(self, look_up: Callable[[list[str]], dict[str, RunFacts]] | None = None) -> None:
        self.look_up = look_up
        self._runs: OrderedDict[str, RunFacts] = OrderedDict()

    def prepare(self, rows: list[Row]) -> None:
        """Look up at once all runs of a stretch of journal that began before it."""
        begun = {row.run for row in rows if row.kind in _BEGINNINGS}
        unknown = {row.run for row in rows if row.run} - begun - self._runs.keys()
        if unknown and self.look_up is not None:
            self._runs.update(self.look_up(sorted(unknown)))

    def of(self, run: str) -> RunFacts:
        """The facts of one run; empty ones if nobody knows them."""
        facts = self._runs.get(run)
        if facts is None:
            facts = self._runs[run] = RunFacts()
        return facts

    def ended(self, run: str) -> bool:
        """Whether the end of a run was told."""
        facts = self._runs.get(run)
        return facts is not None and facts.ended

    def trim(self) -> None:
        """Forget the runs that were heard of first, beyond a bound."""
        while len(self._runs) > RUNS_REMEMBERED:
            self._runs.popitem(last=False)

    def note(self, event: ev.Event) -> RunFacts:
        """Take in what an event tells of its run, and return all that is known."""
        if event.__class__ in _BEGINNING_KINDS and isinstance(event, ev.RunSubmitted | ev.RunForked):
            facts = self._runs[event.run] = facts_of(event)
            return facts
        facts = self._runs.get(event.run)
        if facts is None:
            facts = self.of(event.run)
        take = _TAKERS.get(event.__class__)
        if take is not None:
            take(facts, event)
        return facts


def _node_entered(facts: RunFacts, event: ev.NodeEntered) -> None:
    facts.visits[event.serial] = Place(event.node_id, event.pool, event.name)


def _step_queued(facts: RunFacts, event: ev.StepQueued) -> None:
    visit = facts.visits.get(event.serial)
    facts.steps[event.serial, event.call] = Place(visit.node if visit else "", event.pool, event.name)


def _step_routed(facts: RunFacts, event: ev.StepRouted) -> None:
    place = _place(event.serial, event.call, facts)
    facts.steps[event.serial, event.call] = Place(place.node, event.pool, place.name)


def _edges_taken(facts: RunFacts, event: ev.EdgesTaken) -> None:
    facts.visits.pop(event.serial, None)


def _ended(facts: RunFacts, event: ev.Event) -> None:
    facts.ended = True
    facts.visits, facts.steps = {}, {}


_TAKERS: dict[type[ev.Event], Callable[[RunFacts, Any], None]] = {
    ev.NodeEntered: _node_entered,
    ev.StepQueued: _step_queued,
    ev.StepRouted: _step_routed,
    ev.EdgesTaken: _edges_taken,
    ev.RunSucceeded: _ended,
    ev.RunFailed: _ended,
    ev.RunCancelled: _ended,
}

_BEGINNINGS = frozenset({"RunSubmitted", "RunForked"})
_BEGINNING_KINDS = frozenset({ev.RunSubmitted, ev.RunForked})


def facts_of(event: ev.RunSubmitted | ev.RunForked) -> RunFacts:
    """What the first event of a run tells of it; a fork begins with visits of its parent."""
    again = (
        zip(event.origin.serials, event.origin.again, strict=True) if isinstance(event, ev.RunForked) else ()
    )
    return RunFacts(
        event.team,
        event.request_id,
        event.agent,
        event.graph_name,
        event.graph,
        # W3C trace context: version-trace-span-flags.
        event.traceparent.split("-")[1] if event.traceparent.count("-") == 3 else None,
        {serial: Place(node, "", "") for serial, node in again},
    )


def event_row(partition: int, row: Row, told: Told, name: str) -> EventRow | None:
    """A journal row made wide; None for rows that are no events.

    Args:
        name: the object it stands in, for the error.

    Raises:
        Corrupt: a kind that this release does not know, or a body that does not decode.
    """
    event = decode_event(name, row)
    if event is None:
        return None
    facts = told.note(event) if event.run else _NO_FACTS
    (
        visit, call, attempt, node, pool, what, cost, duration, failure, reason, principal, team, usage,
    ) = [get(event) if get else None for get in _GETTERS[event.__class__]]  # fmt: skip
    place = _place(visit, call, facts) if visit is not None else _NOWHERE
    tokens: Usage = usage or _NO_USAGE
    return EventRow(
        row.seq, row.time_us, partition, row.kind, row.run, facts.team if team is None else team,
        facts.request_id, facts.agent, facts.graph, facts.graph_version,
        node or place.node or None, visit, call, attempt, pool or place.pool or None,
        what or place.name or None,
        tokens.input_tokens if usage else None,
        tokens.output_tokens if usage else None,
        tokens.cached_tokens if usage else None,
        cost, duration, failure or None, reason or None, principal or None, facts.trace_id,
        row.body, row.content,
    )  # fmt: skip


def _place(visit: int, call: int | None, facts: RunFacts) -> Place:
    if call is None:
        found = facts.visits.get(visit)
        return Place(found.node, "", "") if found else _NOWHERE
    step = facts.steps.get((visit, call)) if facts.steps else None
    return step or facts.visits.get(visit) or _NOWHERE


_NO_FACTS = RunFacts()
_NOWHERE = Place("", "", "")

_NO_USAGE = Usage()

_FIELDS: tuple[tuple[str, ...], ...] = (
    ("serial",),
    ("call",),
    ("attempt",),
    ("node_id", "place"),
    ("pool",),
    ("name", "worker"),
    ("cost_nanousd", "nanousd"),
    ("duration_us",),
    ("failure", "kind"),
    ("reason", "decision", "effect"),
    ("principal",),
    ("team",),
    ("usage",),
)
"""Of each column that events say themselves, in ``event_row``'s order: the fields in which they do."""
_FAILURES = {"StepFailed", "ToolCallFailed", "NodeFailed", "RunFailed"}
"""Events whose field ``kind`` is a failure's."""

Getter = Callable[[Any], Any]


def _getter(cls: type[ev.Event], fields: tuple[str, ...]) -> Getter | None:
    for field in fields:
        if field not in cls.__struct_fields__:
            continue
        if field == "kind" and cls.__name__ not in _FAILURES:
            continue
        # A worker is no tool: steps are named by what they run.
        if field != "worker" or "serial" not in cls.__struct_fields__:
            return attrgetter(field)
    return None


_GETTERS = {cls: [_getter(cls, fields) for fields in _FIELDS] for cls in ev.EVENTS.values()}
"""Compiled once: every event of a state comes by here."""


def _outsider(event: ev.MemoryWritten | ev.MemoryDeleted) -> str:
    """Who wrote long-term memory from outside; a step that did is no principal."""
    return event.writer if event.request_id else ""


for _memory in (ev.MemoryWritten, ev.MemoryDeleted):
    _GETTERS[_memory][_FIELDS.index(("principal",))] = _outsider
