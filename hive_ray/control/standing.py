"""How a run stands, its child runs included: what people see as its status, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hive_ray.core.engine import Engine
from hive_ray.core.run import Run, RunStatus, Visit, is_waiting, status_of

REASONS = 3
"""Of so many waits the reason is told; of the rest, how many there are."""


class Standing(NamedTuple):
    status: RunStatus
    reason: str


def standing(engine: Engine, run: Run) -> Standing:
    """Status and reason; a run that has nothing under way but children that wait is waiting too."""
    if run.terminal or run.paused:
        return Standing(status_of(run), run.reason or run.failure)
    reasons = list(_reasons(run))
    if run.id in engine.entrance:
        scope = engine.entrance.keeping(engine.force, run.team, run.agent)
        return Standing(run.status, f"{scope} has {engine.force.runs(scope)} runs under way" if scope else "")
    if not is_waiting(run, engine.runs):
        return Standing(run.status, _told(reasons))
    return Standing(RunStatus.WAITING, _told([*reasons, *_waits_of_children(engine, run)]))


def family(engine: Engine, run: Run) -> Iterator[Run]:
    """A run and its live descendants, in the order in which they began."""
    yield run
    for child in engine.children.get(run.id, ()):
        found = engine.runs.get(child)
        if found is not None:
            yield from family(engine, found)


def _reasons(run: Run) -> Iterator[str]:
    for visit in run.visits.values():
        if visit.wait:
            yield f"{visit.wait.reason}: {visit.wait.message}"


def _waits_of_children(engine: Engine, run: Run) -> Iterator[str]:
    for visit in run.visits.values():
        for child in _children(engine, visit):
            yield f"child run {child.id}: {standing(engine, child).reason}"


def _children(engine: Engine, visit: Visit) -> Iterator[Run]:
    live = visit.children.live.values() if visit.children is not None else ()
    # One that is not in memory waits, or it would be there.
    return (engine.runs[child] for child in live if child in engine.runs)


def _told(reasons: list[str]) -> str:
    more = [f"and {len(reasons) - REASONS} more"] if len(reasons) > REASONS else []
    return "; ".join([*reasons[:REASONS], *more])
