"""What ``hive.yaml`` says about breakers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hive_ray.config_base import Section, refuse
from hive_ray.config_retries import FailureName

Percent = Annotated[int, Field(ge=1, le=100)]


def _stands_behind(name: str) -> str:
    kind, _, rest = name.partition("/")
    if kind not in ("model", "tool") or not rest or "/" in rest:
        remedy = "write model/NAME or tool/NAME; model/* and tool/* are for all that are not named"
        refuse(f"{name!r} has no breaker", remedy)
    return name


BreakerName = Annotated[str, AfterValidator(_stands_behind)]


class BreakerSettings(Section):
    """When a breaker opens, and for how long."""

    window_s: PositiveFloat = 30.0
    """Seconds over which calls are counted."""
    min_calls: PositiveInt = 10
    """Calls in the window before it may open."""
    failure_percent: Percent = 50
    """Share of failed calls at which it opens."""
    slow_s: NonNegativeFloat = 0.0
    """A call that takes longer is slow; 0 counts none as slow."""
    slow_percent: Percent = 100
    """Share of slow calls at which it opens."""
    open_s: PositiveFloat = 15.0
    """Seconds for which steps fail fast; then one step may try."""
    failures: tuple[FailureName, ...] = (
        "TIMEOUT",
        "TOOL_UNAVAILABLE",
        "LLM_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
    )
    """Failure kinds that count. Add `TOOL_ERROR` for tools whose errors mean that they are broken."""
