"""The ingress deployment on Ray Serve: ``serve.app:app``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError

from hive_ray.control.cluster import published_settings
from hive_ray.errors import Unavailable
from hive_ray.names import NAMESPACE, controller_name
from hive_ray.observe.logging import configure
from serve.api import build
from serve.backend import Backend
from serve.masking import know_secrets

CALL_TIMEOUT_S = 30.0
STANDING_TIMEOUT_S = 5.0
MAX_ONGOING = 2000
MAX_QUEUED = 4000

_decode = msgspec.msgpack.Decoder().decode


class RayController:
    """Calls to the controller actor, found by its name."""

    def __init__(self) -> None:
        self._actor: Any = None

    async def ask(self, requests: bytes) -> bytes:
        return await self._call("ask", CALL_TIMEOUT_S, requests)

    async def standing(self) -> bytes:
        said = await self._call("standing", STANDING_TIMEOUT_S)
        if _decode(said)["standing"] == "starting":
            # A controller that Ray restarted begins its recovery when somebody calls.
            await self._call("start", STANDING_TIMEOUT_S)
        return said

    async def _call(self, method: str, timeout_s: float, *arguments: bytes) -> bytes:
        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(ray.get_actor, controller_name(0), NAMESPACE)
            async with asyncio.timeout(timeout_s):
                return await getattr(self._actor, method).remote(*arguments)
        except (RayError, ValueError, TimeoutError) as error:
            # A controller that another cluster fenced is gone for good; its successor has the same name.
            self._actor = None
            raise Unavailable(f"the controller does not answer: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def replica() -> FastAPI:
    """The application of one replica."""
    app = build(behind_proxy=True)
    app.router.lifespan_context = _open
    return app


@asynccontextmanager
async def _open(app: FastAPI) -> AsyncGenerator[None]:
    settings = await asyncio.to_thread(published_settings)
    configure(settings, "serve")
    await asyncio.to_thread(know_secrets, settings)
    controller = RayController()
    backend = app.state.backend = Backend(settings, controller.ask, controller.standing)
    # Tools, price list and MCP servers take seconds: not those of the first submission.
    warming = asyncio.ensure_future(backend.acceptance.environment())
    yield
    warming.cancel()


@serve.deployment(
    name="ingress",
    max_ongoing_requests=MAX_ONGOING,
    max_queued_requests=MAX_QUEUED,
    ray_actor_options={"num_cpus": 0},
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=2,
)
@serve.ingress(replica)  # pyright: ignore[reportUntypedClassDecorator]
class Ingress:
    """Holds nothing but caches; any number of replicas may run."""


app = Ingress.bind()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
