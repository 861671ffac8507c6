"""A console that asks for everything."""

from __future__ import annotations

from hive_ray.control.queries import (
    GetAgent,
    GetRun,
    ListAgents,
    ListApprovals,
    ListRuns,
    ListWorkers,
    WatchRun,
)
from hive_ray.core.commands import Register
from tests.simulation.moves import Move
from tests.simulation.people import nothing, nothing_to_say
from tests.simulation.world import World

STATUSES = ("", "waiting", "succeeded,failed")


def _ask(world: World, request: object) -> bool:
    world.ask(request, nothing_to_say, nothing)
    return True


def _run(world: World) -> str:
    """Some run that was ever there."""
    names = world.ledger.names
    return world.pick(names) if names else "none"


def list_runs(world: World) -> bool:
    limit = 1 + int(world.chance.random() * 7)
    return _ask(world, ListRuns(limit=limit, status=world.pick(STATUSES)))


def next_page(world: World) -> bool:
    return _ask(world, ListRuns("team", before=_run(world), limit=2, children=True))


MOVES = (
    Move("run", 1, lambda world: _ask(world, GetRun(_run(world)))),
    Move("watch", 1, lambda world: _ask(world, WatchRun(_run(world)))),
    Move("runs", 1, list_runs),
    Move("page", 1, next_page),
    Move("approvals", 1, lambda world: _ask(world, ListApprovals("team", _run(world)))),
    Move("workers", 1, lambda world: _ask(world, ListWorkers())),
    Move("agents", 1, lambda world: _ask(world, ListAgents("team"))),
    Move("agent", 1, lambda world: _ask(world, GetAgent("team", "a0"))),
    Move("register", 1, lambda world: _ask(world, Register("a0", "team", world.graphs[0]))),
)
