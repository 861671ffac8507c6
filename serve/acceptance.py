"""From a submitted graph to one that the controller may run: checked whole, stored, remembered.

What exists (models with prices, tools, functions, pools) is looked up once. An MCP server that does not
start is asked again when a graph needs something that nobody else has.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from hive_ray import config
from hive_ray.config import Settings
from hive_ray.errors import ConfigError, Fault, GraphError, NotFound, ObjectMissing
from hive_ray.graph.compiled import CompiledGraph, decode_graph, encode_graph
from hive_ray.graph.compiler import CompileEnvironment, compile_graph, lint
from hive_ray.graph.findings import Finding
from hive_ray.graph.load import parse_graph
from hive_ray.graph.repricing import repriced
from hive_ray.graph.spec import GraphSpec
from hive_ray.state.blobs import Blobs
from hive_ray.workers.environment import compile_environment
from hive_ray.workers.tools import Registry
from serve.problems import Problem

GRAPHS_KEPT = 1000
ASK_AGAIN_S = 10.0
"""Between two attempts to start an MCP server that did not start."""


class Acceptance:
    """The graphs of one replica.

    Args:
        blobs: where accepted graphs are kept under their hash.
        key: tells the reference to the key that seals them.
    """

    def __init__(self, settings: Settings, blobs: Blobs, key: Callable[[], Awaitable[bytes]]) -> None:
        self._settings = settings
        self._blobs = blobs
        self._key = key
        self._by_source: OrderedDict[bytes, CompiledGraph] = OrderedDict()
        self._by_version: OrderedDict[str, CompiledGraph] = OrderedDict()
        self._environment: CompileEnvironment | None = None
        self._missing = ""
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def accept(self, data: Mapping[str, Any]) -> CompiledGraph:
        """Compile and store a graph, unless this replica did so already.

        Raises:
            GraphError: everything wrong with it.
            Problem: it needs a tool whose server does not start.
        """
        source = hashlib.sha256(msgspec.json.encode(data, order="sorted")).digest()
        known = _touch(self._by_source, source)
        if known is not None:
            return known
        graph = await self._compiled(await asyncio.to_thread(parse_graph, data))
        await asyncio.to_thread(self._store, graph, await self._key())
        _keep(self._by_source, source, graph)
        _keep(self._by_version, graph.version, graph)
        return graph

    async def known(self, version: str) -> CompiledGraph:
        """A graph that was accepted before.

        Raises:
            NotFound: no graph has that version.
        """
        graph = _touch(self._by_version, version)
        if graph is None:
            try:
                graph = decode_graph(await asyncio.to_thread(self._blobs.get_graph, version))
            except (ObjectMissing, ValueError) as error:
                raise NotFound(f"no graph has the version {version}; submit the graph itself") from error
            _keep(self._by_version, version, graph)
        return graph

    async def current(self, version: str) -> CompiledGraph:
        """A graph that was accepted before, for a new run: at the prices of today.

        Raises:
            NotFound: no graph has that version.
        """
        graph = await self.known(version)
        models = (await self.environment()).models
        found = repriced(graph, models) if models else graph
        if found is not graph and found.version not in self._by_version:
            await asyncio.to_thread(self._store, found, await self._key())
            _keep(self._by_version, found.version, found)
        return found

    async def lint(self, data: Mapping[str, Any]) -> list[Finding]:
        """What is wrong with a graph, or probably not meant."""
        spec = await asyncio.to_thread(parse_graph, data)
        return await asyncio.to_thread(lint, spec, await self.environment())

    async def _compiled(self, spec: GraphSpec) -> CompiledGraph:
        try:
            return await asyncio.to_thread(compile_graph, spec, await self.environment())
        except GraphError as error:
            if not self._missing or not _about_tools(error.faults):
                raise
            faults = [
                Fault("tools.mcp", self._missing, "start that server, or mend its entry"),
                *error.faults,
            ]
            raise Problem(503, "unavailable", self._missing, faults, ASK_AGAIN_S) from error

    def _store(self, graph: CompiledGraph, key: bytes) -> None:
        for nested in graph.subgraphs:
            self._store(nested, key)
        self._blobs.put_graph(graph.version, encode_graph(graph), key)

    async def environment(self) -> CompileEnvironment:
        """What exists on this installation; without MCP tools while a server does not start.

        Raises:
            ConfigError: a tool module cannot be imported.
        """
        async with self._lock:
            again = bool(self._missing) and time.monotonic() - self._asked_at > ASK_AGAIN_S
            if self._environment is None or again:
                self._environment = await self._look()
            return self._environment

    async def _look(self) -> CompileEnvironment:
        registry = await asyncio.to_thread(_registry, self._settings)
        self._asked_at = time.monotonic()
        try:
            found = await compile_environment(self._settings, config.resolve, registry)
        except ConfigError as error:
            self._missing = error.faults[0].problem
            tools = self._settings.tools.model_copy(update={"mcp": {}})
            without = self._settings.model_copy(update={"tools": tools})
            return await compile_environment(without, config.resolve, registry)
        self._missing = ""
        return found


def _registry(settings: Settings) -> Registry:
    registry = Registry()
    registry.load_modules(settings.tools.modules)
    return registry


def _about_tools(faults: Iterable[Fault]) -> bool:
    return any("tool" in fault.problem for fault in faults)


def _touch(kept: OrderedDict[Any, CompiledGraph], key: Any) -> CompiledGraph | None:
    graph = kept.get(key)
    if graph is not None:
        kept.move_to_end(key)
    return graph


def _keep(kept: OrderedDict[Any, CompiledGraph], key: Any, graph: CompiledGraph) -> None:
    kept[key] = graph
    if len(kept) > GRAPHS_KEPT:
        kept.popitem(last=False)
