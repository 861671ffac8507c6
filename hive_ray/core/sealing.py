"""Which key seals what: rules about content that need no secret."""

from __future__ import annotations

import msgspec

from hive_ray.core import events as ev
from hive_ray.core import features
from hive_ray.core.commands import Fork, Refused, Submit
from hive_ray.core.events import Draft, draft
from hive_ray.core.keys import NO_KEY, STATE_KEY, conversation_key, is_run_key
from hive_ray.core.messages import StepContent
from hive_ray.core.run import Run
from hive_ray.graph.compiled import LOOPS, CompiledGraph


def key_for(command: Submit | Fork, level: int) -> bytes | Refused:
    """The key of a new run; none where the state may not hold sealed content."""
    if level < features.SEALED or not command.key:
        return NO_KEY
    if not is_run_key(command.key):
        return Refused("invalid", f"run {command.run} came with what is no reference to a run's key")
    return command.key


def fleet_key(level: int) -> bytes:
    """The key of what belongs to no run."""
    return STATE_KEY if level >= features.SEALED else NO_KEY


def snapshot_key(run: Run, graph: CompiledGraph | None) -> bytes:
    """The key of a run's state in a snapshot.

    A live run's state holds its conversation, and goes with it; what is left of a run that was forgotten
    is no content, and must be readable without its keys.
    """
    if run.forgotten:
        return STATE_KEY
    return run.key if run.terminal or not converses(graph) else conversation_key(run.key)


def converses(graph: CompiledGraph | None) -> bool:
    """Whether runs of a graph say what must not outlive them."""
    if graph is None:
        return True
    if any(node.kind in LOOPS and not node.record for node in graph.nodes):
        return True
    return any(converses(body) for body in graph.subgraphs)


def keys_to_erase(run: Run, graph: CompiledGraph | None) -> list[bytes]:
    """Keys that nothing needs once a snapshot shows the run as it is; a child's are its root's."""
    if not run.key or run.parent or not run.terminal:
        return []
    said = [conversation_key(run.key)] if converses(graph) or run.forgotten else []
    return [run.key, *said] if run.forgotten else said


def reasoned(event: ev.RunPaused | ev.RunCancelled | ev.WorkerLost, level: int) -> Draft:
    """An event with a reason in free text: that is content, where the state may hold it so."""
    if level < features.SEALED or not event.reason:
        return Draft(event)
    said = StepContent(message=event.reason)
    return draft(msgspec.structs.replace(event, reason=""), said)
