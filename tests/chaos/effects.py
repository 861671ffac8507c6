"""Functions whose effects are counted by a server outside the cluster."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import httpx2

from hive_ray.workers.tools import ToolContext, function

LATENCY_S = 0.1


@function(idempotent=False, timeout_s=300)
async def count_effect(item: str, *, context: ToolContext) -> dict[str, str]:
    """One effect, which takes its time: not declared idempotent, so it may never happen twice in silence."""
    await _post(item, context)
    return {"item": item}


@function(idempotent=True, timeout_s=300)
async def count_idempotent_effect(item: str, *, context: ToolContext) -> dict[str, str]:
    """The same effect, declared as one that may be repeated."""
    await _post(item, context)
    return {"item": item}


@function(idempotent=False, timeout_s=300)
def gated_effect(item: str, context: ToolContext) -> dict[str, str]:
    """One effect that does not happen while the gate is closed."""
    return _gated(item, context)


@function(idempotent=True, timeout_s=300)
def gated_idempotent_effect(item: str, context: ToolContext) -> dict[str, str]:
    """The same effect, declared as one that may be repeated."""
    return _gated(item, context)


def _gated(item: str, context: ToolContext) -> dict[str, str]:
    gate = Path(os.environ["EFFECTS_GATE"])
    with Path(f"{gate}-reached").open("a") as reached:
        reached.write(f"{os.getpid()}\n")
    while gate.exists():
        time.sleep(0.02)
    asyncio.run(_post(item, context))
    return {"item": item}


async def _post(item: str, context: ToolContext) -> None:
    await asyncio.sleep(LATENCY_S)
    headers = {"Idempotency-Key": context.idempotency_key}
    async with httpx2.AsyncClient(timeout=300) as client:
        answer = await client.post(os.environ["EFFECTS_URL"], headers=headers, json={"item": item})
        answer.raise_for_status()
