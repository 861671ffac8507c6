"""The HTTP face over a controller's shell in this process: no Ray, no sockets, and faults at any place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx2
import msgspec

from hive_ray.config import Settings, StateSettings
from hive_ray.control.door import Door
from hive_ray.control.envelope import Asked, decode_asked
from hive_ray.control.queries import ListRuns, WatchRun, WhoAmI, runs_of
from hive_ray.control.recovery import load_graph
from hive_ray.control.views import Answer
from hive_ray.core.commands import Command, Refused
from hive_ray.core.engine import Engine
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.memory_store import MemoryStore
from serve.api import build
from serve.backend import Backend
from serve.link import Link
from tests.control.driver import Driver


class Face:
    """One replica and its controller, over a store in memory; content is plain."""

    def __init__(self, name: str, graphs: Iterable[CompiledGraph], **sections: Any) -> None:
        self.driver = Driver(MemoryStore(name), graphs)
        settings = Settings(state=StateSettings(url=f"memory://{name}"), **sections)
        self.door = Door(settings)
        self.backend = Backend(settings, self._ask, self._standing)
        self.backend.link = Link(self._ask, patience_s=0.5)
        app = build(self.backend)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def _ask(self, data: bytes) -> bytes:
        return msgspec.msgpack.encode([self._answer(asked) for asked in decode_asked(data)])

    def _answer(self, asked: Asked) -> Any:
        """As the controller's actor answers, whose door it has."""
        driver = self.driver
        wall_us = driver.clock.wall_us
        entered = self.door.enter(asked, driver.engine.fleet.api_keys, wall_us)
        if isinstance(entered, Refused):
            return Answer(refused=entered)
        if asked.caller.key:
            driver.shell.key_used(asked.caller.key, driver.clock)
        request, call = entered.request, driver.call()

        def let(engine: Engine) -> Refused | None:
            return self.door.let(entered, engine, wall_us)

        self._know_graph(getattr(request, "graph", ""))
        if isinstance(request, WhoAmI):
            return Answer(entered.principal)
        if isinstance(request, Command):
            driver.shell.command(call, request, driver.clock, let)
        elif isinstance(request, WatchRun):
            driver.shell.watch(call, request, driver.clock, let)
        elif isinstance(request, ListRuns):
            driver.shell.list_runs(call, request, driver.clock)
        else:
            runs = runs_of(request, driver.engine)
            driver.shell.query(call, request.look, driver.clock, runs, let)
        driver.perform()
        return driver.replies[call]

    def _know_graph(self, version: str) -> None:
        """One that was accepted here."""
        if version and version not in self.driver.engine.graphs:
            self.driver.engine.add_graph(load_graph(self.driver.blobs, version))

    async def _standing(self) -> bytes:
        return msgspec.msgpack.encode({"ready": True, "feature_level": 1})
