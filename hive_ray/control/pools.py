"""Pools of worker actors: created, watched, and replaced when they die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorUnavailableError, RayError

from hive_ray.config import PoolSettings, Settings
from hive_ray.control.envelope import Seal
from hive_ray.names import NAMESPACE, worker_name
from hive_ray.workers.actor import WorkerActor

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
PAUSE_S = 1.0


class Pools:
    """Keeps each pool at its number of workers.

    Args:
        seal: makes the tickets with which workers attach.
        on_death: told the worker id of a process that is certainly gone, and why.
    """

    def __init__(self, settings: Settings, seal: Seal, on_death: Callable[[str, str], None]) -> None:
        self._settings = settings
        self._seal = seal
        # A worker runs tools: what opens the controller's door is not for it.
        auth = settings.auth.model_copy(update={"door_secret": None})
        self._json = settings.model_copy(update={"auth": auth}).model_dump_json().encode()
        self._on_death = on_death

    async def keep(self) -> None:
        """Runs for ever: one keeper for each worker."""
        keepers = [
            self._keep_one(name, pool, number)
            for name, pool in self._settings.pools.items()
            for number in range(pool.workers.min)
        ]
        await asyncio.gather(*keepers)

    async def _keep_one(self, pool: str, settings: PoolSettings, number: int) -> None:
        name = worker_name(pool, number)
        while True:
            try:
                actor = self._actor(name, pool, settings)
                async with asyncio.timeout(START_TIMEOUT_S):
                    worker = await actor.start.remote()
            except Exception as error:  # noqa: BLE001 - a pool without its keeper would not come back
                log.warning("worker %s does not start: %s", name, error)
                await asyncio.sleep(PAUSE_S)
                continue
            reason = await _death(actor)
            self._on_death(worker, reason)

    def _actor(self, name: str, pool: str, settings: PoolSettings) -> Any:
        """The actor of that name, made if there is none."""
        return WorkerActor.options(  # pyright: ignore[reportAttributeAccessIssue]
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=0,
            num_cpus=settings.num_cpus,
            memory=settings.memory or None,
            resources=dict(settings.resources) or None,
            label_selector=dict(settings.label_selector) or None,
            max_concurrency=1000,
        ).remote(name, pool, settings.slots, self._json, self._seal.ticket(name, pool))


async def _death(actor: Any) -> str:
    """Waits until the actor's process is gone and says why."""
    while True:
        try:
            await actor.until_death.remote()
        except ActorUnavailableError:
            await asyncio.sleep(PAUSE_S)
        except RayError as error:
            return str(error).splitlines()[0]
