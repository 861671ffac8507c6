"""What the outside sees of breakers."""

from __future__ import annotations

import msgspec

from hive_ray.control.views import Answer
from hive_ray.core.breakers import Breaker, BreakerPlan, Counts, Mode
from hive_ray.core.engine import Engine

_CLOSED = Breaker(Mode.CLOSED, 0)


class BreakerView(msgspec.Struct, frozen=True):
    """One breaker. Times in microseconds since the epoch."""

    name: str
    mode: str
    """``closed``, ``open`` or ``half_open``."""
    since_us: int
    """0: it was closed since the controller began, or never opened."""
    reason: str
    probe: str
    """The attempt that tries; empty: none."""
    forced_by: str
    """Who holds it so; empty: it decides by itself."""
    plan: BreakerPlan | None
    """None: none is configured for this name."""
    counts: Counts
    """Of the window, while it is closed."""


class GetBreaker(msgspec.Struct, frozen=True, tag=True):
    """One breaker, whether or not anything was counted."""

    name: str

    def look(self, engine: Engine) -> Answer:
        return Answer(breaker_view(engine, self.name))


class ListBreakers(msgspec.Struct, frozen=True, tag=True):
    """Breakers that have counted something, are not closed, or are configured by name."""

    def look(self, engine: Engine) -> Answer:
        planned = (name for name in engine.force.plan.breakers if not name.endswith("*"))
        names = sorted({*engine.breaking.names(), *planned})
        return Answer([breaker_view(engine, name) for name in names])


BreakerQuery = GetBreaker | ListBreakers


def breaker_view(engine: Engine, name: str) -> BreakerView:
    breaker = engine.fleet.breakers.get(name, _CLOSED)
    return BreakerView(
        name,
        breaker.mode,
        breaker.since_us,
        breaker.reason,
        breaker.probe,
        breaker.principal if breaker.forced else "",
        engine.force.breaker(name),
        engine.breaking.counts(name),
    )
