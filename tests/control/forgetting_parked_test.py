"""Runs out of memory, their keys, and forgetting: all three at once, over a run and its fork."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.control import snapshotting
from hive_ray.control.views import RunView
from hive_ray.core import forking
from hive_ray.core.commands import Forget, Fork, Resolve
from hive_ray.core.messages import ERASED, StepContent
from hive_ray.core.run import encode_run
from hive_ray.core.values import inline
from hive_ray.state.content import SealingCodec
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.run_events import RunEvents
from tests.control.sealed_history_test import KeptDriver
from tests.control.sealing_test import SAID, TOLD, World, canary, fresh_key, opened, talk
from tests.state.keyrings import keyring

IN_LOOP = {*SAID} - {"blob"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    yield MemoryStore(request.node.name)
    forget_memory(request.node.name)


class Parker(World):
    """A controller that parks, and may be replaced by its successor at any time."""

    def __init__(self, store: MemoryStore, restarts: bool) -> None:
        super().__init__(KeptDriver(store, talk()))  # pyright: ignore[reportArgumentType]
        self.store = store
        self._restarts = restarts

    def rest(self, *runs: str) -> None:
        """Time passes until those runs are out of memory and their keys are where they should be."""
        self.driver.settle()
        if self._restarts:
            self.after_crash(KeptDriver(self.store, talk()))  # pyright: ignore[reportArgumentType]
            self.driver.settle()
        assert not set(runs) & set(self.driver.engine.runs)

    def converse(self) -> None:
        """From the submission to the question to a person."""
        self.submit(fresh_key(self.store))
        while "h" not in {wait.node for wait in self.view().waits}:
            self.work()
            for wait in self.view().waits:
                if wait.reason == "client":
                    self._answer(wait.approval_id, "client")

    def fork(self) -> RunView:
        """A second run, from the state before the question."""
        events = list(RunEvents(self.store, self.codec, 0).read("r"))
        cut = forking.before_node(events, self.driver.graph, "h")
        assert isinstance(cut, forking.Cut)
        given = StepContent(state=encode_run(cut.state))
        key = fresh_key(self.store)
        return self.ask(
            Fork("f", "q", "team", "agent", self.driver.graph.version, given, cut.origin("r"), "d", key=key)
        )

    def approve(self, run: str) -> RunView:
        """Answer the question of a run, which is out of memory, and see it end."""
        assert run in self.driver.engine.parked
        (approval,) = [wait.approval_id for wait in self.shown(run).waits]
        comment = StepContent(message=canary("comment"))
        view = self.ask(Resolve(run, approval, "approve", comment, digest="d"))
        assert view.status == "succeeded"
        return view

    def shown(self, run: str) -> RunView:
        return self.driver.replies[self.driver.watch(run)].value

    @property
    def codec(self) -> SealingCodec:
        return SealingCodec(keyring(self.store))

    def told(self, run: str) -> set[str]:
        """Words that a run's own events still say, to whoever has all keys."""
        said = [
            row.content for row in RunEvents(self.store, self.codec, 0).read(run) if row.content is not ERASED
        ]
        return {word for word in (*SAID, *TOLD) if canary(word) in str(said)}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_run_that_was_parked_is_woken_ends_and_is_forgotten(store: MemoryStore, restarts: bool):
    """Its conversation is there as long as it may go on, then gone; then all of it is."""
    world = Parker(store, restarts)
    world.converse()
    world.rest("r")
    assert opened(store) >= IN_LOOP, "it waits, and may be forked"
    world.approve("r")
    world.rest("r")
    assert world.told("r") == {"input", "item", "x", "output", "comment", "callback"}
    assert not opened(store) & IN_LOOP

    assert world.ask(Forget("r", "ann")).forgotten
    world.rest("r")

    assert opened(store) == set() and store.list("blobs/") == []
    assert world.told("r") == set()
    assert world.shown("r").forgotten and world.shown("r").outputs == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_fork_keeps_its_own(store: MemoryStore, restarts: bool):
    """Neither the end of its parent takes its content away, nor is the parent's gone with it."""
    world = Parker(store, restarts)
    world.converse()
    world.rest("r")
    world.fork()
    world.rest("r", "f")
    world.approve("r")
    world.rest("r", "f")
    refused = world.driver.replies[world.driver.command(Forget("r"))].refused
    assert refused.problem == "conflict" and "goes on in f" in refused.message
    world.rest("r", "f")
    assert world.approve("f").outputs["a"] == inline(canary("output"))
    world.rest("r", "f")
    assert not opened(store) & IN_LOOP

    assert world.ask(Forget("f", "ann")).forgotten
    world.rest("r", "f")
    assert world.told("f") == set() and "output" in world.told("r")
    assert world.shown("r").outputs["a"] == inline(canary("output"))

    assert world.ask(Forget("r", "ann")).forgotten
    world.rest("r", "f")
    assert opened(store) == set() and store.list("blobs/") == []
