"""Runs that wait, and runs that ended, are out of memory, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from hive_ray.control import snapshotting
from hive_ray.control.actions import Action
from hive_ray.control.io import Done, Io, attempt
from hive_ray.control.keeping import Keeper
from hive_ray.control.queries import GetMemory, GetRun, ListApprovals, ListMemory, ListRuns, runs_of
from hive_ray.control.shell import Shell
from hive_ray.control.views import RunView
from hive_ray.core import features
from hive_ray.core.commands import Cancel, CorrectCost, Pause, PutMemory, Resolve, Resume
from hive_ray.core.keeping import Keeping
from hive_ray.core.messages import Lease, Outcome, StepContent
from hive_ray.core.run import encode_run
from hive_ray.core.values import inline
from hive_ray.errors import StoreError
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.content import PlainCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.pieces import pieces_of
from hive_ray.state.retention import Retention
from hive_ray.state.store import Store
from tests.control.driver import Driver
from tests.control.shell_test import GRAPH, done, submit
from tests.core.graphs import chain, edge, graph, human, mapping, node
from tests.core.story import content

SECOND_US = 1_000_000


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    yield MemoryStore(request.node.name)
    forget_memory(request.node.name)


class World:
    """A controller that parks, with one worker."""

    def __init__(self, store: Store, graphs: Iterable[CompiledGraph] = (GRAPH,), **given: Any) -> None:
        self.driver = Driver(store, graphs, park_after_us=SECOND_US, **given)
        self.session = self.driver.attached().session
        self.n = 0
        self.waiting = -1
        """The exchange that was not looked at yet."""

    @property
    def parked(self) -> set[str]:
        return set(self.driver.engine.parked)

    def work(self) -> list[Lease]:
        """Do what there is to do; an exchange that found nothing waits for the next time."""
        while True:
            if self.waiting not in self.driver.replies:
                self._exchange()
            if self.waiting not in self.driver.replies:
                return []
            leases = self.driver.replies[self.waiting].leases
            self._exchange(*(done(lease) for lease in leases))
            if leases:
                return list(leases)

    def _exchange(self, *outcomes: Outcome) -> None:
        self.n += 1
        self.waiting = self.driver.exchange(self.session, self.n, *outcomes)

    def wait(self, *runs: str, **fields: Any) -> None:
        """Runs that wait for a person."""
        for run in runs:
            self.driver.command(submit(run, **fields))
            self.work()

    def rest(self) -> None:
        """Time passes until nothing more is parked or compacted."""
        for _ in range(12):
            self.driver.pass_time(SECOND_US)

    def asked(self, query: Any) -> Any:
        """The answer to a question."""
        call = self.driver.call()
        shell = self.driver.shell
        if isinstance(query, ListRuns):
            shell.list_runs(call, query, self.driver.clock)
        else:
            runs = runs_of(query, self.driver.engine)
            shell.query(call, query.look, self.driver.clock, runs)
        self.driver.perform()
        answer = self.driver.replies[call]
        assert answer.refused is None, answer.refused
        return answer.value

    def told(self, command: Any) -> Any:
        return self.driver.replies[self.driver.command(command)]

    def grow(self, times: int = 6) -> None:
        """Other things happen, so that snapshots are taken and compaction has something to do."""
        for _ in range(times):
            name = f"z{self.driver.engine.seq:06d}"
            self.driver.command(submit(name))
            self.driver.command(Cancel(name, "noise"))
            self.rest()


def test_a_run_that_waits_leaves_memory_and_comes_back_for_its_answer(store: MemoryStore):
    """The whole of it: the step behind the approval is leased as if it had never been away."""
    world = World(store)
    world.wait("a", "b")
    before = encode_run(world.driver.engine.runs["a"])
    world.rest()
    assert world.parked == {"a", "b"} and not world.driver.engine.runs
    assert world.driver.shell.live_runs == 0

    answer = world.told(Resolve("a", "a.1", "approve", StepContent(), digest="yes"))

    assert answer.value.status == "running"
    assert [lease.name for lease in world.work()] == ["z"]
    assert world.driver.engine.runs["a"].status == "succeeded"
    assert world.parked == {"b"}
    assert len(before) > 100


def test_the_memory_of_a_parked_run_is_written_and_read(store: MemoryStore):
    """Both wait until the run is back."""
    world = World(store)
    world.wait("a")
    world.rest()
    assert world.parked == {"a"}
    written = world.told(PutMemory("run", "a", "n", inline(1)))
    world.rest()
    assert world.parked == {"a"}

    assert written.value.version == 1
    assert world.asked(GetMemory("run", "a", "n")).value == inline(1)
    world.rest()
    assert [view.key for view in world.asked(ListMemory("run", "a"))] == ["n"]


def test_what_is_loaded_is_what_left(store: MemoryStore):
    """Looking at a run changes nothing in it, and it leaves again."""
    world = World(store)
    world.wait("a")
    before = encode_run(world.driver.engine.runs["a"])
    world.rest()

    view: RunView = world.asked(GetRun("a"))

    assert view.status == "waiting" and view.waits[0].approval_id == "a.1"
    assert encode_run(world.driver.engine.runs["a"]) == before
    world.rest()
    assert world.parked == {"a"}


def test_a_deadline_finds_a_parked_run(store: MemoryStore):
    """Its wait expires on time, also over a restart of the controller."""
    world = World(store)
    world.wait("a", "b")
    world.rest()
    due_us = world.driver.engine.parked["a"].due_us

    world = World(store, clock=world.driver.clock)
    assert world.parked == {"a", "b"}
    world.driver.pass_time(due_us - world.driver.clock.wall_us - SECOND_US)
    assert world.parked == {"a", "b"}
    world.driver.pass_time(SECOND_US)

    assert {run: state.failure for run, state in world.driver.engine.runs.items()} == {
        "a": "EXPIRED",
        "b": "EXPIRED",
    }


def test_pages_of_approvals_show_each_question_once(store: MemoryStore):
    """Also of runs that began to wait at the same time, and are parked again between two pages."""
    world = World(store)
    world.wait("a", "b", "c", "d", "e")
    world.rest()
    found: list[str] = []
    query = ListApprovals(limit=2)
    while page := world.asked(query):
        found.extend(wait.approval_id for wait in page)
        query = ListApprovals(limit=2, after=(page[-1].since_us, page[-1].approval_id))
        world.rest()
        assert world.parked == {"a", "b", "c", "d", "e"}

    assert found == ["a.1", "b.1", "c.1", "d.1", "e.1"]


def test_a_later_question_of_a_parked_run_is_listed(store: MemoryStore):
    """Its first one was on an earlier page."""
    both = graph(
        [node("s"), human("h", "x"), node("t"), human("i", "y")],
        [edge("s", "h"), edge("s", "t"), edge("t", "i")],
    )
    only = chain(human("h", "x"), id="only")
    world = World(store, [both, only])
    world.driver.command(submit("two", graph=both.version))
    world._exchange()
    for _ in ("s", "t"):
        (lease,) = world.driver.replies[world.waiting].leases
        world.driver.pass_time(SECOND_US)
        world._exchange(done(lease))
        world.driver.pass_time(SECOND_US)
        world.driver.command(submit(f"after {lease.name}", graph=only.version))
    world.rest()
    assert world.parked == {"two", "after s", "after t"}

    first = world.asked(ListApprovals(limit=2))
    world.rest()
    second = world.asked(ListApprovals(limit=2, after=(first[1].since_us, first[1].approval_id)))

    found = [wait.approval_id for wait in (*first, *second)]
    assert found == ["two.1", "after s.1", "two.2", "after t.1"]


def test_paused_runs_are_parked_and_resumed(store: MemoryStore):
    """Their ready steps come back into the queue."""
    world = World(store)
    world.driver.command(submit("a"))
    world.driver.command(Pause("a"))
    world.rest()
    assert world.parked == {"a"}

    world.told(Resume("a"))

    assert [lease.name for lease in world.work()] == ["a"]


def test_runs_that_work_or_back_off_stay(store: MemoryStore):
    """Only what waits for somebody leaves."""
    world = World(store)
    world.driver.command(submit("queued"))
    world.driver.exchange(world.session, 1)
    for number in range(3):
        world.driver.command(Cancel(f"nobody{number}"))
    world.rest()

    assert world.parked == set()
    assert "queued" in world.driver.engine.runs


def test_lists_show_parked_runs_in_pages(store: MemoryStore):
    """Newest first, filtered, without loading them; approvals oldest first."""
    world = World(store)
    world.wait("a", "b", "c", "d")
    world.driver.command(Cancel("b", "enough"))
    world.rest()
    assert world.parked == {"a", "b", "c", "d"}

    lines = world.asked(ListRuns(limit=3))
    assert [line.run_id for line in lines] == ["d", "c", "b"]
    assert [line.run_id for line in world.asked(ListRuns(limit=3, before="b"))] == ["a"]
    assert [line.run_id for line in world.asked(ListRuns(status="waiting"))] == ["d", "c", "a"]
    assert world.parked == {"a", "b", "c", "d"}

    assert world.asked(ListRuns(team="other")) == world.asked(ListRuns(status="failed")) == []
    assert [line.run_id for line in world.asked(ListRuns(team="team", before="c"))] == ["b", "a"]

    first = world.asked(ListApprovals(limit=2))
    last = first[-1]
    rest = world.asked(ListApprovals(limit=2, after=(last.since_us, last.approval_id)))
    assert [wait.approval_id for wait in (*first, *rest)] == ["a.1", "c.1", "d.1"]


def test_a_key_of_a_parked_run_still_answers(store: MemoryStore):
    """The same submission is answered with its run, another body is refused; also after a restart."""
    world = World(store)
    world.wait("a", idempotency_key="key", digest="one")
    world.driver.command(Cancel("a", "enough"))
    world.grow()
    assert "a" in world.parked

    for again in (world, World(store, clock=world.driver.clock)):
        assert again.told(submit("x", idempotency_key="key", digest="one")).value.run_id == "a"
        refused = again.told(submit("x", idempotency_key="key", digest="two")).refused
        assert refused.problem == "mismatch"
    assert "x" not in world.driver.engine.runs


def test_an_ended_run_leaves_for_good_and_is_found_in_the_history(store: MemoryStore):
    """By its id, in lists, and by commands that come too late; nothing of it stays here."""
    world = World(store)
    world.wait("a")
    world.driver.command(Cancel("a", "enough"))
    ended: RunView = world.asked(GetRun("a"))
    world.grow()
    assert "a" not in world.parked and "a" not in world.driver.engine.runs

    found: RunView = world.asked(GetRun("a"))
    assert (found.status, found.reason, found.finished_us) == (ended.status, ended.reason, ended.finished_us)
    late = world.told(Pause("a")).refused
    assert late.problem == "conflict" and "cancelled" in late.message
    assert world.told(submit("a")).value.run_id == "a"
    assert "a" in [line.run_id for line in world.asked(ListRuns(status="cancelled"))]
    assert world.told(Cancel("nobody")).refused.problem == "not_found"

    world.rest()
    assert "a" not in world.driver.engine.runs
    again = World(store, clock=world.driver.clock)
    assert "a" not in again.parked | set(again.driver.engine.runs)
    assert again.asked(GetRun("a")).status == "cancelled"


def test_a_run_that_cannot_be_loaded_is_refused_and_stays(store: MemoryStore):
    """The store is away: the client may ask again, and then gets its answer."""
    world = World(store)
    world.wait("a")
    world.rest()

    def away(operation: str, name: str) -> None:
        if operation == "get" and "/parts/" in name:
            raise StoreError("the store is away")

    store.before = away
    refused = world.told(Cancel("a", "enough")).refused
    store.before = None

    assert refused.problem == "unavailable" and world.parked == {"a"}
    world.driver.pass_time(SECOND_US)
    assert world.told(Cancel("a", "enough")).value.status == "cancelled"


def test_parking_loses_nothing_over_restarts(store: MemoryStore):
    """Recovery leaves parked runs where they are, and revives those that had events behind the snapshot."""
    world = World(store)
    world.wait("a", "b", "c")
    world.rest()
    world.told(Resolve("b", "b.1", "approve", StepContent(), digest="yes"))

    again = World(store, clock=world.driver.clock)

    assert again.parked == {"a", "c"} and list(again.driver.engine.runs) == ["b"]
    assert [lease.name for lease in again.work()] == ["z"]
    assert again.told(Cancel("a", "enough")).value.status == "cancelled"


def test_segments_behind_the_snapshots_become_history_by_themselves(store: MemoryStore):
    """And are gone from the journal, which therefore stays short."""
    world = World(store)
    world.wait("a")
    world.grow(10)

    manifest = newest_manifest(store, 0)
    assert manifest.covered > 20
    assert len(store.list("journal/0000/")) < 20
    assert world.driver.engine.compacted == manifest.covered
    view: RunView = world.asked(GetRun("a"))
    assert view.segments == () or min(view.segments) > 0


def test_compaction_goes_on_after_a_store_that_failed_while_segments_went(store: MemoryStore):
    """The manifest stood already: the next try begins behind it, not at segments that are gone."""
    world = World(store)
    refused: list[str] = []

    def refuse_once(operation: str, name: str) -> None:
        if operation == "delete" and name.startswith("journal/") and len(refused) < 3 and name not in refused:
            refused.append(name)
            raise StoreError(f"{name}: 500 Internal Server Error")

    store.before = refuse_once
    world.grow(10)
    failed_at = newest_manifest(store, 0).covered
    world.grow(10)
    world.rest()

    assert refused
    assert newest_manifest(store, 0).covered > failed_at
    assert len(store.list("journal/0000/")) < 20


# --- families ----------------------------------------------------------------------------------------

BODY = chain(node("x", cost_nanousd=30), id="body")
FAMILY = graph([mapping("m", "list", BODY)], subgraphs=(BODY,))


class SlowDriver(Driver):
    """Loads of runs may take their time."""

    loads: list[Io] | None = None

    def _do(self, action: Action) -> None:
        if isinstance(action, Io) and action.what == "load runs" and self.loads is not None:
            self.loads.append(action)
        else:
            super()._do(action)


class Family(World):
    """A run ``r`` with a child run ``r_1-0``, whose step is under way as ``lease``."""

    def __init__(self, store: Store) -> None:
        self.driver = SlowDriver(store, [FAMILY], park_after_us=SECOND_US)
        self.session = self.driver.attached().session
        self.n = 0
        self.begin("r", [1])
        self._exchange()
        (self.lease,) = self.driver.replies[self.waiting].leases

    def begin(self, run: str, items: list[int]) -> None:
        self.driver.command(submit(run, graph=FAMILY.version, content=content(list=items)))

    def grow(self, times: int = 2) -> None:
        for _ in range(times):
            name = f"z{self.driver.engine.seq}"
            self.begin(name, [])
            self.driver.command(Cancel(name, "noise"))
            self.rest()


def cancelled(store: Store) -> Family:
    """The run was cancelled, and its worker does not know it yet."""
    family = Family(store)
    family.driver.command(Cancel("r", "not needed"))
    family.grow()
    assert family.parked
    return family


def test_a_run_stays_while_an_attempt_of_its_child_is_under_way(store: MemoryStore):
    """The attempt ends after both runs did: its cost is the root's too."""
    family = cancelled(store)
    assert not {"r", "r_1-0"} & family.parked

    family._exchange(msgspec.structs.replace(done(family.lease), cost_nanousd=20))

    assert family.asked(GetRun("r")).spent_nanousd == 20
    family.grow()
    assert not family.driver.engine.runs


