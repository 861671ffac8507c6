"""Durable agent graphs on a Ray cluster.

    import hive_ray as hive

    client = hive.up()                      # or hive.connect("http://127.0.0.1:8700")
    run = client.submit("graph.yaml", input={"ticket": "…"})
    print(run.result())

Everything is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hive_ray.client import Client, Run, RunFailed, connect, up
    from hive_ray.errors import HiveError
    from hive_ray.graph.builder import Graph
    from hive_ray.graph.load import load_graph
    from hive_ray.state.sql import sql
    from hive_ray.workers.tools import BadInput, RetryAfter, ToolContext, ToolUnavailable, function, tool

_HOMES = {
    "BadInput": "hive_ray.workers.tools",
    "Client": "hive_ray.client",
    "Graph": "hive_ray.graph.builder",
    "HiveError": "hive_ray.errors",
    "RetryAfter": "hive_ray.workers.tools",
    "Run": "hive_ray.client",
    "RunFailed": "hive_ray.client",
    "ToolContext": "hive_ray.workers.tools",
    "ToolUnavailable": "hive_ray.workers.tools",
    "connect": "hive_ray.client",
    "function": "hive_ray.workers.tools",
    "load_graph": "hive_ray.graph.load",
    "sql": "hive_ray.state.sql",
    "tool": "hive_ray.workers.tools",
    "up": "hive_ray.client",
}

__all__ = [
    "BadInput", "Client", "Graph", "HiveError", "RetryAfter", "Run", "RunFailed", "ToolContext",
    "ToolUnavailable", "connect", "function", "load_graph", "sql", "tool", "up",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hive_ray' has no attribute {name!r}")
    return getattr(import_module(home), name)
