"""Operators, who interfere with runs whatever these are doing."""

from __future__ import annotations

from hive_ray.core.commands import Cancel, Pause, Resume
from tests.simulation.moves import Move
from tests.simulation.people import nothing, nothing_to_say
from tests.simulation.world import World


def _live(world: World) -> str:
    """Some run that has not ended; empty: there is none."""
    return world.pick(list(world.ledger.live)) if world.ledger.live else ""


def _command(world: World, command: object) -> bool:
    world.ask(command, nothing_to_say, nothing)
    return True


def cancel(world: World) -> bool:
    run = _live(world)
    return bool(run) and _command(world, Cancel(run, "no longer needed"))


def pause(world: World) -> bool:
    run = _live(world)
    return bool(run) and _command(world, Pause(run, "let us see"))


def resume(world: World) -> bool:
    run = _live(world)
    return bool(run) and _command(world, Resume(run))


MOVES = (
    Move("cancel", 1, cancel, "commands"),
    Move("pause", 3, pause, "commands"),
    Move("resume", 4, resume, "commands"),
)
