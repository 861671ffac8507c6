"""Content at rest through a whole life: sealed, erased with the end of its run, forgotten."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hive_ray.control.views import Answer, RunView
from hive_ray.core.artifacts import Artifact
from hive_ray.core.commands import (
    Cancel,
    Command,
    Complete,
    CorrectCost,
    Forget,
    Pause,
    Resolve,
    Resume,
    Signal,
    Submit,
)
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.keys import conversation_key, key_ref
from hive_ray.core.messages import ERASED, Lease, Outcome, StepContent, StepKind, ToolCall, encode
from hive_ray.core.values import Value, inline
from hive_ray.graph.compiled import NodeKind
from hive_ray.state.content import SealingCodec
from hive_ray.state.journal import Journal
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.records import read_row
from hive_ray.state.store import Store
from tests.control.driver import Crash, Driver
from tests.core.graphs import agent, chain, graph, human, mapping, node, tool
from tests.core.story import content
from tests.state import canaries
from tests.state.keyrings import keyring

BODY = chain(node("x"), id="body")
READ = tool("read")


def talk(record: bool = False):
    """A mapped function, a loop with a tool and a client, then a person."""
    loop = agent("a", READ, pool="function", client_facing=True, record=record)
    return chain(mapping("m", "list", BODY), loop, human("h", "approved"), id="g", subgraphs=(BODY,))


SAID = ("arg", "result", "delta", "question", "answer", "blob", "broke")
"""What is said in the conversation; each of them becomes ``canary-…``."""
TOLD = ("input", "item", "output", "comment", "pause", "x", "artifact", "file", "callback")
"""What outlives the run."""
_NUMBERS = itertools.count()


def canary(word: str) -> str:
    return f"canary-{word}"


class SealedDriver(Driver):
    """A controller on a state whose keys it opens itself, as after a restart."""

    def __init__(self, store: MemoryStore, plan: Any, crash_at: int = -1, **limits: Any) -> None:
        self.graph = plan
        super().__init__(store, [plan], crash_at, keys=keyring(store), **limits)

    def settle(self) -> None:
        """Time passes until every snapshot that is due is written, and its keys are erased."""
        for _ in range(10):
            self.pass_time(70_000_000)


class World:
    """A worker, a client and a person, who say what must not be found."""

    def __init__(self, driver: SealedDriver) -> None:
        self.driver = driver
        self.held: dict[AttemptRef, Outcome] = {}
        self._session = ""
        self._n = 0

    def after_crash(self, driver: SealedDriver) -> None:
        self.driver = driver
        self._session = ""

    def ask(self, command: Command) -> RunView:
        answer: Answer = self.driver.replies[self.driver.command(command)]
        assert answer.refused is None, answer.refused
        return answer.value

    def view(self) -> RunView:
        return self.driver.replies[self.driver.watch("r")].value

    def submit(self, key: bytes) -> None:
        given = content(list=[canary("item")], input=canary("input"))
        callback = f"https://{canary('callback')}.example/"
        version = self.driver.graph.version
        self.ask(Submit("r", "q", "team", "agent", version, given, key=key, callback=callback))

    def live(self, key: bytes) -> None:
        """From the submission to the end."""
        self.submit(key)
        self.ask(Pause("r", canary("pause")))
        self.ask(Resume("r"))
        while self.view().status not in ("succeeded", "failed", "cancelled"):
            self.work()
            for wait in self.view().waits:
                self._answer(wait.approval_id, wait.reason)

    def _answer(self, approval: str, reason: str) -> None:
        if reason == "client":
            self.ask(Signal("r", content(said=canary("answer"))))
        else:
            self.ask(Resolve("r", approval, "approve", StepContent(message=canary("comment")), digest="d"))

    def work(self) -> None:
        if not self._session:
            attached = self.driver.attached(outcomes=tuple(self.held.values()))
            self._session, self._n = attached.session, 0
            self._acknowledge(attached.acknowledged)
        self._n += 1
        call = self.driver.exchange(self._session, self._n, *self.held.values())
        if call not in self.driver.replies:
            self.driver.pass_time(10_000_000)
        reply = self.driver.replies[call]
        self._acknowledge(reply.acknowledged)
        for lease in reply.leases:
            self.held[lease.key] = self._outcome(lease)

    def _acknowledge(self, keys: tuple[AttemptRef, ...]) -> None:
        for key in keys:
            self.held.pop(key, None)

    def _outcome(self, lease: Lease) -> Outcome:
        if lease.kind is StepKind.TOOL:
            if len(self._said(lease)) < 2:
                return Outcome(*lease.key, "TOOL_ERROR", encode(StepContent(message=canary("broke"))))
            given = content(result=canary("result"))
        elif lease.kind is StepKind.LLM:
            given = self._turn(lease)
        elif lease.kind is StepKind.COLLECT:
            given = content(m=[canary("x")])
        else:
            blob = self.driver.blobs.put(lease.run, canary("file").encode(), lease.content_key)
            made = Artifact(canary("artifact"), "text/plain", blob.size, "digest", blob.name)
            given = msgspec.structs.replace(content(x=canary("x")), artifacts=(made,))
        return Outcome(*lease.key, "", encode(given), name=lease.name)

    def _said(self, lease: Lease) -> list[Any]:
        run = self.driver.engine.runs[lease.run]
        loop = run.visits[lease.serial].loop
        assert loop is not None
        return [turn for turn in loop.conversation if turn.role == "assistant"]

    def _turn(self, lease: Lease) -> StepContent:
        """Call the tool (it breaks), call it again, ask the client, then set the output."""
        turns = [turn.role for turn in lease.conversation].count("assistant")
        delta = inline({"text": canary("delta"), "calls": []})
        if turns < 2:
            call = ToolCall(f"c{turns}", "read", {"q": inline(canary("arg"))})
            return StepContent(delta=delta, calls=(call,))
        if turns == 2:
            record = self.driver.graph.nodes[1].record
            key = lease.content_key if record else conversation_key(lease.content_key)
            ref = self.driver.blobs.put(lease.run, encode(canary("blob")), key)
            return StepContent(delta=Value(b"", ref.name, ref.size), question=inline(canary("question")))
        return StepContent(outputs={"a": inline(canary("output"))}, delta=delta)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    name = f"sealing{next(_NUMBERS)}"
    yield MemoryStore(name)
    forget_memory(name)


def lived(store: MemoryStore, record: bool = False) -> World:
    """A run that has succeeded."""
    world = World(SealedDriver(store, talk(record)))
    world.live(fresh_key(store))
    return world


def fresh_key(store: MemoryStore) -> bytes:
    return key_ref(keyring(store).add_page().page, 0)


def opened(store: Store) -> set[str]:
    """Words that the keys of the state still open."""
    texts = b"\n".join(data for _, data in canaries.readable(store, SealingCodec(keyring(store))))
    return {word for word in (*SAID, *TOLD) if canary(word).encode() in texts}


def test_nothing_that_was_said_is_found_in_the_state(store: MemoryStore):
    """Neither while the run lives nor after: not raw, not decompressed, not in a table."""
    world = World(SealedDriver(store, talk(), erase_us=0))
    world.live(fresh_key(store))
    world.driver.settle()

    assert world.view().status == "succeeded"
    for word in (*SAID, *TOLD, "may it go out?"):
        assert canaries.found(store, canary(word)) == [], word
    assert canaries.found(store, "may it go out") == [], "the graph is content too"
    assert canaries.found(store, "RunSubmitted") != [], "kinds of events stay readable"


def test_a_conversation_ends_with_its_run(store: MemoryStore):
    """With all keys of the state, what was said cannot be read any more; what came of it can."""
    world = lived(store)
    assert opened(store) == {*SAID, *TOLD}
    world.driver.settle()

    assert opened(store) == set(TOLD)
    assert world.view().outputs["a"] == inline(canary("output"))


def test_a_conversation_of_a_node_that_records_stays(store: MemoryStore):
    """``record: true`` is the graph's wish."""
    world = lived(store, record=True)
    world.driver.settle()

    assert opened(store) == {*SAID, *TOLD}


