"""Runs that go on from another's state: the parent's events are read and cut here, not at the controller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from hive_ray.control.views import RunView
from hive_ray.core import forking
from hive_ray.core.commands import Fork, Refused
from hive_ray.core.forking import Cut
from hive_ray.core.keys import conversation_key
from hive_ray.core.messages import StepContent, Turn
from hive_ray.core.run import Run, encode_run
from hive_ray.core.values import Value
from hive_ray.errors import Conflict, Corrupt, KeyErased, ObjectMissing
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.blobs import BlobRef
from hive_ray.state.run_events import whole
from serve.backend import Backend, check_size, new_run_id
from serve.bodies import ForkRequest
from serve.problems import Problem, invalid, refused
from serve.sealing import NO_DIGESTS, Digests

NANO = 1_000_000_000


class Terms(NamedTuple):
    """What a new run has of its own; what is None is its parent's or its graph's."""

    request_id: str
    idempotency_key: str = ""
    traceparent: str = ""
    agent: str | None = None
    budget_nanousd: int | None = None
    deadline_s: float | None = None
    priority: int = -1
    """Index into ``core.plan.CLASSES``; -1: its parent's."""
    callback: str | None = None
    """Address that is told its end; empty: none."""

    async def digests(self, backend: Backend, asked: list[Any]) -> Digests:
        """By which a repeat under the key is told from another request."""
        told = [*asked, self.agent, self.budget_nanousd, self.deadline_s]
        told += [self.priority] if self.priority >= 0 else []
        told += [{"callback_url": self.callback}] if self.callback is not None else []
        return await backend.sealing.digests(told) if self.idempotency_key else NO_DIGESTS

    @property
    def deadline_us(self) -> int:
        """Wall time; 0: the graph's default."""
        return 0 if self.deadline_s is None else time.time_ns() // 1000 + int(self.deadline_s * 1e6)


class Branch(NamedTuple):
    """A parent and the place at which it is cut."""

    view: RunView
    cut: Cut
    resumes: bool = False


async def fork(backend: Backend, parent: str, body: ForkRequest, terms: Terms) -> RunView:
    """Begin a run with the state that another had before it entered a node.

    Raises:
        Problem: there is no such place, or a value that no node reads.
    """
    check_size(body.input, backend.settings.limits.max_input_bytes, "body.input")
    view = await backend.run(parent)
    graph = await backend.acceptance.known(view.graph_version)
    events = await _events(backend, view)
    cut = await asyncio.to_thread(_checked, view, forking.before_node, events, graph, body.from_, body.visit)
    _check_keys(graph, cut.state, body.input)
    digests = await terms.digests(backend, [parent, body.from_, body.visit, body.input])
    return await _begun(backend, Branch(view, cut), body.input, terms, digests)


async def resume(backend: Backend, view: RunView, terms: Terms) -> RunView:
    """Begin a run in the place of one that failed or was cancelled; it has one successor for ever.

    Raises:
        Problem: it succeeded.
        Conflict: it is part of another run, or its successor has ended without success too.
    """
    if view.parent:
        raise Conflict(f"run {view.run_id} is part of run {view.parent}: resume that one")
    if view.resumed_as:
        return await _successor(backend, view)
    graph = await backend.acceptance.known(view.graph_version)
    events = await _events(backend, view)
    cut = await asyncio.to_thread(_checked, view, forking.before_end, events, graph)
    return await _begun(backend, Branch(view, cut, True), {}, terms, NO_DIGESTS)


async def _successor(backend: Backend, view: RunView) -> RunView:
    found = await backend.run(view.resumed_as)
    if found.status in ("failed", "cancelled"):
        raise Conflict(
            f"run {view.run_id} was resumed as {found.run_id}, which is {found.status}: resume that one"
        )
    return found


