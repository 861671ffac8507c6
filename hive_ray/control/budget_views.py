"""What the outside sees of budgets, pools, rates, parallel runs and the plan in force."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec

from hive_ray.control.views import Answer
from hive_ray.core.accounts import Experience, Ledger, window
from hive_ray.core.engine import Engine
from hive_ray.core.plan import AccountPlan, Change, Changes, RatePlan, encode_plan

MOST = 1000
_NOTHING = Ledger()


class AccountView(msgspec.Struct, frozen=True):
    """One account in its present window. Money in nano-dollars, times in microseconds since the epoch."""

    name: str
    limits: AccountPlan | None
    """None: it has no limit."""
    ledger: Ledger
    window_us: int
    until_us: int
    warned: bool
    changed: Change | None
    """None: the limits are the configuration's."""
    stopped_by: str = ""
    """Who stopped its spending; empty: nobody."""


class RateView(msgspec.Struct, frozen=True):
    """The rates of a pool, a model or a tool."""

    name: str
    plan: RatePlan | None
    changed: Change | None


class PoolView(msgspec.Struct, frozen=True):
    """A pool at work, as the controller knows it."""

    name: str
    workers: int
    slots: int
    leases: int
    ready: tuple[tuple[str, str, int], ...]
    """(priority class, team, steps) that wait for nothing but a worker."""
    awaiting: dict[str, int]
    """Steps that wait for something else, by what it is."""
    rate: RateView
    account: AccountView | None
    """None: what it spends is the sum of all teams, and not for one to see."""


class RunsView(msgspec.Struct, frozen=True):
    """Parallel runs of a team or an agent."""

    name: str
    limit: int
    """0: none."""
    under_way: int
    waiting: dict[str, int]
    """Runs that wait to begin, by priority class."""
    changed: Change | None


class PlanView(msgspec.Struct, frozen=True):
    """What is in force: the plan, and what people changed since."""

    plan: bytes
    """``core.plan.encode_plan`` of it."""
    digest: str
    applied: Change
    changes: Changes
    stopped: dict[str, str]
    maintenance: str


class Page(msgspec.Struct, frozen=True):
    """Which names: in order, those behind ``after``, at most ``limit``."""

    after: str = ""
    limit: int = MOST

    def of(self, names: set[str]) -> list[str]:
        return list(islice((name for name in sorted(names) if name > self.after), self.limit))


class GetAccount(msgspec.Struct, frozen=True, tag=True):
    """One account, used or not. ``at_us``: the wall time at which it is looked at."""

    name: str
    at_us: int

    def look(self, engine: Engine) -> Answer:
        return Answer(account_view(engine, self.name, self.at_us))


class ListAccounts(msgspec.Struct, frozen=True, tag=True):
    """Accounts that have a limit or were used, in order of their names.

    ``team``: only those of that team; empty: all, and those that teams share.
    """

    at_us: int
    team: str = ""
    page: Page = Page()

    def look(self, engine: Engine) -> Answer:
        fleet = engine.fleet
        names = {*fleet.accounts.by_name, *fleet.plan.accounts, *fleet.changes.accounts, *fleet.stopped}
        if self.team:
            names = {name for name in names if team_of(name) == self.team} | {f"team/{self.team}"}
        return Answer([account_view(engine, name, self.at_us) for name in self.page.of(names)])


class ListRates(msgspec.Struct, frozen=True, tag=True):
    """Rates that limit something, in order of their names."""

    def look(self, engine: Engine) -> Answer:
        names = {*engine.fleet.plan.rates, *engine.fleet.changes.rates}
        return Answer([rate_view(engine, name) for name in sorted(names)])


class GetRate(msgspec.Struct, frozen=True, tag=True):
    name: str

    def look(self, engine: Engine) -> Answer:
        return Answer(rate_view(engine, self.name))


class ListPools(msgspec.Struct, frozen=True, tag=True):
    """Pools that have workers, steps or limits, and those that are named. ``at_us``: as in ``GetAccount``.

    ``team``: of other teams only the number of their steps is told, under the name ``others``; empty: all.
    """

    at_us: int
    names: tuple[str, ...] = ()
    team: str = ""

    def look(self, engine: Engine) -> Answer:
        fleet = engine.fleet
        names = {*self.names} or {worker.pool for worker in fleet.workers.values()} | {*fleet.queues}
        return Answer([self._view(engine, name) for name in sorted(names)])

    def _view(self, engine: Engine, name: str) -> PoolView:
        workers = [worker for worker in engine.fleet.workers.values() if worker.pool == name]
        queue = engine.fleet.queues.get(name)
        return PoolView(
            name,
            len(workers),
            sum(worker.slots for worker in workers),
            sum(len(worker.leases) for worker in workers),
            tuple(self._ready(queue.lengths())) if queue is not None else (),
            self._awaiting(queue.awaiting()) if queue is not None else {},
            rate_view(engine, f"pool/{name}"),
            None if self.team else account_view(engine, f"pool/{name}", self.at_us),
        )

    def _ready(self, lengths: dict[tuple[str, str], int]) -> Iterator[tuple[str, str, int]]:
        told: dict[tuple[str, str], int] = {}
        for (priority, team), count in lengths.items():
            name = team if self.team in ("", team) else "others"
            told[priority, name] = told.get((priority, name), 0) + count
        yield from ((priority, team, count) for (priority, team), count in told.items())

    def _awaiting(self, awaited: dict[str, int]) -> dict[str, int]:
        told: dict[str, int] = {}
        for resource, count in awaited.items():
            owner = team_of(resource.removeprefix("stopped/"))
            name = resource if self.team in ("", owner) or owner == "" else "others"
            told[name] = told.get(name, 0) + count
        return told