def test_a_later_controller_keeps_the_ancestors_of_an_attempt_under_way(store: MemoryStore):
    """Also one that a controller without this rule has parked: the worker's end moves both."""
    cancelled(store)

    driver = Driver(store, [FAMILY], park_after_us=SECOND_US)
    driver.shell.lose_worker("w", "killed", driver.clock)
    driver.perform()

    assert driver.engine.runs["r"].spent_nanousd == driver.engine.runs["r_1-0"].spent_nanousd == 30


def test_a_child_that_is_being_loaded_waits_for_its_ancestors(store: MemoryStore):
    """Time may pass between the two loads."""
    family = Family(store)
    family._exchange(done(family.lease))
    family.work()
    family.rest()
    assert {"r", "r_1-0"} <= family.parked
    loads = family.driver.loads = []
    driver = family.driver

    call = driver.command(CorrectCost("r_1-0", "c", 5, StepContent()))
    driver.pass_time(1)
    while loads:
        load = loads.pop(0)
        driver.shell.io_ended(load, attempt(load), driver.clock)
        driver.pass_time(SECOND_US)
        driver.pass_time(SECOND_US)

    assert driver.replies[call].refused is None


def kept_engine() -> SimpleNamespace:
    """As much of an engine as the keeper of its history looks at."""
    fleet = SimpleNamespace(epoch=1, feature_level=features.LATEST)
    return SimpleNamespace(fleet=fleet, keeping=Keeping(), runs={}, parked={})


