"""What stays in memory of a run that waits long, or has ended: a row of some hundred bytes.

A run may be parked when nothing in it moves but by a person, its client, its deadline, or a worker that was
given up: everybody who needs it finds its row and has it loaded first. A run with live children stays,
since each of their steps touches it; so does a live child.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, MutableMapping

import msgspec

from hive_ray.core import asking
from hive_ray.core.run import STILL, Run, RunStatus, StepStatus, status_of


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

    ``due_us``: when something in it is due by the wall clock; 0 for ended runs. ``waits_us``: since when
    each of its open questions waits, oldest first. ``origin``: the run that it was forked from, in whose
    place it is if it ``resumes`` it. ``unsettled``: a late outcome may still correct what it cost.
    """

    kind: Kind
    seq: int
    submitted_us: int
    finished_us: int = 0
    due_us: int = 0
    waits_us: tuple[int, ...] = ()
    spent_nanousd: int = 0
    parent: str = ""
    dead_lettered: bool = False
    idempotency_key: str = ""
    digest: str = ""
    origin: str = ""
    resumes: bool = False
    unsettled: bool = False
    asked: tuple[str, ...] = ()
    """Who its open questions are, or were, asked of; nobody in particular is left out."""

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
    waits_us: tuple[int, ...] = ()
    spent_nanousd: int = 0
    parent: str = ""
    dead_lettered: bool = False
    idempotency_key: str = ""
    digest: str = ""
    origin: str = ""
    resumes: bool = False
    unsettled: bool = False
    asked: tuple[str, ...] = ()


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a row, for whoever looks at many."""

    kind: int


class ParkedRuns(MutableMapping[str, Parked]):
    """Rows by run id, packed: as objects they would take three times the memory."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._kinds: dict[int, Kind] = {}
        self._numbers: dict[Kind, int] = {}
        self._uses: dict[int, int] = {}
        """By kind, how many rows have it: reasons are often a run's own."""
        self._next_kind = 0
        self._sorted: list[str] | None = None
        self.waiting: dict[str, tuple[int, ...]] = {}
        """Since when the open questions of a run wait, oldest first; runs without one are left out."""
        self.asked: dict[str, tuple[str, ...]] = {}
        """Whom the open questions of a run are asked of; runs whose questions are anybody's are left out."""
        self.origins: dict[str, str] = {}
        """Forks to the runs that they were forked from."""

    def ids_of(self, wants: Callable[[Kind], bool]) -> Iterator[str]:
        """The runs of the kinds that are wanted, in no order."""
        kinds = self._kinds_of(wants)
        if kinds:
            yield from (run for run, row in self._rows.items() if _decode_head(row).kind in kinds)

    def newest_first(self, before: str, wants: Callable[[Kind], bool]) -> Iterator[str]:
        """The runs of the kinds that are wanted, in falling order of id; of those before an id only."""
        kinds = self._kinds_of(wants)
        if not kinds:
            return
        if self._sorted is None:
            self._sorted = sorted(self._rows)
        ids = self._sorted
        for at in range(bisect_left(ids, before) if before else len(ids), 0, -1):
            if _decode_head(self._rows[ids[at - 1]]).kind in kinds:
                yield ids[at - 1]

    def _kinds_of(self, wants: Callable[[Kind], bool]) -> frozenset[int]:
        return frozenset(number for number, kind in self._kinds.items() if wants(kind))

    def __getitem__(self, run: str) -> Parked:
        number, *rest = msgspec.structs.astuple(_decode(self._rows[run]))
        return Parked(self._kinds[number], *rest)

    def __setitem__(self, run: str, row: Parked) -> None:
        if run in self._rows:
            del self[run]
        _, *rest = msgspec.structs.astuple(row)
        self._rows[run] = _encode(_Packed(self._use(row.kind), *rest))
        self._sorted = None
        if row.waits_us:
            self.waiting[run] = row.waits_us
        if row.asked:
            self.asked[run] = row.asked
        if row.origin:
            self.origins[run] = row.origin

    def _use(self, kind: Kind) -> int:
        number = self._numbers.get(kind)
        if number is None:
            number = self._numbers[kind] = self._next_kind
            self._kinds[number] = kind
            self._next_kind += 1
        self._uses[number] = self._uses.get(number, 0) + 1
        return number

    def __delitem__(self, run: str) -> None:
        number = _decode_head(self._rows.pop(run)).kind
        self._sorted = None
        self.waiting.pop(run, None)
        self.asked.pop(run, None)
        self.origins.pop(run, None)
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._uses[number], self._numbers[self._kinds.pop(number)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, run: object) -> bool:
        return run in self._rows


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def may_park(run: Run) -> bool:
    """Whether nothing in a run moves by itself."""
    if run.orphans or (not run.begun and not run.terminal):
        return False  # the latter waits at the entrance
    if run.terminal:
        return True
    return not run.parent and not run.tokens and not run.ended and _is_still(run)


def _is_still(run: Run) -> bool:
    for visit in run.visits.values():
        # A step that is ready moves, unless the whole run is paused.
        still = STILL | {StepStatus.READY} if run.paused else STILL
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
    open_waits = [visit.wait for visit in run.visits.values() if visit.wait is not None]
    waits = [wait.since_us for wait in open_waits]
    return Parked(
        Kind(status_of(run), reason, run.team, run.agent, run.graph, run.graph_name),
        run.seq,
        run.submitted_us,
        run.finished_us,
        due_us(run),
        tuple(sorted(waits)),
        run.spent_nanousd,
        run.parent,
        run.dead_lettered,
        run.idempotency_key,
        run.digest if run.idempotency_key else "",
        run.origin.run if run.origin is not None else "",
        run.origin is not None and run.origin.resumes,
        bool(run.unseen),
        tuple(dict.fromkeys(owner for wait in open_waits for owner in asking.owners(wait) if owner)),
    )
