"""What people decide about the installation as a whole: plans, limits, stops, maintenance."""

from __future__ import annotations

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.accounts import WINDOWS
from hive_ray.core.breakers import FORCES, Mode
from hive_ray.core.commands import (
    AllowSpending,
    ApplyPlan,
    ChangeBudget,
    ChangeRate,
    ChangeRunsLimit,
    ForceBreaker,
    Maintain,
    Refused,
    StopSpending,
)
from hive_ray.core.events import Draft, draft
from hive_ray.core.fleet import Fleet
from hive_ray.core.plan import decode_plan

Steering = (
    ApplyPlan
    | ChangeBudget
    | ChangeRate
    | ChangeRunsLimit
    | ForceBreaker
    | StopSpending
    | AllowSpending
    | Maintain
)
MOST = 2**62
"""No limit is larger: sums stay within 64 bits."""


def steer(fleet: Fleet, command: Steering) -> list[Draft] | Refused:
    """What changes; nothing if it is so already."""
    match command:
        case ApplyPlan():
            return _apply(fleet, command)
        case ChangeBudget():
            return _change_budget(fleet, command)
        case ChangeRate():
            return _change_rate(fleet, command)
        case ChangeRunsLimit():
            return _change_runs(fleet, command)
        case ForceBreaker():
            return _force_breaker(fleet, command)
        case StopSpending() | AllowSpending():
            return _stop(fleet, command)
        case Maintain():
            return _maintain(fleet, command)


def _apply(fleet: Fleet, command: ApplyPlan) -> list[Draft] | Refused:
    if fleet.plan_digest == command.digest:
        return []
    try:
        decode_plan(command.plan)
    except msgspec.MsgspecError as error:
        return Refused("invalid", f"the plan cannot be read: {error}")
    event = ev.PlanApplied("", command.digest, command.principal)
    return [draft(event, ev.StepContent(state=command.plan))]


def _change_budget(fleet: Fleet, command: ChangeBudget) -> list[Draft] | Refused:
    problem = _problem(command.account, tuple(WINDOWS), "budget")
    plan = command.plan
    if plan is not None and not (-1 <= plan.nanousd <= MOST and -1 <= plan.tokens <= MOST):
        problem = problem or "a limit: 0 or more would be right, within 64 bits"
    if problem:
        return Refused("invalid", problem)
    if fleet.changes.accounts.get(command.account) == plan:
        return []
    return [draft(ev.BudgetChanged("", command.account, plan, command.principal), command.content)]


def _change_rate(fleet: Fleet, command: ChangeRate) -> list[Draft] | Refused:
    problem = _problem(command.name, ("pool", "model", "tool"), "rate")
    plan = command.plan
    if plan is not None and min(plan.requests_per_minute, plan.tokens_per_minute) < 0:
        problem = problem or "a rate: 0 or more in a minute would be right"
    if problem:
        return Refused("invalid", problem)
    if fleet.changes.rates.get(command.name) == plan:
        return []
    return [draft(ev.RateChanged("", command.name, plan, command.principal), command.content)]


def _change_runs(fleet: Fleet, command: ChangeRunsLimit) -> list[Draft] | Refused:
    problem = _problem(command.name, ("team", "agent"), "limit of runs")
    if problem or command.runs < -1:
        return Refused("invalid", problem or "the number of runs: 0 or more would be right")
    if fleet.changes.runs.get(command.name, -1) == command.runs:
        return []
    event = ev.RunsLimitChanged("", command.name, command.runs, command.principal)
    return [draft(event, command.content)]


def _force_breaker(fleet: Fleet, command: ForceBreaker) -> list[Draft] | Refused:
    problem = _problem(command.name, ("model", "tool"), "breaker")
    if command.mode not in FORCES:
        problem = problem or f"a breaker cannot be forced {command.mode!r}: write {', '.join(FORCES)}"
    if problem or command.name.endswith("*"):
        return Refused("invalid", problem or f"{command.name}: name one model or tool")
    known = fleet.breakers.get(command.name)
    is_so = known is None if command.mode == Mode.AUTO else known is not None and known.forced
    if is_so and (known is None or known.mode == command.mode):
        return []
    return [draft(ev.BreakerForced("", command.name, command.mode, command.principal), command.content)]


def _stop(fleet: Fleet, command: StopSpending | AllowSpending) -> list[Draft] | Refused:
    problem = _problem(command.scope, tuple(WINDOWS), "account")
    if problem or command.scope.endswith("*"):
        return Refused("invalid", problem or f"{command.scope}: name one account")
    if isinstance(command, AllowSpending):
        known = command.scope in fleet.stopped
        return [Draft(ev.SpendingAllowed("", command.scope, command.principal))] if known else []
    if command.scope in fleet.stopped:
        return []
    return [draft(ev.SpendingStopped("", command.scope, command.principal), command.content)]


def _maintain(fleet: Fleet, command: Maintain) -> list[Draft] | Refused:
    if command.on == bool(fleet.maintenance):
        return []
    if not command.on:
        return [Draft(ev.MaintenanceEnded("", command.principal))]
    return [draft(ev.MaintenanceBegan("", command.principal), command.content)]


def _problem(name: str, kinds: tuple[str, ...], what: str) -> str:
    """What is wrong with the name of an account."""
    kind, _, rest = name.partition("/")
    parts = rest.split("/")
    two = kind in ("agent", "workflow") and rest != "*"
    if kind not in kinds or len(parts) != (2 if two else 1) or not all(parts):
        forms = ", ".join(
            f"{one}/TEAM/NAME" if one in ("agent", "workflow") else f"{one}/NAME" for one in kinds
        )
        return f"no {what} is called {name!r}: write {forms}"
    return ""
