"""What a step reads of long-term memory, and whether what it writes may stand.

Writes go back with a step's outcome and stand with its success, or the step fails: with ``CONFLICT`` where a
write asks for a version that is no longer there, with ``RESOURCE_LIMIT`` where a shelf would grow too large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from hive_ray.core import events as ev
from hive_ray.core.commands import DeleteMemory, PutMemory, Refused
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.longterm import ABSENT, ANY_VERSION, Bounds, Entry, Shelf
from hive_ray.core.messages import MemoryGiven, MemoryRead, MemoryWrite, StepContent
from hive_ray.core.values import NULL, Value, decode
from hive_ray.graph.compiled import MemoryPlan

Find = Callable[[str], "tuple[str, Shelf | None]"]
"""Scope to the owner whose shelf a run's steps use, and that shelf if anything was ever on it."""

KEY_LIMIT = 200
"""Characters of a key, as ``graph.memory_keys`` has it."""


class Denied(NamedTuple):
    """Why a step may not start, or may not succeed."""

    kind: FailureKind
    message: str


# --- reading -------------------------------------------------------------------------------------


def given(
    plans: Iterable[MemoryPlan], inputs: Mapping[str, Value], find: Find, bounds: Bounds
) -> MemoryGiven | Denied:
    """The values that a step declared; absent keys are given too, as version 0."""
    reads: dict[str, MemoryRead] = {}
    prefixes: list[str] = []
    for plan in plans:
        key = _filled(plan, inputs)
        if isinstance(key, Denied):
            return key
        shelf = find(plan.scope)[1]
        if plan.prefix:
            prefixes.append(f"{plan.scope}:{key}")
            found = [_read(plan.scope, name, name, shelf) for name in _beginning(shelf, key)]
        else:
            found = [_read(plan.scope, key, plan.name, shelf)]
        reads.update((read.address, read) for read in found)
    size = sum(read.value.size for read in reads.values())
    if size > bounds.read_bytes:
        why = (
            f"it reads {size} bytes of long-term memory by its declarations, more than {bounds.read_bytes} "
            "(limits.memory_read_bytes); declare fewer keys"
        )
        return Denied(FailureKind.RESOURCE_LIMIT, why)
    return MemoryGiven(tuple(reads.values()), tuple(prefixes))


def _read(scope: str, key: str, name: str, shelf: Shelf | None) -> MemoryRead:
    entry = shelf.entries.get(key) if shelf is not None else None
    value, version = (entry.value, entry.version) if entry is not None else (NULL, ABSENT)
    return MemoryRead(f"{scope}:{key}", name, value, version)


def _beginning(shelf: Shelf | None, prefix: str) -> list[str]:
    return sorted(key for key in shelf.entries if key.startswith(prefix)) if shelf is not None else []


def _filled(plan: MemoryPlan, inputs: Mapping[str, Value]) -> str | Denied:
    """The key with inputs in place of ``{input}``."""
    key = plan.key
    for name in plan.inputs:
        part = _part(inputs.get(name))
        if not part:
            why = f"memory {plan.scope}:{plan.key}: input '{name}' must be a short text or number without '/'"
            return Denied(FailureKind.BAD_INPUT, why)
        key = key.replace(f"{{{name}}}", part)
    if len(key) > KEY_LIMIT:
        return Denied(FailureKind.BAD_INPUT, f"memory {plan.scope}:{plan.key}: longer than {KEY_LIMIT}")
    return key


def _part(value: Value | None) -> str:
    """An input as part of a key; empty if it cannot be one."""
    if value is None or value.blob:
        return ""
    found = decode(value)
    if isinstance(found, bool) or not isinstance(found, str | int):
        return ""
    text = str(found)
    fits = all(character.isalnum() or character in "_.@:+-" for character in text)
    return text if fits and text not in (".", "..") else ""


def as_inputs(memory: MemoryGiven) -> dict[str, Value]:
    """What an LLM is shown beside its inputs; absent keys are null."""
    return {read.name: read.value for read in memory.reads}


# --- writing -------------------------------------------------------------------------------------


