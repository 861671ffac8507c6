"""Functions for the benchmarks: steps that do nothing, so that only the system is measured."""

import asyncio
import time

from hive_ray.workers.tools import function


@function(idempotent=True)
def noop(x: str) -> dict[str, str]:
    """Hand the payload on."""
    return {"x": x}


@function(idempotent=True)
async def nap(x: str) -> dict[str, str]:
    """Take a fifth of a second, as a call to a service does; says when it was called."""
    called_ns = time.time_ns()
    await asyncio.sleep(NAP_S)
    return {"x": str(called_ns)}


NAP_S = 0.2