def test_a_forgotten_run_leaves_nothing_but_facts(store: MemoryStore):
    """Its children's content goes too, with its blobs; kinds, times and costs stay."""
    world = lived(store)
    view = world.ask(Forget("r", "ann"))
    assert view.forgotten and not view.outputs
    world.driver.settle()

    assert opened(store) == set()
    assert store.list("blobs/") == []
    assert world.ask(Forget("r")).forgotten, "forgetting again is no fault"
    kinds = [row.kind for segment in Journal(store, 0).read_segments() for row in segment.columns.rows()]
    assert kinds.count("RunForgotten") == 2, "the run and its one child"
    assert kinds.count("StepSucceeded") > 5


def test_a_forgotten_run_can_be_corrected(store: MemoryStore):
    """Its reason is content, and has no key: what it cost counts all the same."""
    world = lived(store)
    world.ask(Forget("r"))
    world.driver.settle()

    corrected = world.ask(CorrectCost("r", "c", 5, StepContent(message=canary("why"))))

    assert corrected.spent_nanousd == 5
    again = World(SealedDriver(store, talk()))
    assert again.view().spent_nanousd == 5
    assert opened(store) == set()


def test_events_of_erased_content_say_so(store: MemoryStore):
    """They are read as before, and marked."""
    world = lived(store)
    world.driver.settle()
    codec = SealingCodec(keyring(store))
    rows = [
        read_row(segment.name, row, codec)
        for segment in Journal(store, 0).read_segments()
        for row in segment.columns.rows()
    ]
    told = {type(row.event).__name__: row.content is ERASED for row in rows if row and row.content}

    assert told["ToolCallFailed"] and not told["NodeSucceeded"] and not told["RunSubmitted"]


