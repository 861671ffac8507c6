"""What lies in history, summaries and long-term memory is as sealed as the journal that it came from."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from hive_ray.control import snapshotting
from hive_ray.core.commands import Cancel, Forget, PutMemory, Submit
from hive_ray.core.messages import ERASED, Lease, MemoryWrite, Outcome
from hive_ray.core.values import decode, inline
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.graph.memory_keys import parse_declaration
from hive_ray.state.content import SealingCodec
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.run_events import RunEvents
from hive_ray.state.store import Store
from tests.control.driver import Driver
from tests.control.sealing_test import SAID, TOLD, World, canary, fresh_key, talk
from tests.core.graphs import chain, mapping, node
from tests.core.story import content
from tests.state import canaries
from tests.state.keyrings import keyring

SCOPES = ("run", "agent", "team")
REMEMBERED = tuple(f"{what}-{scope}" for scope in SCOPES for what in ("key", "memory"))
"""What a step writes into long-term memory; each of them becomes ``canary-…``."""
PUT = ("key-put", "memory-put")
"""What somebody put there."""
OF_RUN = ("key-run", "memory-run")
HISTORY = ("history/", "runs/")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    yield MemoryStore(request.node.name)
    forget_memory(request.node.name)


class KeptDriver(Driver):
    """Runs leave memory and become history; sealed unless told otherwise."""

    def __init__(self, store: Store, plan: CompiledGraph, sealed: bool = True) -> None:
        self.graph = plan
        super().__init__(store, [plan], park_after_us=0, keys=keyring(store) if sealed else None)

    def settle(self) -> None:
        """Other runs come and go, until what was before is history and its keys are erased."""
        for _ in range(6):
            name = f"z{self.engine.seq:06d}"
            self.command(Submit(name, "q", "team", "agent", self.graph.version, content(list=[])))
            self.command(Cancel(name))
            for _ in range(4):
                self.pass_time(70_000_000)


class Rememberer(World):
    """As ``World``; the function in the map leaves memories, too."""

    def _outcome(self, lease: Lease) -> Outcome:
        outcome = super()._outcome(lease)
        if lease.name != "x":
            return outcome
        writes = tuple(
            MemoryWrite(scope, canary(f"key-{scope}"), inline(canary(f"memory-{scope}"))) for scope in SCOPES
        )
        return msgspec.structs.replace(outcome, memory=writes)


def remembering(record: bool = False) -> CompiledGraph:
    """``talk``, whose mapped function may write what it likes."""
    plan = talk(record)
    reads = tuple(parse_declaration(f"{scope}:*") for scope in SCOPES)
    body = chain(node("x", memory=reads), id="body")
    mapped = mapping("m", "list", body)
    return chain(mapped, plan.nodes[1], plan.nodes[2], id="g", subgraphs=(body,))


def lived(store: MemoryStore, record: bool = False, sealed: bool = True) -> Rememberer:
    """A run that has ended, and is history; somebody has put a value into memory meanwhile."""
    world = Rememberer(KeptDriver(store, remembering(record), sealed))  # pyright: ignore[reportArgumentType]
    world.live(fresh_key(store) if sealed else b"")
    put = PutMemory("agent", "team/agent", canary("key-put"), inline(canary("memory-put")))
    answer = world.driver.replies[world.driver.command(put)]
    assert answer.refused is None, answer.refused
    world.driver.settle()
    assert all(store.list(folder) for folder in HISTORY)
    assert "r" not in world.driver.engine.runs and "r" not in world.driver.engine.parked
    return world


def opened(store: Store, *folders: str) -> set[str]:
    """Words that the keys of the state still open, in some folders or anywhere."""
    names = canaries.readable(store, SealingCodec(keyring(store)))
    texts = b"\n".join(data for name, data in names if not folders or name.startswith(folders))
    return {word for word in (*SAID, *TOLD, *REMEMBERED, *PUT) if canary(word).encode() in texts}


def test_nothing_of_a_run_is_found_in_its_history(store: MemoryStore):
    """Neither in events nor in summaries, nor what it remembered and under which key."""
    lived(store)

    for word in (*SAID, *TOLD, *REMEMBERED, *PUT, "may it go out?"):
        assert canaries.found(store, canary(word)) == [], word
    assert opened(store, *HISTORY) >= {*TOLD, *REMEMBERED} - {"file"}, "it is there, and needs the keys"


def test_the_search_sees_into_a_history_that_is_not_sealed(store: MemoryStore):
    """So what it does not find in one that is, is not there."""
    lived(store, sealed=False)

    hidden = [
        word
        for word in (*SAID, *TOLD, *REMEMBERED, *PUT)
        if word not in ("blob", "file")
        and not any(name.startswith("history/") for name in canaries.found(store, canary(word)))
    ]
    assert hidden == []
    assert any(name.startswith("runs/") for name in canaries.found(store, canary("output")))


def test_a_conversation_in_the_history_ends_with_its_run(store: MemoryStore):
    """Its events stay, and say that what was said is erased."""
    lived(store)
    told = {
        type(row.event).__name__: row.content is ERASED
        for row in RunEvents(store, SealingCodec(keyring(store)), 0).read("r")
        if row.content
    }

    assert opened(store) == {*TOLD, *REMEMBERED, *PUT}
    assert told["ToolCallFailed"] and not told["NodeSucceeded"] and not told["RunSubmitted"]


def test_a_recorded_conversation_stays_in_the_history(store: MemoryStore):
    """``record: true`` is the graph's wish."""
    lived(store, record=True)

    assert opened(store, *HISTORY) >= {*SAID} - {"blob"}


def test_a_forgotten_run_is_forgotten_in_the_history_too(store: MemoryStore):
    """What it left to its agent and team is theirs; its own memory goes, keys and values."""
    world = lived(store)
    assert world.ask(Forget("r", "ann")).forgotten
    world.driver.settle()

    assert opened(store) <= {*REMEMBERED, *PUT}
    assert not opened(store) & {*OF_RUN, *TOLD}
    shelves = world.driver.engine.keeping.shelves
    kept = shelves.find("agent", "team/agent")
    assert kept is not None
    assert {key: decode(entry.value) for key, entry in kept.entries.items()} == {
        canary("key-agent"): canary("memory-agent"),
        canary("key-put"): canary("memory-put"),
    }
