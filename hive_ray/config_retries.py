"""What ``hive.yaml`` says about trying again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from hive_ray.config_base import Section

FailureName = Literal[
    "TIMEOUT", "RATE_LIMITED", "TOOL_UNAVAILABLE", "TOOL_ERROR", "LLM_UNAVAILABLE", "LLM_REFUSED",
    "CONTEXT_TOO_LONG", "AUTHENTICATION", "INVALID_OUTPUT", "BAD_INPUT", "BUDGET_EXCEEDED", "POLICY_DENIED",
    "REJECTED", "EXPIRED", "LIMIT_EXCEEDED", "RESOURCE_LIMIT", "CONFLICT", "WORKER_LOST", "OUTCOME_UNKNOWN",
    "CANCELLED", "INTERNAL",
]  # fmt: skip
"""The closed set of failure kinds (a test holds it against ``core.failures``)."""


class RetrySettings(Section):
    """How steps of one kind are tried again, where their graph says nothing."""

    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Attempts after the first one."""
    base_s: PositiveFloat = 0.5
    """Seconds that the first wait lasts at most; each further one may be twice as long."""
    cap_s: PositiveFloat = 30.0
    """Seconds that no wait passes, but for what a server asks for."""
    retry_on: tuple[FailureName, ...] = ()
    """Failure kinds after which another attempt follows; by default each that can pass by itself."""


class RetriesSettings(Section):
    """Trying again what is idempotent, or certainly did not begin. A graph's own `retry` goes before."""

    function: RetrySettings = RetrySettings()
    """Function steps."""
    tool: RetrySettings = RetrySettings()
    """Tool calls."""
    llm: RetrySettings = RetrySettings()
    """LLM calls."""
    longest_wait_s: PositiveFloat = 300.0
    """A server that asks for a longer pause (`Retry-After`) is not asked again: the step fails."""