def test_recovery_needs_no_erased_key(store: MemoryStore):
    """Also where the journal behind the snapshot still has what was said."""
    world = lived(store)
    world.driver.settle()
    before = world.view()
    again = World(SealedDriver(store, talk()))

    assert again.view() == before
    assert again.driver.engine.fleet.epoch == 2


def test_a_journal_whose_conversation_is_erased_can_be_applied(store: MemoryStore):
    """From its beginning, without any snapshot: the run ends as it did, with the same memory."""
    world = lived(store)
    memory = world.driver.engine.runs["r"].memory
    world.driver.settle()
    for name in store.list("snapshots/"):
        store.delete(name)
    again = World(SealedDriver(store, talk()))

    assert again.view().status == "succeeded"
    assert again.driver.engine.runs["r"].memory == memory


def test_a_forgotten_runs_journal_can_be_applied(store: MemoryStore):
    """Nothing of its content is there, and nothing needs it."""
    world = lived(store)
    world.ask(Forget("r"))
    world.driver.settle()
    for name in store.list("snapshots/"):
        store.delete(name)
    again = World(SealedDriver(store, talk()))

    assert again.view().status == "succeeded" and again.view().forgotten
    assert again.driver.engine.runs["r"].memory == {}


def test_a_crash_anywhere_keeps_every_promise(store: MemoryStore):
    """Between any two actions, from the submission to the last erased key: the run ends, its conversation is
    gone, and what was forgotten is too."""
    for boundary in itertools.count(1):
        name = f"sealing-crash{boundary}"
        state = MemoryStore(name)
        key = fresh_key(state)
        world: World | None = None
        driver: SealedDriver | None = None
        try:
            driver = SealedDriver(state, talk(), boundary, erase_us=0)
            world = World(driver)
            _whole(world, key)
        except Crash:
            assert world is not None
            world.after_crash(SealedDriver(state, talk(), erase_us=0))
            _whole(world, key)
        world.driver.crash_at(1 << 30)

        assert world.view().forgotten, f"crash at action {boundary}"
        assert opened(state) == set(), f"crash at action {boundary}"
        assert state.list("blobs/") == [], f"crash at action {boundary}"
        forget_memory(name)
        assert driver is not None
        if driver.performed < boundary:
            assert boundary > 50
            return


def _whole(world: World, key: bytes) -> None:
    """Live, let the conversation go, forget."""
    driver = world.driver
    if not driver.engine.runs.get("r") or not driver.engine.runs["r"].terminal:
        world.live(key)
    driver.settle()
    assert opened(driver.store) <= set(TOLD)
    world.ask(Forget("r"))
    driver.settle()


def test_what_cannot_be_forgotten_is_refused(store: MemoryStore):
    """A live run, a child, a run of before, one that nobody knows; nothing is recorded."""
    world = World(SealedDriver(store, talk()))
    driver = world.driver
    world.submit(fresh_key(store))
    driver.command(Submit("plain", "q", "team", "agent", driver.graph.version, content(list=[])))
    driver.command(Cancel("plain"))
    child = next(run for run in driver.engine.runs if run not in ("r", "plain"))
    before = driver.engine.seq
    refusals = {
        name: driver.replies[driver.command(Forget(name))].refused for name in ("r", child, "plain", "none")
    }

    assert {name: refused.problem for name, refused in refusals.items()} == {
        "r": "conflict",
        child: "conflict",
        "plain": "conflict",
        "none": "not_found",
    }
    assert "cancel it first" in refusals["r"].message
    assert "run r" in refusals[child].message
    assert "plain" in refusals["plain"].message
    assert driver.engine.seq == before


def test_a_submission_with_a_strange_key_is_refused(store: MemoryStore):
    """A conversation's key, or the state's own, is no run's key."""
    driver = SealedDriver(store, talk())
    for key in (conversation_key(fresh_key(store)), bytes(10), b"short"):
        command = Submit("r", "q", "team", "agent", driver.graph.version, content(list=[]), key=key)

        assert driver.replies[driver.command(command)].refused.problem == "invalid"
    assert driver.engine.runs == {}


def test_an_answer_that_completes_a_conversation_is_part_of_it(store: MemoryStore):
    """What the client hands over at the end is an output, and stays."""
    plan = graph([agent("a", pool="function", client_facing=True)], id="g")
    assert plan.nodes[0].kind is NodeKind.EVENT_LOOP
    world = World(SealedDriver(store, plan))
    world.driver.command(Submit("r", "q", "team", "agent", plan.version, content(), key=fresh_key(store)))
    attached = world.driver.attached()
    reply = world.driver.replies[world.driver.exchange(attached.session, 1)]
    lease: Lease = reply.leases[0]
    asked = StepContent(question=inline(canary("question")), delta=inline({"text": "", "calls": []}))
    world.driver.exchange(attached.session, 2, Outcome(*lease.key, "", encode(asked)))
    world.ask(Complete("r", content(a=canary("output"))))
    world.driver.settle()

    assert opened(store) == {"output"}
