"""A console that asks for everything."""

from __future__ import annotations

from hive_ray.control import budget_views as b
from hive_ray.control.breaker_views import GetBreaker, ListBreakers
from hive_ray.control.estimating import Known, estimate
from hive_ray.control.ladder_views import GetLadder, ListLadders
from hive_ray.control.outbox_views import ListOutbox
from hive_ray.control.queries import (
    GetAgent,
    GetMemory,
    GetRun,
    GetState,
    ListAgents,
    ListApprovals,
    ListMemory,
    ListRuns,
    ListWorkers,
    WatchRun,
)
from hive_ray.control.views import Answer
from hive_ray.core.commands import Register
from tests.core.random_graphs import MODEL
from tests.simulation.budgets import ACCOUNTS, BREAKING, RATED, RUNNING
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


def dead_letters(world: World) -> bool:
    before_us = world.clock.wall_us if world.chance.random() < 0.5 else 0
    return _ask(world, ListRuns("team", agent="agent", dead_lettered=True, submitted_before_us=before_us))


def memory(world: World) -> bool:
    scope = world.pick(("agent", "team", "run"))
    owner = {"agent": "team/agent", "team": "team"}.get(scope) or _run(world)
    return _ask(world, world.pick((GetMemory(scope, owner, "n"), ListMemory(scope, owner, "t", limit=2))))


def next_page(world: World) -> bool:
    return _ask(world, ListRuns("team", before=_run(world), limit=2, children=True))


def money(world: World) -> bool:
    now_us, name = world.clock.wall_us, world.pick(ACCOUNTS)
    team = world.pick(("", "team", "others"))
    page = b.Page(limit=world.pick((1, 1000)))
    questions = (
        b.GetAccount(name, now_us),
        b.ListAccounts(now_us, team, page),
        b.ListRates(),
        b.GetRate(world.pick(RATED)),
        b.ListPools(now_us, world.pick(((), ("function",))), team),
        b.ListParallelRuns(team, page, world.pick(((), RUNNING))),
        b.Foresee(now_us, "team", "agent", "g0.0", ("function", "llm"), ("tool/read", "model/m")),
        b.GetMaintenance(),
        b.GetPlan(),
    )
    return _ask(world, world.pick(questions))


def foresee(world: World) -> bool:
    """What a run may cost: asked of a replica, which looks at the graph, then asks what calls cost so far."""
    compiled = world.outside.graphs[world.pick(world.graphs)]
    given: dict[str, object] = {"list": [1, 2, 3], "k": True}
    first = estimate(compiled, given, Known({}, {})).cost
    subjects = tuple(sorted({subject for _, subject in first.worst if subject}))
    pools = tuple(sorted({pool for pool, _ in first.worst if pool}))
    query = b.Foresee(world.clock.wall_us, "team", "agent", compiled.name, pools, subjects)

    def estimated(answer: Answer) -> None:
        if answer.refused is None:
            contexts = {MODEL.model: 1_000} if world.chance.random() < 0.5 else {}
            found = estimate(compiled, given, Known(answer.value.experience, contexts)).cost
            assert contexts or found == first._replace(expected=found.expected), (
                "the past moved what is worst"
            )
            assert len(found.unbounded) <= len(first.unbounded)

    world.ask(query, estimated, nothing)
    return True


MOVES = (
    Move("run", 1, lambda world: _ask(world, GetRun(_run(world)))),
    Move("watch", 1, lambda world: _ask(world, WatchRun(_run(world)))),
    Move("runs", 1, list_runs),
    Move("page", 1, next_page),
    Move("dead_letters", 1, dead_letters),
    Move("state", 1, lambda world: _ask(world, GetState(_run(world)))),
    Move("memory", 2, memory),
    Move("approvals", 1, lambda world: _ask(world, ListApprovals("team", _run(world)))),
    Move("workers", 1, lambda world: _ask(world, ListWorkers())),
    Move("agents", 1, lambda world: _ask(world, ListAgents("team"))),
    Move("money", 3, money),
    Move("breakers", 1, lambda world: _ask(world, ListBreakers())),
    Move("breaker", 1, lambda world: _ask(world, GetBreaker(world.pick(BREAKING)))),
    Move("ladders", 1, lambda world: _ask(world, ListLadders())),
    Move("ladder", 1, lambda world: _ask(world, GetLadder(MODEL.model))),
    Move("foresee", 2, foresee),
    Move("outbox", 1, lambda world: _ask(world, ListOutbox(team="team"))),
    Move("agent", 1, lambda world: _ask(world, GetAgent("team", "a0"))),
    Move("register", 1, lambda world: _ask(world, Register("a0", "team", world.graphs[0]))),
)
