"""What workers of this configuration can run, as the graph compiler wants to know it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from hive_ray.config import ModelSettings, SecretRef, Settings
from hive_ray.config_approvals import ApprovalsSettings
from hive_ray.config_retries import RetriesSettings
from hive_ray.errors import ConfigError, Fault
from hive_ray.graph import environment as compiler
from hive_ray.graph.asking import Asked, Final
from hive_ray.graph.compiled import RetryPlan
from hive_ray.prices import price_of
from hive_ray.workers.mcp import describe
from hive_ray.workers.step_error import StepError
from hive_ray.workers.tools import Registry, ToolInfo


async def compile_environment(
    settings: Settings, resolve: Callable[[SecretRef], str], registry: Registry
) -> compiler.CompileEnvironment:
    """Models with their prices, Python tools and functions, and the tools of every MCP server.

    Starts each MCP server once, and ends it again.

    Raises:
        ConfigError: an MCP server does not start.
    """
    try:
        remote = await describe(settings, resolve)
    except StepError as error:
        fault = Fault("tools.mcp", str(error), "mend its command or url, or remove it")
        raise ConfigError("tools", [fault]) from error
    tools = [*remote, *registry.infos("tool")]  # a Python tool hides an MCP tool of its name, as in a worker
    return compiler.CompileEnvironment(
        models=await asyncio.to_thread(_models, settings),
        default_model=settings.default_model,
        tools={info.name: _tool(info) for info in tools},
        functions={info.name: _function(info) for info in registry.infos("function")},
        pools=frozenset(settings.pools),
        retries=_retries(settings.retries),
        asks=ask_defaults(settings.approvals),
    )


def ask_defaults(settings: ApprovalsSettings) -> compiler.AskDefaults:
    """What holds for a human node that says nothing."""
    return compiler.AskDefaults(
        settings.owner,
        round(settings.default_deadline_s * 1e6),
        tuple(Asked(step.owner, round(step.after_s * 1e6)) for step in settings.escalate),
        Final(settings.final),
        settings.four_eyes,
    )


def _retries(settings: RetriesSettings) -> dict[str, RetryPlan]:
    kinds = {"function": settings.function, "tool": settings.tool, "llm": settings.llm}
    return {
        kind: RetryPlan(one.max_retries, round(one.base_s * 1e6), round(one.cap_s * 1e6), one.retry_on)
        for kind, one in kinds.items()
    }


def _models(settings: Settings) -> dict[str, compiler.ModelInfo]:
    return {name: _model(model) for name, model in settings.models.items()}


def _model(model: ModelSettings) -> compiler.ModelInfo:
    """Prices at the dearest class that can apply: they bound what a call can cost."""
    prices = price_of(model)
    if prices is None:
        return compiler.ModelInfo(None, None, model.max_tokens)
    return compiler.ModelInfo(prices.dearest_input, prices.dearest_output, model.max_tokens)


def _tool(info: ToolInfo) -> compiler.ToolInfo:
    shown = msgspec.json.encode({"description": info.description, "schema": info.schema})
    return compiler.ToolInfo(
        info.idempotent,
        info.timeout_us,
        info.pool,
        info.tags,
        schema_bytes=len(shown),
        memory=info.memory,
        schema=msgspec.json.encode(info.schema, order="deterministic") if info.schema else b"",
    )


def _function(info: ToolInfo) -> compiler.FunctionInfo:
    return compiler.FunctionInfo(info.idempotent, info.timeout_us, info.pool, memory=info.memory)
