"""From a lease to a tool's context, and from what it left there to what goes back with the outcome."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from hive_ray.config import LimitsSettings
from hive_ray.core.artifacts import Artifact
from hive_ray.core.failures import FailureKind
from hive_ray.core.longterm import blob_owner, owner_of
from hive_ray.core.messages import Lease, MemoryWrite
from hive_ray.core.values import INLINE_LIMIT_BYTES, Value, stored
from hive_ray.graph.compiled import NodePlan
from hive_ray.workers.context import Found, Made, Memory, Room, ToolContext, Written
from hive_ray.workers.step_error import StepError

Store = Callable[[str, bytes], Value]
"""Writes bytes as a blob of an owner, a run in most cases."""


def room_of(limits: LimitsSettings, level: int) -> Room:
    return Room(
        level,
        limits.artifact_bytes,
        limits.run_artifacts,
        limits.run_artifact_bytes,
        limits.memory_value_bytes,
    )


def memory_values(lease: Lease) -> dict[str, Value]:
    """Address to value of what the step was given."""
    given = lease.memory
    return {read.address: read.value for read in given.reads if read.version} if given else {}


def context_of(lease: Lease, node: NodePlan, room: Room, decoded: Mapping[str, Any]) -> ToolContext:
    """What a tool is handed.

    Args:
        decoded: address to decoded value, of ``memory_values``.
    """
    given = lease.memory
    reads = given.reads if given else ()
    memory = Memory(
        {read.address: Found(decoded.get(read.address), read.version) for read in reads},
        {read.name: read.address for read in reads},
        given.prefixes if given else (),
        room,
    )
    return ToolContext(
        lease.run, lease.request_id, node.id, lease.attempt, lease.idempotency_key, lease.team, lease.agent,
        memory, room,
    )  # fmt: skip


def artifacts_of(context: ToolContext | None, run: str, store: Store) -> tuple[Artifact, ...]:
    """Store what was made as blobs of the run."""
    if context is None or not context.made:
        return ()
    return tuple(_artifact(made, run, context.node, store) for made in context.made.values())


def _artifact(made: Made, run: str, node: str, store: Store) -> Artifact:
    digest = hashlib.sha256(made.data).hexdigest()
    blob = store(run, made.data).blob
    return Artifact(made.name, made.media_type, len(made.data), digest, blob, node)


def writes_of(
    context: ToolContext | None, lease: Lease, pack: Callable[[Any], bytes], store: Store
) -> tuple[MemoryWrite, ...]:
    """What was written into memory, large values as blobs of their owner.

    Raises:
        StepError: ``RESOURCE_LIMIT``: a value is too large.
    """
    if context is None or not context.memory.written:
        return ()
    limit = context.room.value_bytes
    return tuple(_write(written, lease, pack, store, limit) for written in context.memory.written.values())


def _write(
    written: Written, lease: Lease, pack: Callable[[Any], bytes], store: Store, limit: int
) -> MemoryWrite:
    if written.deleted:
        return MemoryWrite(written.scope, written.key, None, written.if_version)
    data = pack(written.value)
    if len(data) > limit:
        why = (
            f"memory {written.scope}:{written.key}: {len(data)} bytes, more than {limit} "
            "(limits.memory_value_bytes): leave an artifact and remember its name"
        )
        raise StepError(FailureKind.RESOURCE_LIMIT, why)
    return MemoryWrite(written.scope, written.key, _value(written, data, lease, store), written.if_version)


def _value(written: Written, data: bytes, lease: Lease, store: Store) -> Value:
    if len(data) <= INLINE_LIMIT_BYTES:
        return Value(data, "", len(data))
    owner = owner_of(written.scope, lease.run, lease.team, lease.agent)
    blob = store(blob_owner(written.scope, owner), data)
    return stored(written.value, blob.blob, blob.size)
