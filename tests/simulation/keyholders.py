"""Administrators who make, roll and end API keys, and whoever holds one, at the real door."""

from __future__ import annotations

from functools import partial
from typing import Any

from hive_ray.control import budget_views as b
from hive_ray.control.envelope import INSTALLATION, Asked, Caller
from hive_ray.control.ladder_views import ListLadders
from hive_ray.control.queries import GetRun, ListKeys, ListPolicies, ListRuns
from hive_ray.control.views import Answer
from hive_ray.core import commands as c
from hive_ray.core.principals import Scope
from tests.simulation.moves import Move
from tests.simulation.people import TRANSIENT, nothing, nothing_to_say
from tests.simulation.world import World

TEAMS = ("team", "others")
SCOPES = ((Scope.READ,), (Scope.READ, Scope.OPERATE), (Scope.ADMIN,), (Scope.ADMIN,))
LONG_US = 3_600_000_000


def create(world: World) -> bool:
    """Whether there is room for it, or somebody left who could make another, the controller decides."""
    key, secret = f"k{world.number()}", world.token_hex(8).encode()
    short_us = world.clock.wall_us + int(world.chance.random() * LONG_US)
    expires_us = short_us if world.chance.random() < 0.3 else 0
    name = f"n{int(world.chance.random() * 8)}"
    command = c.CreateKey(key, name, world.pick(TEAMS), world.pick(SCOPES), secret, expires_us=expires_us)
    world.ask(Asked(INSTALLATION, command), nothing_to_say, nothing)
    return True


def roll(world: World) -> bool:
    key = _key(world)
    old_us = world.clock.wall_us + int(world.chance.random() * LONG_US)
    command = c.RollKey(key, world.token_hex(8).encode(), world.pick((0, old_us)))
    world.ask(Asked(INSTALLATION, command), nothing_to_say, nothing)
    return bool(key)


def revoke(world: World) -> bool:
    key = _key(world)
    world.ask(Asked(INSTALLATION, c.RevokeKey(key)), nothing_to_say, nothing)
    return bool(key)


def _key(world: World) -> str:
    """Some key that was made; or none that is known."""
    known = [*world.ledger.keys.secrets]
    return world.pick(known) if known and world.chance.random() < 0.95 else ""


def enter(world: World) -> bool:
    """Somebody asks with a key: with its secret of now, with one of before, or with a wrong one."""
    key = _key(world)
    keys = world.ledger.keys
    secret = world.pick(keys.secrets[key]) if key and world.chance.random() < 0.9 else b"wrong"
    caller = Caller("key", key, secret, team=world.pick(("", "", *TEAMS)))
    ended = key in keys.revoked or secret not in keys.secrets.get(key, ())
    refused = ended and world.has_heard()
    request = _request(world)
    world.ask(Asked(caller, request), partial(_told, world, caller, request, refused), nothing)
    return bool(key)


def _request(world: World) -> Any:
    run = world.pick(world.ledger.names) if world.ledger.names else "none"
    return world.pick(
        (
            ListKeys(),
            ListPolicies(""),
            ListLadders(),
            ListRuns(limit=3),
            GetRun(run),
            c.Resume(run),
            b.ListAccounts(world.clock.wall_us),
            b.GetMaintenance(),
        )
    )


def _told(world: World, caller: Caller, request: Any, refused: bool, answer: Answer) -> None:
    """Nobody comes in with a key that has ended, or with a wrong secret; others see their own team's runs."""
    if answer.refused is not None:
        return
    assert not refused, f"{caller.key} was let in"
    if isinstance(request, ListRuns) and caller.key not in world.ledger.keys.admins:
        team = world.ledger.keys.teams[caller.key]
        assert all(line.team == team for line in answer.value), f"{caller.key} of {team} sees {answer.value}"


def as_operator(world: World) -> bool:
    """The installation itself, and somebody without a credential: let in until there ever was a key."""
    closed = bool(world.ledger.keys.secrets) and world.has_heard()
    caller = world.pick((INSTALLATION, Caller()))
    request = world.pick((ListKeys(), ListPolicies("team")))
    world.ask(Asked(caller, request), partial(_let_in, caller, closed), nothing)
    return True


def _let_in(caller: Caller, closed: bool, answer: Answer) -> None:
    if caller == INSTALLATION:
        assert answer.refused is None or answer.refused.problem in TRANSIENT, answer.refused
    else:
        assert answer.refused is not None or not closed, "somebody without a credential was let in"


MOVES = (
    Move("key_made", 2, create),
    Move("key_rolled", 1, roll),
    Move("key_ended", 1, revoke),
    Move("key_used", 6, enter),
    Move("operator", 1, as_operator),
)