def denied(writes: Iterable[MemoryWrite], find: Find, bounds: Bounds) -> Denied | None:
    """Why a step's writes may not stand."""
    more: dict[str, int] = {}
    for write in writes:
        shelf = find(write.scope)[1]
        why = _conflict(shelf, write.scope, write.key, write.if_version)
        if why:
            return Denied(FailureKind.CONFLICT, why)
        if write.value is not None and write.value.size > bounds.value_bytes:
            return Denied(FailureKind.RESOURCE_LIMIT, _too_large(write.scope, write.value.size, bounds))
        known = shelf is not None and write.key in shelf.entries
        more[write.scope] = more.get(write.scope, 0) + (write.value is not None) - known
        if more[write.scope] > 0 and _count(shelf) + more[write.scope] > bounds.entries:
            return Denied(FailureKind.RESOURCE_LIMIT, _full(write.scope, bounds))
    return None


def _conflict(shelf: Shelf | None, scope: str, key: str, if_version: int) -> str:
    if if_version == ANY_VERSION:
        return ""
    entry = shelf.entries.get(key) if shelf is not None else None
    version = entry.version if entry is not None else ABSENT
    if version == if_version:
        return ""
    wanted = f"version {if_version}" if if_version else "no such key"
    found = f"has version {version}" if version else "is absent"
    return f"memory {scope}:{key} {found}; the write asked for {wanted}: read it again"


def _count(shelf: Shelf | None) -> int:
    return len(shelf.entries) if shelf is not None else 0


def _full(scope: str, bounds: Bounds) -> str:
    return f"the {scope}'s long-term memory has {bounds.entries} keys (limits.memory_keys): delete some"


def _too_large(scope: str, size: int, bounds: Bounds) -> str:
    return (
        f"a value of {scope} memory has {size} bytes, more than {bounds.value_bytes} "
        "(limits.memory_value_bytes): write an artifact and remember its name"
    )


def remembered(root: str, writes: Iterable[MemoryWrite], find: Find, writer: str) -> list[Draft]:
    """The events of writes that stand.

    Args:
        root: the root run, whose events are those of its own memory.
    """
    versions: dict[str, int] = {}
    drafts: list[Draft] = []
    for write in writes:
        owner, shelf = find(write.scope)
        version = versions.get(write.scope, shelf.version if shelf is not None else 0) + 1
        versions[write.scope] = version
        run = root if write.scope == "run" else ""
        drafts.append(_event(run, write, owner, version, writer, ""))
    return drafts


def _event(run: str, write: MemoryWrite, owner: str, version: int, writer: str, request: str) -> Draft:
    content = StepContent(outputs={write.key: NULL if write.value is None else write.value})
    if write.value is None:
        return draft(ev.MemoryDeleted(run, write.scope, owner, version, writer, request), content)
    size = write.value.size
    return draft(ev.MemoryWritten(run, write.scope, owner, version, size, writer, request), content)


# --- from outside --------------------------------------------------------------------------------


Decide = Callable[[Any, Shelf | None, Bounds], "list[Draft] | Refused"]
"""``put`` or ``delete``."""


def put(command: PutMemory, shelf: Shelf | None, bounds: Bounds) -> list[Draft] | Refused:
    """Write a value for a person or program; a repeat of the same request changes nothing.

    Another value under the same request's id is no repeat: callers may name several requests alike.
    """
    entry = shelf.entries.get(command.key) if shelf is not None else None
    if entry is not None and _is_repeat(command, entry):
        return []
    why = _conflict(shelf, command.scope, command.key, command.if_version)
    if why:
        return Refused("stale", why)
    if command.value.size > bounds.value_bytes:
        return Refused("invalid", _too_large(command.scope, command.value.size, bounds))
    if entry is None and _count(shelf) >= bounds.entries:
        return Refused("invalid", _full(command.scope, bounds))
    return [_outside(command, shelf, command.value)]


def _is_repeat(command: PutMemory, entry: Entry) -> bool:
    return bool(command.request_id) and (entry.request, entry.value) == (command.request_id, command.value)


def delete(command: DeleteMemory, shelf: Shelf | None, bounds: Bounds) -> list[Draft] | Refused:
    """Delete a key; one that is absent is no fault."""
    if shelf is None or command.key not in shelf.entries:
        return []
    why = _conflict(shelf, command.scope, command.key, command.if_version)
    if why:
        return Refused("stale", why)
    return [_outside(command, shelf, None)]


def _outside(command: PutMemory | DeleteMemory, shelf: Shelf | None, value: Value | None) -> Draft:
    write = MemoryWrite(command.scope, command.key, value)
    run = command.owner if command.scope == "run" else ""
    version = (shelf.version if shelf is not None else 0) + 1
    return _event(run, write, command.owner, version, command.principal, command.request_id)
