"""Operators who change budgets, rates and bounds while a history goes on, and stop all spending."""

from __future__ import annotations

from hive_ray.core.commands import (
    AllowSpending,
    ChangeBudget,
    ChangeRate,
    ChangeRunsLimit,
    Maintain,
    StopSpending,
)
from tests.simulation.budgets import ACCOUNTS, RATED, RUNNING, SCOPES, draw_budget, draw_rate
from tests.simulation.moves import Move
from tests.simulation.people import nothing, nothing_to_say
from tests.simulation.world import World


def _command(world: World, command: object) -> bool:
    world.ask(command, nothing_to_say, nothing)
    return True


def change_budget(world: World) -> bool:
    name = world.pick(ACCOUNTS)
    plan = draw_budget(world.chance) if world.chance.random() < 0.8 else None
    return _command(world, ChangeBudget(name, plan))


def change_rate(world: World) -> bool:
    plan = draw_rate(world.chance) if world.chance.random() < 0.5 else None
    return _command(world, ChangeRate(world.pick(RATED), plan))


def change_runs(world: World) -> bool:
    return _command(world, ChangeRunsLimit(world.pick(RUNNING), int(world.chance.random() * 40) - 1))


def stop(world: World) -> bool:
    """Somebody allows it again a little later, if they get through."""
    scope = world.pick(SCOPES)
    world.clock.after(int(world.chance.random() * 5_000_000), lambda: _allow(world, scope))
    return _command(world, StopSpending(scope))


def _allow(world: World, scope: str) -> None:
    _command(world, AllowSpending(scope))


def maintain(world: World) -> bool:
    world.clock.after(int(world.chance.random() * 3_000_000), lambda: _end_maintenance(world))
    return _command(world, Maintain(True))


def _end_maintenance(world: World) -> None:
    _command(world, Maintain(False))


def lift(world: World) -> None:
    """At the end nothing keeps runs from ending but limits that were there from the beginning."""
    if not all(command is None for command in _left(world)):
        for command in _left(world):
            if command is not None:
                _command(world, command)
        world.clock.after(1_000_000, lambda: lift(world))


def _left(world: World) -> list[object]:
    controller = world.ready()
    if controller is None or controller.shell is None:
        return [Maintain(False)]
    fleet = controller.shell.engine.fleet
    stopped: list[object] = [AllowSpending(scope) for scope in fleet.stopped]
    return [*stopped, Maintain(False) if fleet.maintenance else None]


MOVES = (
    Move("change_budget", 6, change_budget, "limits"),
    Move("change_rate", 2, change_rate, "limits"),
    Move("change_runs", 2, change_runs, "limits"),
    Move("stop", 1, stop, "limits"),
    Move("maintain", 1, maintain, "limits"),
)
