"""Runs that wait long, and runs that have ended, leave memory; whoever needs one waits until it is loaded.

A run may leave once the newest snapshot shows all of it. It comes back by one ranged read of its item, or,
when its end is history, out of its summary. Loading is ``Io``: inputs that need absent runs are kept, in
order of arrival, and handed to the shell when the runs are there.

A run that was fetched out of the history is a guest: it is in no snapshot, and goes again after a while,
unless an event has changed it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from hive_ray.control.io import Broke, Done, Io
from hive_ray.control.queries import ListRuns
from hive_ray.control.recovery import load_graph
from hive_ray.control.standing import standing
from hive_ray.control.views import RunLine, old_line
from hive_ray.core.commands import Command, DeleteMemory, Forget, Fork, PutMemory, Refused, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.parked import Parked, may_park, row_of
from hive_ray.core.run import Run
from hive_ray.errors import Corrupt, KeyErased
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.blobs import Blobs
from hive_ray.state.content import ContentCodec
from hive_ray.state.history import HistoryManifest, Spans
from hive_ray.state.history_reading import newest_summaries, summaries
from hive_ray.state.run_items import RUN, open_run
from hive_ray.state.snapshots import Manifest, read_items
from hive_ray.state.store import Store
from hive_ray.state.summaries import run_of

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

log = logging.getLogger(__name__)

SHOWN_AT_ONCE = 1_000
PARK_AT_ONCE = 60
"""Runs looked at in one tick, about 2 ms: of those that a snapshot shows, and of those that may leave."""
PARK_PART = 100
"""Of very many that may leave, one in so many goes in one tick."""
LOOK_AT_ONCE = 200
"""Ended runs that one tick asks whether the history has them."""
LOAD_AT_ONCE = 256
LOADS = 2
"""Runs of one load, and loads under way at a time."""
PAUSE_US = 200_000
"""Between a load that failed and the next."""
MOST_UNKNOWN = 10_000
"""Names of which it is kept in mind that nobody has them."""
MOST_WAITING = 20_000
"""Runs that may be waited for; beyond, inputs are refused as overloaded."""
SETTLES_WITHIN_US = 24 * 3600 * 1_000_000
"""So long an ended run stays known whose cost a worker may still tell; later the history is asked."""
STAY_US = 5_000_000
"""How long a run stays that was loaded and did not change."""

Then = Callable[[Refused | None], None]
"""Called when all runs that were asked for are there, or cannot be had."""


class Candidate(NamedTuple):
    """A run that a snapshot shows as of ``seq``; it may leave at ``due_us`` if that is still all of it."""

    due_us: int
    run: str
    seq: int
    rests: bool = False
    """It ended and was parked before, and still stands in that line."""


class Loaded(NamedTuple):
    """What a load found: runs, the graphs that they need, names that nobody knows, and damaged runs."""

    runs: list[Run]
    graphs: list[CompiledGraph]
    unknown: list[str]
    damaged: dict[str, Corrupt]


class _Wish:
    """Somebody waits for several runs."""

    def __init__(self, runs: list[str], then: Then) -> None:
        self._left = dict.fromkeys(runs)
        self._then: Then | None = then

    def settle(self, run: str, refused: Refused | None) -> None:
        """One of the runs is there, or cannot be had; the first refusal is the answer."""
        self._left.pop(run, None)
        if self._then is not None and (refused is not None or not self._left):
            then, self._then = self._then, None
            then(refused)


class Parking:
    """Which runs are in memory, of one partition.

    Args:
        park_after_us: how long a run must wait unchanged before it leaves memory.
        snapshot: the newest one.
        history: the newest manifest.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        codec: ContentCodec,
        park_after_us: int,
        snapshot: Manifest | None,
        history: HistoryManifest,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._codec = codec
        self._park_after_us = park_after_us
        self.snapshot = snapshot
        self.history = history
        self.left: dict[str, None] = {}
        """Runs that left for good: the next snapshot does without them."""
        self.damaged: dict[str, Corrupt] = {}
        """Runs that could not be loaded when that was tried last."""
        self._ended: deque[Candidate] = deque()
        self._waiting: deque[Candidate] = deque()
        self._shown: deque[tuple[Manifest, Iterator[str]]] = deque()
        """What snapshots show, on its way into these lines."""
        self._rest: deque[str] = deque()
        """Ended runs that are parked, and may be history; see ``_let_go``."""
        self._stay: deque[str] = deque()
        """Those that are not, as the present manifest has it: nothing but a later one can let them go."""
        self._guests: dict[str, int] = {}
        """Runs out of the history, with the time at which they go again."""
        self._wishes: dict[str, list[_Wish]] = {}
        self._wanted: deque[str] = deque()
        self._old = Spans(history.of("runs"))
        self._told: dict[str, Spans] = {}
        """By team: of which runs the history tells anything, events or summaries; made when it is asked."""
        self._unknown: dict[str, None] = {}
        """Names that were looked for, and nobody has: they are not looked for again and again."""
        self._loads = 0
        self._load_again_us = 0

    # --- coming back -----------------------------------------------------------------------------

    def absent(self, engine: Engine, runs: Iterable[str]) -> list[str]:
        """Those of some runs that must be loaded, as far as anybody knows them."""
        return [
            run for run in dict.fromkeys(runs) if run and run not in engine.runs and self._may_be(engine, run)
        ]

    def _may_be(self, engine: Engine, run: str) -> bool:
        if run in engine.parked:
            return True
        return run not in self._unknown and run in self._old

    def fetch(self, runs: list[str], then: Then, must: bool = False) -> None:
        """Have runs loaded, then go on; a name that turns out to be unknown is no obstacle.

        Args:
            must: not refused, however many are waited for: something else bounds whoever asks.
        """
        if len(self._wishes) >= MOST_WAITING and not must:
            then(Refused("overloaded", f"{MOST_WAITING} runs are being loaded", 1.0))
            return
        wish = _Wish(runs, then)
        for run in runs:
            if run not in self._wishes:
                self._wishes[run] = []
                self._wanted.append(run)
            self._wishes[run].append(wish)

    def load(self, shell: Shell) -> None:
        """Begin to load what is wanted, as far as there is room."""
        while self._wanted and self._loads < LOADS and shell.mono_us >= self._load_again_us:
            runs = [self._wanted.popleft() for _ in range(min(LOAD_AT_ONCE, len(self._wanted)))]
            self._loads += 1
            parked = [run for run in runs if run in shell.engine.parked]
            old = [run for run in runs if run not in shell.engine.parked]
            graphs = frozenset(shell.engine.graphs)
            work = partial(self._read, self.snapshot, self.history, parked, old, graphs)
            shell.do(Io("load runs", work, partial(self._arrived, shell, runs)))

    def _read(
        self,
        snapshot: Manifest | None,
        history: HistoryManifest,
        parked: list[str],
        old: list[str],
        graphs: frozenset[str],
    ) -> Loaded:
        runs, damaged = self._parked(snapshot, parked) if snapshot is not None else ([], {})
        lines = summaries(self._store, history, old) if old else {}
        runs.extend(run_of(self._codec, line) for line in lines.values())
        found = {run.id for run in runs}
        versions = {run.graph for run in runs if not run.parent} - graphs
        unknown = [run for run in (*parked, *old) if run not in found and run not in damaged]
        return Loaded(runs, self._graphs(versions), unknown, damaged)

    def _parked(self, snapshot: Manifest, parked: list[str]) -> tuple[list[Run], dict[str, Corrupt]]:
        """Together, for the sake of speed; one by one if some of them are damaged."""
        try:
            items = read_items(self._store, snapshot, (RUN + run for run in parked))
            return [open_run(self._codec, key, item) for key, item in items.items()], {}
        except Corrupt as error:
            if len(parked) == 1:
                return [], {parked[0]: error}
        runs: list[Run] = []
        damaged: dict[str, Corrupt] = {}
        for run in parked:
            found, broken = self._parked(snapshot, [run])
            runs += found
            damaged |= broken
        return runs, damaged

    def _graphs(self, versions: set[str]) -> list[CompiledGraph]:
        found: list[CompiledGraph] = []
        for version in sorted(versions):
            try:
                found.append(load_graph(self._blobs, version))
            except KeyErased:
                log.warning("graph %s cannot be opened any more", version)
        return found

    def _arrived(self, shell: Shell, runs: list[str], ended: Done | Broke) -> None:
        self._loads -= 1
        match ended:
            case Done(Loaded() as loaded):
                self._take_in(shell, loaded)
            case Done():
                raise AssertionError("a load gives what it loaded")
            case Broke(error):
                log.warning("runs are not loaded: %s", error)
                self._load_again_us = shell.mono_us + PAUSE_US
                for run in runs:
                    self._answer(run, _unloaded(error))

    def _take_in(self, shell: Shell, loaded: Loaded) -> None:
        for graph in loaded.graphs:
            shell.engine.add_graph(graph)
        for run in sorted(loaded.runs, key=lambda run: run.depth):
            ancestors = self.absent(shell.engine, [run.parent])
            if ancestors:
                # What happens to a child may happen to its ancestors, and its graph is part of theirs.
                self.fetch(ancestors, partial(self._join, shell, run), must=True)
            else:
                self._join(shell, run, None)
        for run_id in loaded.unknown:
            self._know_not(run_id)
        self.damaged.update(loaded.damaged)
        for run in loaded.runs:
            self.damaged.pop(run.id, None)
        for run_id, error in loaded.damaged.items():
            log.error("run %s cannot be loaded: %s", run_id, error)
            self._load_again_us = shell.mono_us + PAUSE_US
            self._answer(run_id, _unloaded(error))

    def _join(self, shell: Shell, run: Run, refused: Refused | None) -> None:
        """A run was loaded, and its ancestors are there, unless they cannot be had."""
        if refused is None and run.parent and run.parent not in shell.engine.runs:
            # Retention dropped its parent: nothing may happen to it any more.
            self._know_not(run.id)
            return
        if refused is None and run.id not in shell.engine.runs:
            self._let_in(shell, run)
        self._answer(run.id, refused)

    def _know_not(self, run_id: str) -> None:
        if len(self._unknown) >= MOST_UNKNOWN:
            self._unknown.clear()
        self._unknown[run_id] = None
        self._answer(run_id, None)

    def _let_in(self, shell: Shell, run: Run) -> None:
        guest = run.id not in shell.engine.parked
        shell.engine.unpark(run)
        if guest:
            self._guests[run.id] = shell.mono_us + STAY_US
        else:
            self._enlist(shell.mono_us + STAY_US, run, rests=run.terminal)
            shell.live_runs += not run.terminal

    def _answer(self, run: str, refused: Refused | None) -> None:
        for wish in self._wishes.pop(run, ()):
            wish.settle(run, refused)

    # --- leaving ---------------------------------------------------------------------------------

    def begin(self, shell: Shell) -> None:
        """After recovery: whatever the snapshot shows may leave."""
        self._rest.extend(run_id for run_id, row in shell.engine.parked.items() if row.ended)
        for run in shell.engine.runs.values():
            if run.id not in shell.dirty and run.id not in shell.engine.charged:
                self._enlist_new(shell, run)

    def snapshot_taken(self, manifest: Manifest, runs: Iterable[str]) -> None:
        """A snapshot is durable; ``runs`` are those that it shows anew."""
        self.snapshot = manifest
        self._shown.append((manifest, iter(runs)))

    def _enlist_shown(self, shell: Shell) -> None:
        """Have runs stand in line that a snapshot shows as they still are."""
        left = SHOWN_AT_ONCE
        while self._shown and left:
            manifest, names = self._shown[0]
            taken = list(islice(names, left))
            if len(taken) < left:
                self._shown.popleft()
            left -= len(taken)
            for name in taken:
                run = shell.engine.runs.get(name)
                place = manifest.places.get(RUN + name)
                if run is not None and place is not None and run.seq == place.seq:
                    self._guests.pop(name, None)
                    self._enlist_new(shell, run)

    def _enlist_new(self, shell: Shell, run: Run) -> None:
        self._enlist(0 if run.terminal else shell.mono_us + self._park_after_us, run)

    def _enlist(self, due_us: int, run: Run, rests: bool = False) -> None:
        queue = self._ended if run.terminal else self._waiting
        queue.append(Candidate(due_us, run.id, run.seq, rests))

    def advance(self, shell: Shell) -> None:
        """Let leave who may; called every tick."""
        self._enlist_shown(shell)
        for queue in (self._ended, self._waiting):
            for _ in range(min(max(PARK_AT_ONCE, len(queue) // PARK_PART), len(queue))):
                if queue[0].due_us > shell.mono_us:
                    break
                self._park(shell, queue.popleft())
        for run_id in [run for run, due_us in self._guests.items() if due_us <= shell.mono_us]:
            if run_id in shell.engine.in_memory:
                self._guests[run_id] = shell.mono_us + STAY_US
                continue
            del self._guests[run_id]
            if not shell.is_busy(run_id):
                shell.engine.leave(run_id)
        self._let_go(shell)

    def _park(self, shell: Shell, candidate: Candidate) -> None:
        run = shell.engine.runs.get(candidate.run)
        if run is None or run.seq != candidate.seq or not may_park(run):
            return
        if shell.is_busy(run.id) or run.id in shell.engine.in_memory:
            later = candidate._replace(due_us=shell.mono_us + STAY_US)
            (self._ended if run.terminal else self._waiting).append(later)
            return
        # It may have been asked for before it was submitted.
        self._unknown.pop(run.id, None)
        shell.engine.park(run.id, row_of(run, standing(shell.engine, run).reason))
        if not run.terminal:
            shell.live_runs -= 1
        elif not candidate.rests:
            self._rest.append(run.id)

    def take_left(self) -> dict[str, None]:
        """Runs that left for good since this was asked last."""
        left, self.left = self.left, {}
        return left

    def has_history(self) -> bool:
        """Whether the history may know runs that nobody else does."""
        return bool(self._old)

    def old_lines(
        self, query: ListRuns, engine: Engine, then: Callable[[list[RunLine] | Refused], None]
    ) -> Io:
        """The work of reading a page of ended runs out of the history."""
        history = self.history
        resumed = frozenset(engine.successors) if query.dead_lettered else frozenset[str]()

        def listed(ended: Done | Broke) -> None:
            match ended:
                case Done(lines):
                    then(lines)
                case Broke(error):
                    then(Refused("unavailable", f"the history cannot be read: {error}", 1.0))

        return Io("list old runs", lambda: _old_lines(self._store, history, query, resumed), listed)

    def compacted(self, history: HistoryManifest) -> None:
        """The history covers more."""
        self.history = history
        self._old = Spans(history.of("runs"))
        self._told.clear()
        self._unknown.clear()
        self._rest += self._stay
        self._stay.clear()

    def _let_go(self, shell: Shell) -> None:
        """Ended runs whose last event is history leave for good, a few in each tick."""
        parked = shell.engine.parked
        for _ in range(min(LOOK_AT_ONCE, len(self._rest))):
            run_id = self._rest.popleft()
            row = parked.get(run_id)
            if row is None:
                if run_id in shell.engine.runs:
                    self._stay.append(run_id)
            elif self._is_history(shell, run_id, row):
                shell.engine.leave(run_id)
                self.left[run_id] = None
            else:
                self._stay.append(run_id)

    def _is_history(self, shell: Shell, run_id: str, row: Parked) -> bool:
        if row.seq > self.history.covered_seq:
            return False
        if row.origin and self._is_told(shell.engine, row.team, run_id, row.origin):
            return False
        if row.unsettled and shell.wall_us < row.finished_us + SETTLES_WITHIN_US:
            return False
        # As long as its key answers, it does so out of its row.
        key = f"{row.team}/{row.idempotency_key}"
        return not row.idempotency_key or key not in shell.engine.fleet.submissions

    def _is_told(self, engine: Engine, team: str, fork: str, origin: str) -> bool:
        """Whether anything may be left of a fork, or of the run that it was forked from.

        Only the fork's row tells that the other may not be forgotten, or was resumed, as long as it is there.
        """
        told = self._told.get(team)
        if told is None:
            files = (file for file in self.history.files if file.team == team)
            told = self._told[team] = Spans(files)
        return fork in told or origin in told or origin in engine.runs or origin in engine.parked


def _unloaded(error: Exception) -> Refused:
    return Refused("unavailable", f"the run cannot be loaded: {error}", 1.0)


def _old_lines(
    store: Store, history: HistoryManifest, query: ListRuns, resumed: Collection[str]
) -> list[RunLine]:
    """The newest ended runs that a query asks for, as many as make a page; none that was ``resumed``."""
    lines: list[RunLine] = []
    for line in newest_summaries(store, history, query.team, query.before, query.marks):
        if line["run_id"] not in resumed and query.lets_old_pass(line):
            lines.append(old_line(line))
        if len(lines) == query.limit:
            break
    return lines


def targets(engine: Engine, command: Command) -> list[str]:
    """The runs that must be in memory to decide a command."""
    wanted = [getattr(command, "run", "")]
    if isinstance(command, PutMemory | DeleteMemory) and command.scope == "run":
        wanted.append(command.owner)
    if isinstance(command, Forget):
        # Its children's content goes with it, and no snapshot may need the key of one.
        wanted.extend(name for name in engine.parked if name.startswith(f"{command.run}_"))
        origins = engine.parked.origins.items()
        wanted.extend(fork for fork, run in origins if f"{run}_".startswith(f"{command.run}_"))
    if isinstance(command, Submit | Fork):
        known = engine.fleet.submissions.get(f"{command.team}/{command.idempotency_key}")
        wanted.append(known.run if known is not None and command.idempotency_key else "")
    if isinstance(command, Fork) and command.origin.resumes:
        wanted.append(engine.successors.get(command.origin.run, ""))
    return wanted
