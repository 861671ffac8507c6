"""The controller dies between any two of its actions, and nothing that was acknowledged is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from hive_ray.control.views import Answer, RunView
from hive_ray.core.artifacts import Artifact
from hive_ray.core.commands import Command, Resolve, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.longterm import Shelf
from hive_ray.core.messages import ExchangeReply, Lease, MemoryWrite, Outcome, StepContent, encode
from hive_ray.core.values import decode, inline
from hive_ray.state.memory_store import forget_memory
from hive_ray.state.store import Store, open_store
from tests.control.driver import Crash, Driver
from tests.core.graphs import chain, edge, graph, human, mail, mapping, node
from tests.core.story import content
from tests.servers.moto_s3 import MotoS3Server

BODY = chain(node("x"), id="body")
GRAPH = graph(
    [node("a"), mapping("m", "list", BODY), mail("b"), human("h", "approved"), mail("z")],
    [edge("a", "m"), edge("a", "b"), edge("m", "h"), edge("b", "h"), edge("h", "z")],
    subgraphs=(BODY,),
)
EFFECTS = ["a", "b", "collect", "x", "x", "z"]
_NUMBERS = itertools.count()


class World:
    """What lives outside the controller: a worker with its effects, and a client with its answers."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.effects: dict[tuple[str, int, int], str] = {}
        self.held: dict[AttemptRef, Outcome] = {}
        """Outcomes that are not acknowledged yet."""
        self._session = ""
        self._n = 0

    def live(self) -> None:
        """The whole story: one run, submitted, worked on, approved, finished."""
        given = content(list=[1, 2])
        self._ask(Submit("r", "q", "team", "agent", GRAPH.version, given, "d", "key"))
        approved = False
        while self._status() not in ("succeeded", "failed"):
            self._work()
            if not approved and self._status() == "waiting":
                self._ask(Resolve("r", "r.1", "approve", StepContent(), digest="yes"))
                approved = True

    def _ask(self, command: Command) -> RunView:
        """The answer to a command: the same one however often the client has to ask."""
        answer: Answer = self.driver.replies[self.driver.command(command)]
        assert answer.refused is None, answer.refused
        view = answer.value
        assert isinstance(view, RunView)
        return view

    def _status(self) -> str:
        answer: Answer = self.driver.replies[self.driver.watch("r")]
        return answer.value.status

    def _work(self) -> None:
        """Attach if need be, hand over what is done, and do what comes back."""
        if not self._session:
            attached = self.driver.attached(outcomes=tuple(self.held.values()))
            self._session, self._n = attached.session, 0
            self._forget(attached.acknowledged)
        self._n += 1
        call = self.driver.exchange(self._session, self._n, *self.held.values())
        if call not in self.driver.replies:
            self.driver.pass_time(10_000_000)
        reply: ExchangeReply = self.driver.replies[call]
        self._forget(reply.acknowledged)
        for lease in reply.leases:
            self._perform(lease)

    def _forget(self, acknowledged: tuple[AttemptRef, ...]) -> None:
        for key in acknowledged:
            self.held.pop(key, None)

    def _perform(self, lease: Lease) -> None:
        """An effect outside: once for each call, or the test has failed."""
        assert lease.key[:3] not in self.effects, f"{lease.name} was done twice"
        self.effects[lease.key[:3]] = lease.name
        keys = GRAPH.nodes[lease.node].output_keys if lease.graph == "g" else ("x",)
        given = content(**dict.fromkeys(keys, f"{lease.name}!"))
        made = Artifact(lease.name, "text/plain", 1, "", f"{lease.run}/{lease.serial}", lease.name)
        given = msgspec.structs.replace(given, artifacts=(made,))
        # Asking for an absent key: a write that came a second time would fail the run.
        key = f"{lease.run}/{lease.serial}"
        writes = tuple(MemoryWrite(scope, key, inline(lease.name), 0) for scope in ("run", "agent"))
        self.held[lease.key] = Outcome(*lease.key, "", encode(given), name=lease.name, memory=writes)

    def after_crash(self, driver: Driver) -> None:
        self.driver = driver
        self._session = ""


@pytest.fixture(params=["memory", "file", "s3"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens a new, empty state each time."""
    names: list[str] = []

    def name() -> str:
        names.append(f"crash{next(_NUMBERS)}")
        return names[-1]

    if request.param == "s3":
        server: MotoS3Server = request.getfixturevalue("moto_s3")
        bucket = server.create_bucket(f"crashes{next(_NUMBERS)}")
        yield lambda: open_store(f"{bucket}/{name()}", options=server.options())
    elif request.param == "file":
        yield lambda: open_store(f"file://{tmp_path}/{name()}")
    else:
        yield lambda: open_store(f"memory://{name()}")
    for used in names:
        forget_memory(used)


def left_behind(engine: Engine) -> list[list[str]]:
    """What the steps left: artifacts, memory of the run, memory of the agent."""
    run = engine.runs["r"]
    shelves = [s for s in (run.shelf, engine.find_shelf("agent", "team/agent")) if isinstance(s, Shelf)]
    remembered = [sorted(decode(entry.value) for entry in shelf.entries.values()) for shelf in shelves]
    return [sorted(kept.artifact.name for kept in run.artifacts), *remembered]


def crashed_at(store: Store, boundary: int) -> tuple[World, int]:
    """Live until the crash, then live on with a new controller; and how many boundaries the first passed."""
    world: World | None = None
    driver = Driver(store, [GRAPH], boundary)
    try:
        world = World(driver)
        world.live()
    except Crash:
        assert world is not None
        world.after_crash(Driver(store, [GRAPH]))
        world.live()
    return world, driver.performed


def test_a_crash_between_any_two_actions_loses_nothing_and_repeats_nothing(opener: Callable[[], Store]):
    """At every boundary of the story: the run succeeds with the same memory, each effect happened and
    left its artifact and its memory once, and what the worker was told to forget is in the state."""
    undisturbed, boundaries = crashed_at(opener(), -1)
    memory = undisturbed.driver.engine.runs["r"].memory
    assert sorted(undisturbed.effects.values()) == EFFECTS

    for boundary in range(1, boundaries + 1):
        world, _ = crashed_at(opener(), boundary)

        run = world.driver.engine.runs["r"]
        assert (run.status, run.memory) == ("succeeded", memory), f"crash at action {boundary}"
        assert sorted(world.effects.values()) == EFFECTS, f"crash at action {boundary}"
        assert left_behind(world.driver.engine) == [EFFECTS] * 3, f"crash at action {boundary}"
        assert run.attempts == undisturbed.driver.engine.runs["r"].attempts
        assert world.driver.engine.fleet.epoch == 2
