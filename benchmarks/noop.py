"""Functions for the benchmarks: steps that do nothing, so that only the system is measured."""

import asyncio

from hive_ray.workers.tools import function


@function(idempotent=True)
def noop(x: str) -> dict[str, str]:
    """Hand the payload on."""
    return {"x": x}


@function(idempotent=True)
async def nap(x: str) -> dict[str, str]:
    """Take a twentieth of a second, as a quick call to a service does."""
    await asyncio.sleep(NAP_S)
    return {"x": x}


NAP_S = 0.05
