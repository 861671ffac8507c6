"""The HTTP face over a controller's shell in this process: no Ray, no sockets, and faults at any place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx2
import msgspec

from hive_ray.config import Settings, StateSettings
from hive_ray.control.queries import decode_requests, runs_of
from hive_ray.core.commands import Command
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.memory_store import MemoryStore
from serve.api import build
from serve.backend import Backend
from serve.link import Link
from tests.control.driver import Driver


class Face:
    """One replica and its controller, over a store in memory; content is plain."""

    def __init__(self, name: str, graphs: Iterable[CompiledGraph]) -> None:
        self.driver = Driver(MemoryStore(name), graphs)
        settings = Settings(state=StateSettings(url=f"memory://{name}"))
        self.backend = Backend(settings, self._ask, self._standing)
        self.backend.link = Link(self._ask, patience_s=0.5)
        app = build(self.backend)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://face")

    async def _ask(self, data: bytes) -> bytes:
        return msgspec.msgpack.encode([self._answer(request) for request in decode_requests(data)])

    def _answer(self, request: Any) -> Any:
        driver = self.driver
        if isinstance(request, Command):
            return driver.replies[driver.command(request)]
        call = driver.call()
        driver.shell.query(call, request.look, driver.clock, runs_of(request, driver.engine))
        driver.perform()
        return driver.replies[call]

    async def _standing(self) -> bytes:
        return msgspec.msgpack.encode({"ready": True, "feature_level": 1})
