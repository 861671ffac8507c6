"""Random graphs, and random things that happen to the runs in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from hypothesis import strategies as st

from hive_ray.control import buckets
from hive_ray.core import events as ev
from hive_ray.core import forking, people
from hive_ray.core.artifacts import Artifact, ArtifactBounds
from hive_ray.core.commands import Cancel, Complete, Pause, RaiseLevel, Resolve, Resume, Signal
from hive_ray.core.engine import Engine
from hive_ray.core.evolution import begin_fork
from hive_ray.core.failures import FailureKind
from hive_ray.core.families import family_order
from hive_ray.core.fleet import AttemptRef, Fleet, decode_fleet, encode_fleet
from hive_ray.core.longterm import Bounds, is_item
from hive_ray.core.messages import Lease, StepContent, StepKind, Usage
from hive_ray.core.run import Run, decode_run, encode_run
from hive_ray.graph.compiled import LOOPS, CompiledGraph, FallbackKind, FallbackPlan, NodePlan
from tests.core.graphs import HOUR_US, Facts, tool
from tests.core.random_graphs import produced, random_graph, writes
from tests.core.story import Story, values

T = TypeVar("T")

# --- graphs ------------------------------------------------------------------------------------------


class Drawn:
    """Lets hypothesis choose, so that it can shrink what it finds."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def flag(self) -> bool:
        return self._draw(st.booleans())

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))


@st.composite
def graphs(draw: Any) -> CompiledGraph:
    return with_stand_ins(random_graph(Drawn(draw)))


def with_stand_ins(graph: CompiledGraph) -> CompiledGraph:
    """The same graph, with something in the place of calls of its agents that fail for good."""
    agents = [
        msgspec.structs.replace(node, fallbacks=STAND_INS) if node.kind in LOOPS else node
        for node in graph.nodes
    ]
    bodies = tuple(map(with_stand_ins, graph.subgraphs))
    return msgspec.structs.replace(graph, nodes=tuple(agents), subgraphs=bodies)


STAND_INS = (
    FallbackPlan(FallbackKind.TOOL, tuple(FailureKind), tool=tool("look"), instead_of="read"),
    FallbackPlan(FallbackKind.VALUE, tuple(FailureKind)[::2], value=b"1", instead_of="look"),
)
"""For more kinds than a graph may name, since tool calls of agents seldom fail here."""


# --- what happens --------------------------------------------------------------------------------------


class Move(NamedTuple):
    """Something that happens; ``a`` and ``b`` choose among what there is."""

    what: str
    a: int
    b: int


NAMES = (
    "lease", "lease", "lease", "succeed", "succeed", "succeed", "succeed", "fail", "repeat", "lose",
    "give_back", "cancel", "pause", "resume", "answer", "answer", "wait", "submit", "snapshot", "fork",
    "resume_ended",
)  # fmt: skip

MOST_RUNS = 24
"""Forks stop here, children included."""

moves = st.lists(
    st.builds(Move, st.sampled_from(NAMES), st.integers(0, 63), st.integers(0, 63)), min_size=12, max_size=40
)

KINDS = tuple(FailureKind)