class ListParallelRuns(msgspec.Struct, frozen=True, tag=True):
    """Limits of parallel runs, and who has runs under way or waiting, in order of names; or those named."""

    team: str = ""
    page: Page = Page()
    names: tuple[str, ...] = ()

    def look(self, engine: Engine) -> Answer:
        under_way, waiting = engine.entrance.under_way(), engine.entrance.waiting()
        plan, changes = engine.fleet.plan, engine.fleet.changes
        names = {*self.names} or {*plan.runs, *changes.runs, *under_way, *waiting}
        if self.team and not self.names:
            names = {name for name in names if team_of(name) == self.team} | {f"team/{self.team}"}
        found = [
            RunsView(
                name,
                engine.force.runs(name),
                under_way.get(name, 0),
                waiting.get(name, {}),
                engine.force.changed("runs", name),
            )
            for name in self.page.of(names)
        ]
        return Answer(found)


class Foreseen(msgspec.Struct, frozen=True):
    """What an estimate needs to know of the present."""

    accounts: list[AccountView]
    """Those that have a limit, or are stopped."""
    experience: dict[str, Experience]
    """What calls of models and tools cost compared with their bounds."""


class Foresee(msgspec.Struct, frozen=True, tag=True):
    """The accounts that would pay for a run, and what its models and tools have cost so far."""

    at_us: int
    team: str
    agent: str
    workflow: str
    pools: tuple[str, ...]
    subjects: tuple[str, ...]
    """``model/…`` and ``tool/…``."""

    def look(self, engine: Engine) -> Answer:
        team = self.team
        own = (f"team/{team}", f"agent/{team}/{self.agent}", f"workflow/{team}/{self.workflow}")
        names = (*own, *(f"pool/{pool}" for pool in self.pools), *self.subjects)
        views = [account_view(engine, name, self.at_us) for name in names]
        known = engine.fleet.accounts.experiences
        found = {name: known[name] for name in self.subjects if name in known}
        return Answer(Foreseen([view for view in views if view.limits or view.stopped_by], found))


class GetMaintenance(msgspec.Struct, frozen=True, tag=True):
    """Who has set it up to admit nothing new; empty: nobody."""

    def look(self, engine: Engine) -> Answer:
        return Answer(engine.fleet.maintenance)


class GetPlan(msgspec.Struct, frozen=True, tag=True):
    def look(self, engine: Engine) -> Answer:
        fleet = engine.fleet
        view = PlanView(
            encode_plan(fleet.plan),
            fleet.plan_digest,
            fleet.plan_change,
            fleet.changes,
            fleet.stopped,
            fleet.maintenance,
        )
        return Answer(view)


def team_of(name: str) -> str:
    """The team that an account belongs to; empty of pools, models, tools and patterns over teams."""
    kind, _, rest = name.partition("/")
    if kind not in ("team", "agent", "workflow") or rest == "*":
        return ""
    return rest.partition("/")[0]


def account_view(engine: Engine, name: str, at_us: int) -> AccountView:
    accounts = engine.fleet.accounts
    at_us = max(at_us, accounts.wall_us)
    account = accounts.by_name.get(name)
    begin_us, until_us = window(name, at_us)
    is_present = account is not None and at_us < account.until_us
    limits = engine.force.account(name)
    return AccountView(
        name,
        None if limits is not None and limits.nanousd < 0 and limits.tokens < 0 else limits,
        account.present if account is not None and is_present else _NOTHING,
        begin_us,
        until_us,
        account is not None and is_present and account.warned,
        engine.force.changed("accounts", name),
        engine.fleet.stopped.get(name, ""),
    )


def rate_view(engine: Engine, name: str) -> RateView:
    return RateView(name, engine.force.rate(name), engine.force.changed("rates", name))


QUERIES = (
    GetAccount,
    ListAccounts,
    ListRates,
    GetRate,
    ListPools,
    ListParallelRuns,
    Foresee,
    GetMaintenance,
    GetPlan,
)
BudgetQuery = (
    GetAccount
    | ListAccounts
    | ListRates
    | GetRate
    | ListPools
    | ListParallelRuns
    | Foresee
    | GetMaintenance
    | GetPlan
)
