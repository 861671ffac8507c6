"""Operators who change budgets, rates, bounds and breakers while a history goes on, and stop all spending;
and who pays when nothing goes on for want of money."""

from __future__ import annotations

import msgspec

from hive_ray.core.commands import (
    AllowSpending,
    ChangeBudget,
    ChangeRate,
    ChangeRunsLimit,
    ForceBreaker,
    Maintain,
    StopSpending,
)
from hive_ray.core.messages import StepContent
from hive_ray.core.plan import RatePlan
from tests.simulation.budgets import ACCOUNTS, BREAKING, RATED, RUNNING, SCOPES, draw_budget, draw_rate
from tests.simulation.moves import Move
from tests.simulation.people import nothing, nothing_to_say
from tests.simulation.world import World

REFUSALS = 20
LEAST_NANOUSD = 100
WHY = StepContent(message="they say so")
NO_RATE = RatePlan()
PURSE_US = 100_000


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


def force(world: World) -> bool:
    """Somebody knows better than a breaker, and lets it decide again a little later."""
    name = world.pick(BREAKING).replace("*", "look")
    world.clock.after(int(world.chance.random() * 2_000_000), lambda: _let_decide(world, name))
    return _command(world, ForceBreaker(name, world.pick(("open", "closed", "auto")), WHY, "somebody"))


def _let_decide(world: World, name: str) -> None:
    _command(world, ForceBreaker(name, "auto", WHY, "somebody"))


def maintain(world: World) -> bool:
    world.clock.after(int(world.chance.random() * 3_000_000), lambda: _end_maintenance(world))
    return _command(world, Maintain(True))


def _end_maintenance(world: World) -> None:
    _command(world, Maintain(False))


class Treasurer:
    """Raises what is nearly spent once many nodes failed for want of money, beside the attempts given out.

    A limit is met again and again so, and no history is made of refusals alone.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._unpaid = self._started = 0
        self._look()

    def _look(self) -> None:
        world, ledger = self._world, self._world.ledger
        unpaid, started = ledger.unpaid - self._unpaid, ledger.started - self._started
        if unpaid > REFUSALS and 2 * unpaid > started:
            _raise_limits(world)
        if unpaid > REFUSALS or started > REFUSALS:
            self._unpaid, self._started = ledger.unpaid, ledger.started
        if not world.calm:
            world.clock.after(PURSE_US, self._look)


def _raise_limits(world: World) -> None:
    controller = world.ready()
    if controller is None or controller.shell is None:
        return
    engine = controller.shell.engine
    for name, account in engine.fleet.accounts.by_name.items():
        limit = engine.force.account(name)
        used = account.present.spent_nanousd + account.present.held_nanousd
        if limit is not None and 0 <= limit.nanousd < 2 * used + LEAST_NANOUSD:
            raised = msgspec.structs.replace(limit, nanousd=4 * limit.nanousd + LEAST_NANOUSD)
            _command(world, ChangeBudget(name, raised))


def lift(world: World) -> None:
    """At the end nothing keeps runs from ending but budgets: hundreds in line would take days."""
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
    stopped += [ForceBreaker(name, "auto", WHY) for name, breaker in fleet.breakers.items() if breaker.forced]
    plan, changes, force = fleet.plan, fleet.changes, controller.shell.engine.force
    rates = [name for name in {**plan.rates, **changes.rates} if (force.rate(name) or NO_RATE) != NO_RATE]
    stopped += [ChangeRate(name, NO_RATE) for name in rates]
    stopped += [ChangeRunsLimit(name, 0) for name in {**plan.runs, **changes.runs} if force.runs(name)]
    return [*stopped, Maintain(False) if fleet.maintenance else None]


MOVES = (
    Move("change_budget", 6, change_budget, "limits"),
    Move("change_rate", 2, change_rate, "limits"),
    Move("change_runs", 2, change_runs, "limits"),
    Move("stop", 1, stop, "limits"),
    Move("maintain", 1, maintain, "limits"),
    Move("force", 3, force, "breakers"),
)
