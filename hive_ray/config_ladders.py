"""What ``hive.yaml`` says about stepping down when a model is slow, fails, or costs too much."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from hive_ray.config_base import Section, refuse

Percent = Annotated[int, Field(ge=0, le=100)]


class RungSettings(Section):
    """One rung: what is different from here on. The rungs above it hold as well."""

    model: str = ""
    """Another model of `models` is asked instead."""
    max_tokens: NonNegativeInt = 0
    """Output tokens at most; 0: as many as before."""
    context_bytes: NonNegativeInt = 0
    """Bytes of a conversation at most: older turns are left out, and of long-term memory what no prompt
    names. 0: as many as before."""
    budget_percent: Percent = 0
    """A run steps down to here when so much of a budget of it is spent; 0: budgets do not lead here."""

    @model_validator(mode="after")
    def _says_something(self) -> RungSettings:
        if not (self.model or self.max_tokens or self.context_bytes):
            refuse("a rung on which nothing is different", "give model, max_tokens or context_bytes")
        return self


class LadderSettings(Section):
    """When the steps that ask for a model go down its rungs, and up again."""

    rungs: tuple[RungSettings, ...]
    """From the first to the last."""
    window_s: PositiveFloat = 30.0
    """Seconds over which calls are looked at."""
    min_calls: PositiveInt = 10
    """Calls in the window before they lead down."""
    latency_p95_s: NonNegativeFloat = 0.0
    """A 95th percentile of calls above it leads a rung down; 0: latency does not."""
    error_percent: Percent = 0
    """Share of calls that time out, are answered 429 or find nobody at which it goes down; 0: they do not."""
    recover_percent: Annotated[int, Field(ge=1, le=100)] = 70
    """A trial, which is made as if one rung higher, goes well below this share of `latency_p95_s`."""
    calm_s: NonNegativeFloat = 300.0
    """Seconds between two steps up, if it went down in between."""

    @model_validator(mode="after")
    def _has_rungs(self) -> LadderSettings:
        if not self.rungs:
            refuse("a ladder without rungs", "add a rung such as {model: small}")
        return self