class History(Story):
    """A story that chance tells."""

    def __init__(self, top: CompiledGraph, budget_nanousd: int) -> None:
        super().__init__(top, slots=3)
        self.engine.command(RaiseLevel(2), self.now)
        # Small, so that histories meet the bounds.
        self.engine.keeping.memory = Bounds(entries=6)
        self.engine.keeping.artifacts = ArtifactBounds(most=12)
        self._budget_nanousd = budget_nanousd
        self._held: list[tuple[Lease, int]] = []
        self._done: list[Callable[[], None]] = []
        self._snapshot: Snapshot | None = None
        self._workers = 0
        self._not_begun: set[AttemptRef] = set()
        self.begin()

    def begin(self) -> None:
        number = len(self.engine.runs)
        given = {"list": [1, 2, 3], "k": number % 2 == 0}
        budget = self._budget_nanousd if number % 3 < 2 else -1
        self.submit(run=f"run{number}", input=given, budget_nanousd=budget)

    def play(self, move: Move) -> None:
        getattr(self, f"_on_{move.what}")(move.a, move.b)
        if self._snapshot is not None:
            self._snapshot.advance(self.engine)

    # --- workers

    def _on_lease(self, a: int, b: int) -> None:
        workers = list(self.engine.fleet.workers.values())
        if not workers:
            return
        for lease in self.engine.dispatch.admit(workers[a % len(workers)], self.now, 1 + b % 3):
            step = self.engine.runs[lease.run].visits[lease.serial].steps[lease.call]
            self._held.append((lease, step.reserved_nanousd))
        self.check()

    def _take(self, a: int) -> tuple[Lease, int] | None:
        """An attempt under way; if there is none, work is given out first."""
        for number in range(len(self.engine.fleet.workers)):
            if not self._held:
                self._on_lease(a + number, a)
        return self._held.pop(a % len(self._held)) if self._held else None

    def _on_succeed(self, a: int, b: int) -> None:
        taken = self._take(a)
        if taken is not None:
            lease, reserved = taken
            given = produced(self.engine.graphs[lease.graph], lease, b)
            usage = Usage(2, 1) if lease.kind is StepKind.LLM else None
            brought = writes(lease, b)
            if lease.kind in (StepKind.FUNCTION, StepKind.TOOL) and b % 3 == 1:
                given = msgspec.structs.replace(given, artifacts=(_artifact(lease, b),))
            cost = min(b % 7, reserved)
            self._say(lambda: self.report(lease, given, cost_nanousd=cost, usage=usage, memory=brought))

    def _on_fail(self, a: int, b: int) -> None:
        taken = self._take(a)
        if taken is not None:
            lease, reserved = taken
            kind = KINDS[b % len(KINDS)]
            fields = {"started": b < 48, "cost_nanousd": min(a % 3, reserved)}
            if not fields["started"]:
                self._not_begun.add(lease.key)
            self._say(lambda: self.fail(lease, kind, **fields))

    def _say(self, report: Callable[[], None]) -> None:
        self._done.append(report)
        report()

    def _on_repeat(self, a: int, b: int) -> None:
        """An outcome comes a second time; or one comes that is late since its worker was given up."""
        if self._done:
            before = len(self.journal)
            self._done[a % len(self._done)]()
            spent = [event.cost_nanousd for _, _, event, _ in self.events()[before:] if _is_late(event)]
            assert all(cost <= 0 for cost in spent), "a repeated outcome was charged again"

    def _on_lose(self, a: int, b: int) -> None:
        workers = list(self.engine.fleet.workers.values())
        if workers and b < 40:
            lost = workers[a % len(workers)]
            # Some of what it held still reports, too late.
            self.lose(lost.name)
        self._workers += 1
        self.attach(f"w{self._workers}", ("function", "llm")[b % 2], 1 + a % 3)

    def _on_give_back(self, a: int, b: int) -> None:
        """A lease that never reached its worker, if that worker is still known."""
        taken = self._take(a)
        if taken is not None:
            lease = taken[0]
            if any(lease.key in worker.leases for worker in self.engine.fleet.workers.values()):
                self.engine.return_lease(lease.key, self.now)
                self.check()

    # --- people

    def _run(self, a: int) -> Run:
        return list(self.engine.runs.values())[a % len(self.engine.runs)]

    def _on_cancel(self, a: int, b: int) -> None:
        if b < 16:
            self.tell(Cancel(self._run(a).id))

    def _on_pause(self, a: int, b: int) -> None:
        self.tell(Pause(self._run(a).id))

    def _on_resume(self, a: int, b: int) -> None:
        self.tell(Resume(self._run(a).id))

    def _on_submit(self, a: int, b: int) -> None:
        if len(self.engine.runs) < 8:
            self.begin()

    def _on_fork(self, a: int, b: int) -> None:
        """At any place of any run's history; the parent does not notice."""
        parent = self._run(a)
        places = forking.boundaries(self.told(parent.id), self.engine.graphs[parent.graph])
        if len(self.engine.runs) >= MOST_RUNS or not places:
            return
        node_id, visit, _ = places[b % len(places)]
        before = encode_run(parent)
        given = {"k": a % 2 == 0} if b % 2 else {}
        forked = self.fork(node_id, parent.id, f"fork{len(self.engine.runs)}", visit, given, budget_nanousd=b)
        assert isinstance(forked, Run), forked
        assert encode_run(parent) == before, "a fork changed its parent"

    def _on_resume_ended(self, a: int, b: int) -> None:
        ended = [run for run in self.engine.runs.values() if run.status in ("failed", "cancelled")]
        if len(self.engine.runs) < MOST_RUNS and ended:
            parent = ended[a % len(ended)]
            resumed = self.resume_ended(parent.id, f"again{len(self.engine.runs)}")
            assert isinstance(resumed, Run), resumed

    def _on_answer(self, a: int, b: int) -> None:
        waits = [(r, v.wait) for r in self.engine.runs.values() for v in r.visits.values() if v.wait]
        if not waits:
            return
        run, wait = waits[a % len(waits)]
        given = StepContent(outputs=values(k=b % 2 == 0, said="hm"))
        decisions = people.answers(wait)
        decision = decisions[b % len(decisions)]
        if wait.reason == "client" and len([v for v in run.visits.values() if v.wait]) == 1:
            self.tell(Signal(run.id, given) if decision == "answer" else Complete(run.id, given))
        else:
            self.tell(Resolve(run.id, wait.approval, decision, given))

    def _on_wait(self, a: int, b: int) -> None:
        self.pass_time((1_000, 1_000, 1_000, HOUR_US, 80 * HOUR_US)[b % 5])

    def _on_snapshot(self, a: int, b: int) -> None:
        self._snapshot = Snapshot(self.engine, slices=1 + a % 3)

    # --- the end

    def finish(self) -> None:
        """Everything that can happen well does, until nothing is left: then every run has ended."""
        self.attach("last-f", "function", 50)
        self.attach("last-l", "llm", 50)
        for _ in range(400):
            if all(run.terminal for run in self.engine.runs.values()) and not self._held:
                break
            for run in list(self.engine.runs.values()):
                if not run.terminal:
                    self.tell(Resume(run.id))
            self._on_answer(0, 1)
            self._on_lease(len(self.engine.fleet.workers) - 1, 2)
            self._on_lease(len(self.engine.fleet.workers) - 2, 2)
            self._on_succeed(0, 4)
            self._on_succeed(0, 3)
            self.pass_time(1_000)
        left = [run.id for run in self.engine.runs.values() if not run.terminal]
        assert not left, f"these runs did not end: {left}"
        assert all(not run.orphans and not run.reserved_nanousd for run in self.engine.runs.values())

    def check_replay(self) -> None:
        """From the journal alone, and from a snapshot taken in slices, the state comes out the same."""
        assert state_of(self.replayed()) == state_of(self.engine)
        if self._snapshot is not None and self._snapshot.complete:
            assert state_of(self._snapshot.restore(self)) == state_of(self.engine)

    def check_memory(self) -> None:
        """Each write stands right behind the success of the attempt that made it, under the next version of
        its shelf; and what the writes leave, one after the other, is what there is."""
        left: dict[str, dict[str, Any]] = {}
        versions: dict[str, int] = {}
        succeeded = ""
        for _, at_us, event, given in self.events():
            if isinstance(event, ev.RunForked):
                taken = begin_fork(event, given, at_us).shelf
                if taken is not None:
                    shelf = f"run/{event.run}"
                    versions[shelf] = taken.version
                    left[shelf] = {key: entry.value for key, entry in taken.entries.items()}
            if isinstance(event, ev.StepSucceeded):
                succeeded = f"{event.run}:{event.serial}.{event.call}.{event.attempt}"
            elif isinstance(event, ev.MemoryWritten | ev.MemoryDeleted):
                assert event.writer == succeeded, f"{event.writer} wrote behind {succeeded}"
                shelf = f"{event.scope}/{event.owner}"
                assert event.version == versions.get(shelf, 0) + 1
                versions[shelf] = event.version
                ((key, value),) = given.outputs.items()
                keys = left.setdefault(shelf, {})
                keys.pop(key, None)
                if isinstance(event, ev.MemoryWritten):
                    keys[key] = value
            else:
                succeeded = ""
        shelves = [run.shelf for run in self.engine.runs.values() if run.shelf is not None]
        for shelf in (*shelves, *self.engine.keeping.shelves.by_name.values()):
            there = {key: entry.value for key, entry in shelf.entries.items()}
            assert there == left[f"{shelf.scope}/{shelf.owner}"]

    def check_artifacts(self) -> None:
        """The root keeps what its family's successes brought, in their order, and nothing else."""
        brought: dict[str, list[Artifact]] = {}
        for _, _, event, given in self.events():
            if isinstance(event, ev.StepSucceeded):
                run = self.engine.runs[event.run]
                while run.parent:
                    run = self.engine.runs[run.parent]
                brought.setdefault(run.id, []).extend(given.artifacts)
        for run in self.engine.runs.values():
            kept = [item.artifact for item in run.artifacts]
            assert kept == ([] if run.parent else brought.get(run.id, []))
            assert [item.id for item in run.artifacts] == [f"art-{n + 1}" for n in range(len(kept))]

    def check_nothing_ran_twice(self) -> None:
        """Work that must not run twice was started again only where that was known to be safe."""
        started: dict[tuple[str, int, int], int] = {}
        for _, _, event, _ in self.events():
            kind = type(event).__name__
            key = (event.run, getattr(event, "serial", 0), getattr(event, "call", 0))
            if kind == "StepStarted":
                started[key] = started.get(key, 0) + 1
                assert started[key] == 1 or self._may_repeat(key), f"{key} was started twice"
            elif kind == "LeaseReturned" or (kind == "RetryScheduled" and self._is_safe(event)):
                started[key] = 0

    def _is_safe(self, event: Any) -> bool:
        """A person said that it did not happen, or its worker that it did not begin."""
        attempt = (event.run, event.serial, event.call, event.attempt - 1)
        return event.reason == "did_not_happen" or attempt in self._not_begun

    def _may_repeat(self, key: tuple[str, int, int]) -> bool:
        return key in self._idempotent()

    def _idempotent(self) -> set[tuple[str, int, int]]:
        """Calls that are declared idempotent: read off the graph, not off the core."""
        found: set[tuple[str, int, int]] = set()
        nodes: dict[tuple[str, int], NodePlan] = {}
        for _, at_us, event, told in self.events():
            kind = type(event).__name__
            if kind == "RunForked":
                for visit in begin_fork(event, told, at_us).visits.values():
                    plan = self.engine.graphs[event.graph].nodes[visit.node]
                    nodes[(event.run, visit.serial)] = plan
                    for step in visit.steps.values():
                        if step.kind in ("llm", "decide") or plan.idempotent:
                            found.add((event.run, visit.serial, step.call))
            elif kind == "NodeEntered":
                plan = self.engine.graphs[self.engine.runs[event.run].graph].nodes[event.node]
                nodes[(event.run, event.serial)] = plan
                if event.step == "llm" or plan.idempotent:
                    found.add((event.run, event.serial, 0))
            elif kind == "StepQueued":
                plan = nodes[(event.run, event.serial)]
                declared = event.name in ("read", "look") if event.turn >= 0 else plan.idempotent
                if event.kind in ("llm", "decide", "collect") or declared:
                    found.add((event.run, event.serial, event.call))
        return found


