"""What replicas of the HTTP face do for those who fork and resume runs: they read the parent's events in the
store themselves, and cut them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hive_ray.control.queries import GetRun
from hive_ray.control.recovery import load_graph
from hive_ray.control.views import Answer, RunView
from hive_ray.core import forking
from hive_ray.core.commands import Fork, Refused
from hive_ray.core.forking import Cut
from hive_ray.core.keys import conversation_key
from hive_ray.core.messages import StepContent, Turn
from hive_ray.core.run import Run, encode_run
from hive_ray.core.values import Value
from hive_ray.errors import KeyErased, StoreError
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.blobs import BlobRef
from hive_ray.state.run_events import RunEvents
from tests.core.story import content
from tests.simulation.people import TRANSIENT, nothing
from tests.simulation.world import World

RETRY_US = 400_000


class Branching:
    """One request to fork a run, or to resume one that failed; repeated until it is answered."""

    def __init__(self, world: World, parent: str, resumes: bool) -> None:
        self.world = world
        self.parent = parent
        self.resumes = resumes
        self._command: Fork | None = None
        world.ask(GetRun(parent), self._viewed, nothing)

    def _viewed(self, answer: Answer) -> None:
        if answer.refused is not None or self.world.calm:
            return
        view = answer.value
        assert isinstance(view, RunView)
        command = self._prepared(view) if not (self.resumes and view.parent) else None
        if command is not None:
            self.world.branching += 1
            self._command = command
            self._submit()

    def _prepared(self, view: RunView) -> Fork | None:
        """None: there is no such place, or the parent's content is gone."""
        try:
            events = list(
                RunEvents(self.world.storage.raw, self.world.storage.codec, 0).read(
                    view.run_id, 0, view.segments
                )
            )
            graph = load_graph(self.world.storage.blobs, view.graph_version)
            cut = self._cut(events, graph)
            return None if isinstance(cut, Refused) else self._fork(view, graph, cut)
        except (StoreError, ValueError) as error:
            # Forgotten while it is read here: its blobs go, and a replica may still hold its key.
            forgotten = self.parent in self.world.ledger.forgotten
            gone = forgotten or isinstance(error, KeyErased) or "erased" in str(error)
            assert gone or self.world.storage.damaged or self.world.may_be_gone(self.parent), error
            return None

    def _cut(self, events: Sequence[forking.Told], graph: CompiledGraph) -> Cut | Refused:
        if self.resumes:
            return forking.before_end(events, graph)
        places = forking.boundaries(events, graph)
        if not places:
            return Refused("invalid", "the run has visited nothing yet")
        place = self.world.pick(places)
        return forking.before_node(events, graph, place.node, place.visit)

    def _fork(self, view: RunView, graph: CompiledGraph, cut: Cut) -> Fork:
        run = self.world.mint(f"f{self.world.number()}.1", 0)
        key = self.world.storage.run_key()
        given = content()
        if not self.resumes and "k" in forking.known_keys(graph, cut.state):
            given = content(k=self.world.chance.random() < 0.5)
        forking.change(cut.state, given.outputs, given.facts)
        self._own_blobs(run, cut.state, key)
        handed = StepContent(given.outputs, given.facts, state=encode_run(cut.state))
        origin = cut.origin(view.run_id, self.resumes)
        return Fork(run, "q", "team", "agent", view.graph_version, handed, origin, key=key)

    def _own_blobs(self, run: str, state: Run, key: bytes) -> None:
        """Copy what the parent holds as blobs, as the face does."""
        state.memory = {name: self._own(run, value, key) for name, value in state.memory.items()}
        said = conversation_key(key) if key else key
        state.conversation = self._own_turns(run, state.conversation, said)
        for visit in state.visits.values():
            if visit.loop is not None:
                visit.loop.conversation = self._own_turns(run, visit.loop.conversation, said)
        if state.shelf is not None:
            state.shelf.entries = {
                name: msgspec.structs.replace(entry, value=self._own(run, entry.value, key))
                for name, entry in state.shelf.entries.items()
            }

    def _own_turns(self, run: str, turns: Iterable[Turn], key: bytes) -> list[Turn]:
        return [msgspec.structs.replace(turn, value=self._own(run, turn.value, key)) for turn in turns]

    def _own(self, run: str, value: Value, key: bytes) -> Value:
        if not value.blob:
            return value
        data = self.world.storage.blobs.get(BlobRef(value.blob, value.size))
        return msgspec.structs.replace(value, blob=self.world.storage.blobs.put(run, data, key).name)

    def _submit(self) -> None:
        assert self._command is not None
        self.world.ask(self._command, self._answered, self._again)

    def _again(self) -> None:
        self.world.clock.after(int(RETRY_US * (0.1 + self.world.chance.random())), self._submit)

    def _answered(self, answer: Answer) -> None:
        refused = answer.refused
        if refused is not None and refused.problem in TRANSIENT:
            self._again()
            return
        self.world.branching -= 1
        if refused is None:
            run = answer.value.run_id
            assert run in self.world.ledger.runs, f"{run} was acknowledged before it was durable"
            assert self.resumes or (self._command is not None and run == self._command.run)
            self.world.acknowledged_runs[run] = None