def test_a_snapshot_that_comes_while_the_journal_is_compacted_is_not_forgotten():
    """And a piece of work is followed by a rest: the event loop has the interpreter most of the time."""
    asked: list[Io] = []
    shell = cast(
        Shell,
        SimpleNamespace(
            mono_us=0,
            wall_us=0,
            durable_seq=0,
            journal=SimpleNamespace(number=1),
            do=asked.append,
            history_grew=lambda manifest: None,  # pyright: ignore[reportUnknownLambdaType]
            live_run_ids=list,
            engine=kept_engine(),
        ),
    )
    manifest = HistoryManifest(0)
    nothing = pieces_of(MemoryStore("keeping"), 0, PlainCodec())
    keeper = Keeper(MemoryStore("keeping"), nothing, Retention(), manifest)

    keeper.advance(shell)
    keeper.snapshot_taken()
    shell.mono_us = 100  # pyright: ignore[reportAttributeAccessIssue]
    asked.pop().then(Done(manifest))
    keeper.advance(shell)
    assert asked == []
    shell.mono_us = 400  # pyright: ignore[reportAttributeAccessIssue]
    keeper.advance(shell)
    assert [io.what for io in asked] == ["compact the journal"]


def test_the_history_gives_way_to_a_busy_controller_for_a_time():
    """Under load one piece is compacted in half a minute, unless too many segments wait."""
    asked: list[Io] = []
    journal = SimpleNamespace(number=1)
    shell: Any = SimpleNamespace(
        mono_us=40 * SECOND_US,
        wall_us=0,
        durable_seq=400_000,
        journal=journal,
        do=asked.append,
        history_grew=lambda manifest: None,  # pyright: ignore[reportUnknownLambdaType]
        live_run_ids=list,
        engine=kept_engine(),
    )
    nothing = pieces_of(MemoryStore("keeping"), 0, PlainCodec())
    keeper = Keeper(MemoryStore("keeping"), nothing, Retention(), HistoryManifest(0))
    keeper.advance(shell)
    asked.pop().then(Done(HistoryManifest(0)))
    keeper.snapshot_taken()

    shell.mono_us += 2 * SECOND_US
    shell.durable_seq += 20_000
    keeper.advance(shell)
    assert asked == []

    journal.number = 30_000
    keeper.advance(shell)
    assert [io.what for io in asked] == ["compact the journal"]
    asked.pop().then(Done(HistoryManifest(0)))
    keeper.snapshot_taken()
    journal.number = 1

    for _ in range(31):
        shell.mono_us += SECOND_US
        shell.durable_seq += 10_000
        keeper.advance(shell)
    assert [io.what for io in asked] == ["compact the journal"]


def test_a_run_that_was_asked_for_before_it_was_there_is_found_when_it_has_left(store: MemoryStore):
    """Names that nobody knows are remembered, so that they are not looked for again: until there is one."""
    world = World(store)
    parking = world.driver.shell._parking
    assert parking is not None
    world.wait("m")
    parking._know_not("m")
    world.grow()
    world.rest()

    assert "m" in world.parked
    assert parking.absent(world.driver.engine, ["m"]) == ["m"]