def _artifact(lease: Lease, b: int) -> Artifact:
    return Artifact(f"a{b % 2}", "text/plain", b, "", f"{lease.run}/{b}", "n")


def _is_late(event: Any) -> bool:
    return type(event).__name__ == "LateOutcome"


# --- snapshots -------------------------------------------------------------------------------------------


class Snapshot:
    """Encodes one run after the other while things go on, as the controller does."""

    def __init__(self, engine: Engine, slices: int) -> None:
        self._base_seq = engine.seq
        self._left = family_order(engine.runs, ["", *engine.runs, *engine.keeping.shelves.items()])
        self._slices = slices
        self._items: dict[str, bytes] = {}
        self.advance(engine)

    @property
    def complete(self) -> bool:
        return not self._left

    def advance(self, engine: Engine) -> None:
        now, self._left = self._left[: self._slices], self._left[self._slices :]
        for name in now:
            data = _encoded(engine, name)
            if data is not None:
                self._items[name] = data

    def restore(self, story: Story) -> Engine:
        engine = Engine(Facts(), buckets.take)
        for plan in story.graphs:
            engine.add_graph(plan)
        for name, item in self._items.items():
            if is_item(name):
                engine.keeping.shelves.restore(name, item)
            elif name:
                engine.runs[name] = decode_run(item)
            else:
                engine.fleet = decode_fleet(item)
        for event in story.events():
            if event[0] > self._base_seq:
                engine.replay(*event)
        engine.seq = story.engine.seq
        engine.restored()
        return engine


def _encoded(engine: Engine, name: str) -> bytes | None:
    if is_item(name):
        found = engine.keeping.shelves.encode(name)
        return found.data if found is not None else None
    return encode_run(engine.runs[name]) if name else encode_fleet(engine.fleet)


def state_of(
    engine: Engine,
) -> tuple[int, dict[str, Run], dict[str, Any], dict[str, dict[str, None]], dict[str, Any]]:
    """What two engines with the same past have in common; queues may hold stale entries."""
    fleet: Fleet = engine.fleet
    workers = {
        name: (worker.pool, worker.slots, worker.pid, sorted(worker.leases))
        for name, worker in fleet.workers.items()
    }
    children = dict(sorted(engine.children.items()))
    memory = {
        name: (shelf.version, dict(sorted(shelf.entries.items())))
        for name, shelf in sorted(engine.keeping.shelves.by_name.items())
    }
    return engine.seq, dict(sorted(engine.runs.items())), workers, children, memory
