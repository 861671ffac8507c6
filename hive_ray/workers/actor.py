"""The Ray actor around a worker: it finds the controller by name and carries bytes both ways."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import uuid
from collections import OrderedDict
from typing import Any

import ray
from ray.exceptions import RayError

from hive_ray.config import Settings
from hive_ray.core.messages import WorkerInfo
from hive_ray.core.values import Value
from hive_ray.core.values import decode as decode_value
from hive_ray.graph.compiled import CompiledGraph, decode_graph
from hive_ray.names import NAMESPACE, controller_name
from hive_ray.observe.logging import configure
from hive_ray.state.access import open_blobs
from hive_ray.state.blobs import BlobRef, Blobs
from hive_ray.state.owner import this_process
from hive_ray.workers.execution import Executor
from hive_ray.workers.worker import LinkLost, Worker

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 30.0
GRAPHS_KEPT = 256


class RayLink:
    """Calls to one incarnation of the controller; each with a timeout."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    async def attach(self, request: bytes) -> bytes:
        return await _answer(self._controller.attach.remote(request))

    async def exchange(self, request: bytes) -> bytes:
        return await _answer(self._controller.exchange.remote(request))


async def _answer(ref: Any) -> bytes:
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await ref
    except (RayError, TimeoutError) as error:
        raise LinkLost(f"{type(error).__name__}: {error}") from error


class Graphs:
    """Compiled graphs by hash, read from the store once."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._kept: OrderedDict[str, CompiledGraph] = OrderedDict()

    def __call__(self, version: str) -> CompiledGraph:
        graph = self._kept.get(version)
        if graph is None:
            graph = decode_graph(self._blobs.get_graph(version))
            self._kept[version] = graph
            if len(self._kept) > GRAPHS_KEPT:
                self._kept.popitem(last=False)
        return graph


class WorkerImpl:
    """One worker actor. The constructor only assigns; ``start`` makes it work."""

    def __init__(self, name: str, pool: str, slots: int, settings: bytes, ticket: str = "") -> None:
        self._name = name
        self._pool = pool
        self._slots = slots
        self._settings = settings
        self._ticket = ticket
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._id = f"{name}-{uuid.uuid4().hex[:8]}"

    def __repr__(self) -> str:
        return f"Worker({self._name})"

    async def start(self) -> str:
        """Begin to work; returns this process's worker id."""
        async with self._starting:
            if self._task is None:
                settings = Settings.model_validate_json(self._settings)
                configure(settings, "worker")
                executor = await asyncio.to_thread(_executor, settings)
                if settings.pools[self._pool].kind == "llm":
                    await executor.warm()
                # Looking through all modules for garbage takes 0.1 s, in which every step here stands still.
                gc.collect()
                gc.freeze()
                gc.set_threshold(10_000, 20, 100)
                worker = Worker(self._info(), executor, _connect, self._ticket)
                self._task = asyncio.ensure_future(worker.serve())
                self._task.add_done_callback(_end_process)
        return self._id

    async def until_death(self) -> None:
        """Never returns: whoever waits for it learns at once when this process dies."""
        await asyncio.Event().wait()

    def _info(self) -> WorkerInfo:
        node = ray.get_runtime_context().get_node_id()
        me = this_process(node, "", 0)
        return WorkerInfo(
            self._id,
            self._pool,
            self._slots,
            socket.gethostname(),
            me.boot_id,
            os.getpid(),
            me.process_start,
            node,
        )


def _end_process(serving: asyncio.Task[None]) -> None:
    """A worker that does not serve any more holds its leases for ever: it ends, and its pool replaces it."""
    if not serving.cancelled():
        log.critical("the worker broke; this process ends", exc_info=serving.exception())
        os._exit(1)


def _executor(settings: Settings) -> Executor:
    blobs = open_blobs(settings)

    def load(value: Value) -> Any:
        if value.blob:
            return value.whole_or_item(decode_value(Value(blobs.get(BlobRef(value.blob, value.size)))))
        return decode_value(value)

    def store(run: str, data: bytes, key: bytes) -> Value:
        ref = blobs.put(run, data, key)
        return Value(b"", ref.name, ref.size)

    return Executor(settings, Graphs(blobs), load, store)


async def _connect() -> RayLink:
    try:
        return RayLink(await asyncio.to_thread(ray.get_actor, controller_name(0), NAMESPACE))
    except (ValueError, RayError) as error:
        raise LinkLost(f"no controller is registered: {error}") from error


WorkerActor = ray.remote(WorkerImpl)