async def _events(backend: Backend, view: RunView) -> list[forking.Told]:
    if view.forgotten:
        raise Conflict(f"run {view.run_id} was forgotten: there is nothing that another run could go on with")

    def read() -> list[forking.Told]:
        return [*whole(view.run_id, list(backend.run_events.read(view.run_id, 0, view.segments)))]

    return await asyncio.to_thread(read)


def _checked(view: RunView, cut: Callable[..., Cut | Refused], *arguments: Any) -> Cut:
    """A cut, or the problem that there is none."""
    try:
        found = cut(*arguments)
    except ValueError as error:
        raise Corrupt(f"events of {view.run_id}", str(error)) from error
    if isinstance(found, Refused):
        raise refused(found)
    return found


def _check_keys(graph: CompiledGraph, state: Run, given: Mapping[str, Any]) -> None:
    known = forking.known_keys(graph, state)
    for key in given:
        if key not in known:
            remedy = f"give one of {', '.join(sorted(known)) or 'none: nothing is read'}"
            raise invalid(f"body.input.{key}", "is a key that no node reads or writes", remedy)


async def _begun(
    backend: Backend, branch: Branch, given: Mapping[str, Any], terms: Terms, digests: Digests
) -> RunView:
    view, cut, resumes = branch
    # Prices are those of today; nodes and edges are the same.
    graph = await backend.acceptance.current(view.graph_version)
    if terms.callback is not None:
        cut.state.callback = terms.callback
    run_id = new_run_id()
    key = await backend.sealing.run_key()
    content = await backend.content(run_id, graph, given, key=key)
    forking.change(cut.state, content.outputs, content.facts)
    await asyncio.to_thread(_own_blobs, backend, run_id, cut.state, key)
    command = Fork(
        run_id,
        terms.request_id,
        view.team,
        terms.agent or view.agent,
        graph.version,
        StepContent(content.outputs, content.facts, state=encode_run(cut.state)),
        cut.origin(view.run_id, resumes),
        digests.digest,
        terms.idempotency_key,
        await _ceiling(backend, view) if terms.budget_nanousd is None else terms.budget_nanousd,
        terms.deadline_us,
        traceparent=terms.traceparent,
        key=key,
        plain_digest=digests.plain,
        priority=view.priority if terms.priority < 0 else terms.priority,
    )
    return await backend.begun(command)


async def _ceiling(backend: Backend, view: RunView) -> int:
    """The budget of whoever pays for a run: of a child run its root, or its fork would have none."""
    while view.parent:
        view = await backend.run(view.parent)
    return view.budget_nanousd


def _own_blobs(backend: Backend, run_id: str, state: Run, key: bytes) -> None:
    """Copy what the parent holds as blobs, so that neither run's content depends on the other's.

    Raises:
        Problem: a blob is gone: the parent's content was forgotten.
    """
    copies: dict[str, str] = {}

    def own(value: Value, key: bytes = key) -> Value:
        if not value.blob or value.blob.split("/")[1] == run_id:
            return value
        if value.blob not in copies:
            data = backend.blobs.get(BlobRef(value.blob, value.size))
            copies[value.blob] = backend.blobs.put(run_id, data, key).name
        return msgspec.structs.replace(value, blob=copies[value.blob])

    def own_turns(turns: list[Turn]) -> list[Turn]:
        own_key = conversation_key(key)
        return [msgspec.structs.replace(turn, value=own(turn.value, own_key)) for turn in turns]

    try:
        state.memory = {key: own(value) for key, value in state.memory.items()}
        state.conversation = own_turns(state.conversation)
        for visit in state.visits.values():
            if visit.loop is not None:
                visit.loop.conversation = own_turns(visit.loop.conversation)
        if state.shelf is not None:
            entries = state.shelf.entries.items()
            state.shelf.entries = {k: msgspec.structs.replace(e, value=own(e.value)) for k, e in entries}
    except (ObjectMissing, KeyErased) as error:
        raise Problem(409, "conflict", f"the parent's content is gone: {error}") from error
