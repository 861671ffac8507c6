"""Somebody of another team, or without a credential, who asks for what is not theirs, at the real door."""

from __future__ import annotations

from typing import Any

from hive_ray.control import budget_views as b
from hive_ray.control.envelope import Asked, Caller
from hive_ray.control.queries import GetMemory, GetRun, GetState, ListApprovals, ListRuns
from hive_ray.control.views import Answer
from hive_ray.core import commands as c
from hive_ray.core.messages import StepContent
from hive_ray.core.principals import Principal, Scope
from tests.simulation.moves import Move
from tests.simulation.people import nothing
from tests.simulation.world import World

THEIRS = "others"
SAID = StepContent(message="mine")
REFUSALS = ("not_found", "forbidden", "unauthenticated", "unavailable", "overloaded", "conflict")


def _caller(world: World) -> Caller:
    user = Principal("user:stranger", THEIRS, world.pick(((Scope.READ,), (Scope.OPERATE,), (*Scope,)[:4])))
    valid_us = world.clock.wall_us + int(world.chance.random() * 60_000_000)
    return world.pick(
        (
            Caller("user", user=user, until_us=valid_us),
            Caller("user", user=user, until_us=valid_us, team=THEIRS),
            Caller("user", user=user, until_us=valid_us, team="team"),
            Caller("user", user=user, until_us=world.clock.wall_us - 1),
            Caller("key", "unknown", b"digest"),
        )
    )


def _request(world: World) -> Any:
    run = world.pick(world.ledger.names) if world.ledger.names else "none"
    now_us = world.clock.wall_us
    return world.pick(
        (
            GetRun(run),
            GetState(run),
            GetMemory("team", "team", "n"),
            GetMemory("run", run, "n"),
            ListRuns("team"),
            ListApprovals("team"),
            c.Cancel(run, "it is mine"),
            c.Pause(run),
            c.Resume(run),
            c.Forget(run, "stranger"),
            c.Signal(run, SAID, "n0"),
            c.CorrectCost(run, "stranger", 1, SAID),
            c.StopSpending("team/team"),
            b.GetAccount("team/team", now_us),
            b.ListAccounts(now_us, "team"),
        )
    )


def ask(world: World) -> bool:
    """Whatever it is, nothing of it is told and nothing of it is done."""
    world.ask(Asked(_caller(world), _request(world)), _told, nothing)
    return True


def _told(answer: Answer) -> None:
    if answer.refused is not None:
        assert answer.refused.problem in REFUSALS, answer.refused
        return
    assert isinstance(answer.value, list), f"a stranger was answered with {answer.value}"
    for line in answer.value:
        named = line.name if isinstance(line, b.AccountView) else line.team
        assert THEIRS in named, f"a stranger was told of {line}"


MOVES = (Move("stranger", 1, ask),)
