"""What the graph compiler learns about models, tools and functions."""

from __future__ import annotations

import asyncio

import pytest

import hive_ray.workers.tools as hive
from hive_ray import config
from hive_ray.config import Settings
from hive_ray.errors import ConfigError
from hive_ray.workers.environment import compile_environment
from tests.servers.mcp import TIME_COMMAND


@hive.tool(idempotent=True, timeout_s=2, tags=["reads"])
def search(query: str) -> str:
    """Find texts."""
    return query


@hive.function()
def triage(ticket: str) -> str:
    return ticket


def environment(**sections: object):
    registry = hive.Registry()
    registry.add(search)
    registry.add(triage)
    return asyncio.run(compile_environment(Settings.model_validate(sections), config.resolve, registry))


def test_python_and_mcp_tools_functions_and_models_are_known():
    """Everything that a graph may name, with what bounds its time and cost."""
    model = {"provider": "openai-compatible", "model": "x", "base_url": "http://127.0.0.1:1/v1"}
    prices = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15}
    known = environment(
        models={"priced": {**model, **prices}, "unpriced": model},
        default_model="priced",
        tools={"mcp": {"clock": {"command": TIME_COMMAND}}},
    )

    assert known.tools is not None and known.functions is not None and known.models is not None
    assert {"search", "convert_time", "clock.convert_time"} <= known.tools.keys()
    found = known.tools["search"]
    assert (found.idempotent, found.timeout_us, found.tags, found.pool) == (
        True,
        2_000_000,
        ("reads",),
        "tool",
    )
    assert found.schema_bytes > len("Find texts.")
    assert not known.functions["triage"].idempotent
    assert known.models["priced"].output_nanousd_per_mtok == 15_000_000_000
    assert known.models["unpriced"].input_nanousd_per_mtok is None


def test_an_mcp_server_that_does_not_start_is_a_fault_of_the_configuration():
    """It is named before any graph that uses it runs."""
    with pytest.raises(ConfigError, match="MCP server crm"):
        environment(tools={"mcp": {"crm": {"command": ["no-such-program-here"]}}})
