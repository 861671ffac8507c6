"""What requests about budgets, rates, parallel runs, maintenance and configuration carry."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serve.bodies import Body, Usd

LARGEST = 2**62
Why = Annotated[str, Field(max_length=2000)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class BudgetLimits(Body):
    """All limits of an account; ``null`` is none. What is left out is as ``hive.yaml`` has it by default."""

    usd: Usd | None = None
    tokens: Count | None = None
    at_limit: Literal["stop", "pause_for_approval", "degrade"] = "stop"
    warn_percent: Annotated[int, Field(ge=1, le=100)] = 80
    owner: Annotated[str, Field(max_length=200)] = ""
    """Who is asked with ``pause_for_approval``."""
    reason: Why = ""

    @model_validator(mode="after")
    def _says_something(self) -> BudgetLimits:
        if not self.model_fields_set & {"usd", "tokens"}:
            raise ValueError("give usd, tokens, or both; null means no limit, DELETE the configuration's")
        return self


class RateLimits(Body):
    """All rates of a pool, a model or a tool; 0 is no limit."""

    requests_per_minute: Count = 0
    tokens_per_minute: Count = 0
    reason: Why = ""


class PoolLimits(RateLimits):
    """All limits of a pool."""

    usd_per_hour: Usd | None = None


class RunsLimit(Body):
    """Parallel runs of a team or an agent; 0 is any number."""

    runs: Annotated[int, Field(ge=0, le=1_000_000_000)]
    reason: Why = ""


class NewConfiguration(Body):
    """The content of a ``hive.yaml``, its paths absolute."""

    config: dict[str, Any]
