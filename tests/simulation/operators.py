"""Operators, who interfere with runs whatever these are doing, and with what the state keeps of them."""

from __future__ import annotations

from functools import partial

from hive_ray.control.queries import ListRuns
from hive_ray.control.views import Answer
from hive_ray.core.commands import (
    Cancel,
    CorrectCost,
    DeleteMemory,
    Forget,
    Pause,
    PutMemory,
    Resume,
)
from hive_ray.core.messages import StepContent
from hive_ray.core.values import inline
from hive_ray.errors import StoreError
from hive_ray.testing import GatedStore
from tests.simulation.moves import Move
from tests.simulation.people import nothing, nothing_to_say
from tests.simulation.replica import Branching
from tests.simulation.world import World

MOST_BRANCHES = 40
"""Forks of one history: each is a run of its own."""
BULK = 12


def _live(world: World) -> str:
    """Some run that has not ended; empty: there is none."""
    return world.pick(list(world.ledger.live)) if world.ledger.live else ""


def _ended(world: World) -> str:
    """Some run that has ended, mostly one of the last; empty: there is none."""
    ended = list(world.ledger.ended)
    return ended[-1 - int(world.chance.random() ** 3 * len(ended))] if ended else ""


def _any(world: World) -> str:
    names = world.ledger.names
    return names[-1 - int(world.chance.random() ** 2 * len(names))] if names else ""


def _command(world: World, command: object) -> bool:
    world.ask(command, nothing_to_say, nothing)
    return True


# --- runs


def cancel(world: World) -> bool:
    run = _live(world)
    return bool(run) and _command(world, Cancel(run, "no longer needed"))


def pause(world: World) -> bool:
    run = _live(world)
    return bool(run) and _command(world, Pause(run, "let us see"))


def resume(world: World) -> bool:
    run = _live(world)
    return bool(run) and _command(world, Resume(run))


def bulk(world: World) -> bool:
    """The same command for all that a list shows, as ``runs:cancel`` and ``runs:resume`` send it."""
    stops = world.chance.random() < 0.2
    query = ListRuns("team", status="queued,running,waiting" if stops else "waiting", limit=BULK)
    world.ask(query, partial(_steer_all, world, stops), nothing)
    return True


def _steer_all(world: World, stops: bool, answer: Answer) -> None:
    for line in answer.value or ():
        _command(world, Cancel(line.run_id, "all of them") if stops else Resume(line.run_id))


def fork(world: World) -> bool:
    run = _any(world)
    if not run or len(world.ledger.forks) + world.branching >= MOST_BRANCHES:
        return False
    Branching(world, run, resumes=False)
    return True


def resume_ended(world: World) -> bool:
    """A new run goes on in the place of one that failed or was cancelled."""
    run = _ended(world)
    if not run or len(world.ledger.forks) + world.branching >= MOST_BRANCHES:
        return False
    Branching(world, run, resumes=True)
    return True


# --- what is kept


def forget(world: World) -> bool:
    run = _ended(world)
    return bool(run) and _command(world, Forget(run, "somebody"))


def correct(world: World) -> bool:
    """Somebody knows better what a run did cost."""
    run = _any(world)
    amount = int(world.chance.random() * 9) - 4
    why = StepContent(message="the bill says so")
    return bool(run) and _command(world, CorrectCost(run, f"c{world.number()}", amount, why))


def remember(world: World) -> bool:
    scope, owner = _shelf(world)
    value = inline("v" * int(world.chance.random() * 40))
    version = world.pick((-1, -1, 0, 1, 2))
    request = f"put-{world.number()}"
    return _command(world, PutMemory(scope, owner, _key(world), value, version, "somebody", request))


def unremember(world: World) -> bool:
    scope, owner = _shelf(world)
    return _command(world, DeleteMemory(scope, owner, _key(world), world.pick((-1, -1, 1, 3)), "somebody"))


def _shelf(world: World) -> tuple[str, str]:
    scope = world.pick(("agent", "team", "run"))
    return scope, {"agent": "team/agent", "team": "team"}.get(scope) or _any(world)


def _key(world: World) -> str:
    return world.pick(("n", "t1", "t2", "k0", "k1", "k2", "note"))


def rotate(world: World) -> bool:
    """The key-encryption key is replaced by another; breaks off where the store fails, and is repeated."""
    if world.storage.keyring is None:
        return False
    world.storage.new_key()
    _rewrap(world)
    return True


def _rewrap(world: World) -> None:
    weather = world.weather
    keyring = world.storage.open_keyring(GatedStore(world.storage.raw, weather.before, weather.after))
    assert keyring is not None
    try:
        keyring.rotate()
    except StoreError:
        world.clock.after(1_000_000, partial(_rewrap, world))


MOVES = (
    Move("cancel", 4, cancel, "commands"),
    Move("pause", 9, pause, "commands"),
    Move("resume", 12, resume, "commands"),
    Move("bulk", 2, bulk, "commands"),
    Move("fork", 4, fork),
    Move("resume_ended", 4, resume_ended),
    Move("forget", 2, forget, "forget"),
    Move("correct", 1, correct),
    Move("remember", 2, remember),
    Move("unremember", 1, unremember),
    Move("rotate", 1, rotate),
)
"""What may be done; ``commands`` and ``forget`` count as kinds of fault, the others happen everywhere."""
