"""What stays in memory of a run that waits long, or has ended: a row of some hundred bytes.

A run may be parked when nothing in it moves but by a person, its client, its deadline, or a worker that was
given up: everybody who needs it finds its row and has it loaded first. A run with live children stays,
since each of their steps touches it; so does a live child.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import msgspec

from hive_ray.core.run import Run, RunStatus, StepStatus, status_of


class Kind(msgspec.Struct, frozen=True, array_like=True):
    """What many parked runs have in common: one object for all of them."""

    status: RunStatus
    reason: str
    team: str
    agent: str
    graph: str
    graph_name: str


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """One parked run, as lists and timers need it. ``seq``: what its snapshot shows.

    ``due_us``: when something in it is due by the wall clock; 0 for ended runs. ``since_us``: since when
    its oldest open question waits; 0 without one. ``origin``: the run that it was forked from, in whose place
    it is if it ``resumes`` it. ``unsettled``: a late outcome may still correct what it cost.
    """

    kind: Kind
    seq: int
    submitted_us: int
    finished_us: int = 0
    due_us: int = 0
    since_us: int = 0
    spent_nanousd: int = 0
    parent: str = ""
    dead_lettered: bool = False
    idempotency_key: str = ""
    digest: str = ""
    origin: str = ""
    resumes: bool = False
    unsettled: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.finished_us)

    @property
    def team(self) -> str:
        return self.kind.team

    @property
    def agent(self) -> str:
        return self.kind.agent


class _Packed(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A row as it rests: its kind by number, defaults at the end left out."""

    kind: int
    seq: int
    submitted_us: int
    finished_us: int = 0
    due_us: int = 0
    since_us: int = 0
    spent_nanousd: int = 0
    parent: str = ""
    dead_lettered: bool = False
    idempotency_key: str = ""
    digest: str = ""
    origin: str = ""
    resumes: bool = False
    unsettled: bool = False


class ParkedRuns(MutableMapping[str, Parked]):
    """Rows by run id, packed: as objects they would take three times the memory."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._kinds: list[Kind] = []
        self._numbers: dict[Kind, int] = {}
        self._newest: list[str] | None = None
        self.waiting: dict[str, int] = {}
        """Since when the oldest open question of a run waits."""

    def newest_first(self) -> list[str]:
        """Run ids in falling order; the same list until something changes."""
        if self._newest is None:
            self._newest = sorted(self._rows, reverse=True)
        return self._newest

    def __getitem__(self, run: str) -> Parked:
        return self._unpack(self._rows[run])

    def __setitem__(self, run: str, row: Parked) -> None:
        number = self._numbers.setdefault(row.kind, len(self._kinds))
        if number == len(self._kinds):
            self._kinds.append(row.kind)
        _, *rest = msgspec.structs.astuple(row)
        self._rows[run] = _encode(_Packed(number, *rest))
        self._newest = None
        if row.since_us:
            self.waiting[run] = row.since_us

    def __delitem__(self, run: str) -> None:
        del self._rows[run]
        self._newest = None
        self.waiting.pop(run, None)
        if not self._rows:
            self._kinds, self._numbers = [], {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, run: object) -> bool:
        return run in self._rows

    def _unpack(self, data: bytes) -> Parked:
        number, *rest = msgspec.structs.astuple(_decode(data))
        return Parked(self._kinds[number], *rest)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def may_park(run: Run) -> bool:
    """Whether nothing in a run moves by itself."""
    if run.orphans:
        return False
    if run.terminal:
        return True
    return not run.parent and not run.tokens and not run.ended and _is_still(run)


def _is_still(run: Run) -> bool:
    for visit in run.visits.values():
        # A step that is ready moves, unless the whole run is paused.
        still = (StepStatus.UNKNOWN, StepStatus.READY) if run.paused else (StepStatus.UNKNOWN,)
        if any(step.status not in still for step in visit.steps.values()):
            return False
        if visit.children is not None and visit.children.live:
            return False
        if visit.wait is None and not run.paused:
            return False
    return True


def due_us(run: Run) -> int:
    """When the next thing in a run is due by the wall clock; 0 if nothing is."""
    if run.terminal:
        return 0
    waits = [visit.wait.deadline_us for visit in run.visits.values() if visit.wait is not None]
    if waits:
        return min(waits)
    return run.deadline_us if not run.parent and not run.waits else 0


def row_of(run: Run, reason: str) -> Parked:
    """The row of a run that is parked; ``reason`` is what lists say of it."""
    waits = [visit.wait.since_us for visit in run.visits.values() if visit.wait is not None]
    return Parked(
        Kind(status_of(run), reason, run.team, run.agent, run.graph, run.graph_name),
        run.seq,
        run.submitted_us,
        run.finished_us,
        due_us(run),
        min(waits, default=0),
        run.spent_nanousd,
        run.parent,
        run.dead_lettered,
        run.idempotency_key,
        run.digest if run.idempotency_key else "",
        run.origin.run if run.origin is not None else "",
        run.origin is not None and run.origin.resumes,
        bool(run.unseen),
    )
