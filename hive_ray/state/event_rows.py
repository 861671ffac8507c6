"""Journal rows as wide, typed rows: what ``sql`` shows and Parquet keeps of an event.

An event itself names its run and visit only; team, agent, graph and node were said when the run was
submitted and the node was entered. ``Told`` remembers these while events are read in order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
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
        self._look_up = look_up
        self._runs: OrderedDict[str, RunFacts] = OrderedDict()

    def prepare(self, rows: list[Row]) -> None:
        """Look up at once all runs of a stretch of journal that began before it."""
        begun = {row.run for row in rows if row.kind in _BEGINNINGS}
        unknown = {row.run for row in rows if row.run} - begun - self._runs.keys()
        if unknown and self._look_up is not None:
            self._runs.update(self._look_up(sorted(unknown)))

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
        if isinstance(event, (ev.RunSubmitted, ev.RunForked)):
            facts = self._runs[event.run] = facts_of(event)
            return facts
        facts = self.of(event.run)
        if isinstance(event, ev.NodeEntered):
            facts.visits[event.serial] = Place(event.node_id, event.pool, event.name)
        elif isinstance(event, ev.StepQueued):
            visit = facts.visits.get(event.serial)
            place = Place(visit.node if visit else "", event.pool, event.name)
            facts.steps[event.serial, event.call] = place
        elif isinstance(event, ev.EdgesTaken):
            facts.visits.pop(event.serial, None)
        elif isinstance(event, ev.RunSucceeded | ev.RunFailed | ev.RunCancelled):
            facts.ended = True
        return facts


_BEGINNINGS = frozenset({"RunSubmitted", "RunForked"})


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
    place = _place(event, facts)
    said = _SAID[type(event)](event)
    return EventRow(
        row.seq, row.time_us, partition, row.kind, row.run, said.get("team", facts.team),
        facts.request_id, facts.agent, facts.graph, facts.graph_version,
        said.get("node") or place.node or None, said.get("visit"), said.get("call"), said.get("attempt"),
        said.get("pool") or place.pool or None, said.get("name") or place.name or None,
        said.get("tokens_in"), said.get("tokens_out"), said.get("tokens_cached"),
        said.get("cost_nanousd"), said.get("duration_us"), said.get("failure_kind") or None,
        said.get("reason") or None, said.get("principal") or None, facts.trace_id,
        row.body, row.content,
    )  # fmt: skip


def _place(event: ev.Event, facts: RunFacts) -> Place:
    serial: int | None = getattr(event, "serial", None)
    if serial is None:
        return _NOWHERE
    call: int | None = getattr(event, "call", None)
    if call is None:
        visit = facts.visits.get(serial)
        return Place(visit.node, "", "") if visit else _NOWHERE
    return facts.steps.get((serial, call)) or facts.visits.get(serial) or _NOWHERE


_NO_FACTS = RunFacts()
_NOWHERE = Place("", "", "")

_COLUMNS = {
    "serial": "visit",
    "call": "call",
    "attempt": "attempt",
    "node_id": "node",
    "place": "node",
    "pool": "pool",
    "name": "name",
    "worker": "name",
    "team": "team",
    "cost_nanousd": "cost_nanousd",
    "duration_us": "duration_us",
    "failure": "failure_kind",
    "reason": "reason",
    "decision": "reason",
    "principal": "principal",
}
"""Field of an event to column."""
_FAILURES = {"StepFailed", "ToolCallFailed", "NodeFailed", "RunFailed"}
"""Events whose field ``kind`` is a failure's."""


def _sayer(cls: type[ev.Event]) -> Callable[[Any], dict[str, Any]]:
    """What an event of one kind says by itself, by column."""
    fields = [(field, _COLUMNS[field]) for field in cls.__struct_fields__ if field in _COLUMNS]
    if "serial" in cls.__struct_fields__:
        # A worker is no tool: steps are named by what they run.
        fields = [(field, column) for field, column in fields if field != "worker"]
    if cls.__name__ in _FAILURES:
        fields.append(("kind", "failure_kind"))
    has_usage = "usage" in cls.__struct_fields__

    def say(event: Any) -> dict[str, Any]:
        said = {column: getattr(event, field) for field, column in fields}
        if has_usage and event.usage is not None:
            usage: Usage = event.usage
            said["tokens_in"] = usage.input_tokens
            said["tokens_out"] = usage.output_tokens
            said["tokens_cached"] = usage.cached_tokens
        return said

    return say


_SAID = {cls: _sayer(cls) for cls in ev.EVENTS.values()}
