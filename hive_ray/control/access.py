"""Which scope each command and question needs, and whose things exist for whom.

The one table of the controller's door; what is not in it needs ``admin``. A route of the HTTP face may make
several requests, so a request takes any of the scopes that stand with it; what a caller may do by HTTP is in
``serve.access``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.control import budget_views as b
from hive_ray.control import outbox_views as o
from hive_ray.control import queries as q
from hive_ray.control.breaker_views import GetBreaker, ListBreakers
from hive_ray.control.ladder_views import GetLadder, ListLadders
from hive_ray.core import commands as c
from hive_ray.core.commands import Refused
from hive_ray.core.engine import Engine
from hive_ray.core.principals import DEFAULT_TEAM, EVERY_TEAM, Principal, Scope

SUBMIT, READ, APPROVE, OPERATE, ADMIN = Scope
ANY = tuple(Scope)

NEEDS: dict[type[Any], tuple[Scope, ...]] = {
    c.Submit: (SUBMIT,),
    c.Fork: (SUBMIT, OPERATE),
    c.Signal: (SUBMIT,),
    c.Complete: (SUBMIT,),
    c.Resolve: (APPROVE,),
    c.Cancel: (OPERATE,),
    c.Pause: (OPERATE,),
    c.Resume: (OPERATE,),
    c.Forget: (OPERATE,),
    c.Register: (OPERATE,),
    c.PutMemory: (OPERATE,),
    c.DeleteMemory: (OPERATE,),
    c.CorrectCost: (ADMIN,),
    c.RaiseLevel: (ADMIN,),
    c.ApplyPlan: (ADMIN,),
    c.ChangeBudget: (ADMIN,),
    c.ChangeRate: (ADMIN,),
    c.ChangeRunsLimit: (ADMIN,),
    # Whoever operates a team may stop what it spends; to let it go on is an admin's.
    c.StopSpending: (OPERATE,),
    c.AllowSpending: (ADMIN,),
    c.Maintain: (ADMIN,),
    c.ForceBreaker: (ADMIN,),
    c.CreateKey: (ADMIN,),
    c.RollKey: (ADMIN,),
    c.RevokeKey: (ADMIN,),
    # Whoever steers a run or answers for it must find it.
    q.GetRun: ANY,
    q.WatchRun: (READ,),
    q.GetState: (READ,),
    q.ListRuns: (READ, OPERATE),
    q.ListApprovals: (READ, APPROVE),
    q.GetAgent: ANY,
    q.ListAgents: (READ, SUBMIT, OPERATE),
    q.ListWorkers: ANY,
    q.ListPolicies: ANY,
    q.GetMemory: (READ,),
    q.ListMemory: (READ,),
    q.ListKeys: (ADMIN,),
    b.GetAccount: (READ, OPERATE),
    b.ListAccounts: (READ, OPERATE),
    b.ListRates: (READ, OPERATE),
    b.GetRate: (READ, OPERATE),
    b.ListPools: (READ, OPERATE),
    b.ListParallelRuns: (READ, OPERATE),
    b.Foresee: (SUBMIT, READ),
    b.GetMaintenance: ANY,
    GetBreaker: (READ, OPERATE),
    ListBreakers: (READ, OPERATE),
    GetLadder: (READ, OPERATE),
    ListLadders: (READ, OPERATE),
    b.GetPlan: (ADMIN,),
    o.ListOutbox: (READ, OPERATE),
    q.WhoAmI: (),
}
"""No scope: any caller who is known. Changing what was charged is for admins: it could pass a budget by."""

_LISTS = (q.ListRuns, q.ListApprovals, q.ListPolicies)
"""What an admin may ask about all teams at once."""
_OF_ALL = (b.ListAccounts, b.ListPools, b.ListParallelRuns, o.ListOutbox)
"""What shows an admin all teams, and anybody else its own."""
_OF_ANOTHER = (c.CreateKey, c.Fork)
"""What an admin may do for a team that it names: a fork stays its parent's team's."""
_OWNED = (c.PutMemory, c.DeleteMemory, q.GetMemory, q.ListMemory)


def scopes_refused(principal: Principal, request: Any) -> Refused | None:
    """The refusal of a request for want of a scope."""
    needed = NEEDS.get(type(request), (ADMIN,))
    if not needed or principal.may(needed):
        return None
    return missing(principal, needed, type(request).__name__)


def missing(principal: Principal, needed: tuple[Scope, ...], what: str) -> Refused:
    """Name what a caller lacks."""
    names = " or ".join(scope for scope in needed if scope is not ADMIN or len(needed) == 1)
    has = ", ".join(principal.scopes) or "none"
    return Refused("forbidden", f"{what} needs scope {names}; {principal.name} has {has}")


def owned(principal: Principal, request: Any) -> Any:
    """The request as its caller may make it: in the name of the principal, for its team and no other.

    Returns:
        ``Refused`` if it is for all teams and cannot be.
    """
    fields = type(request).__struct_fields__
    changes: dict[str, Any] = {}
    if isinstance(request, _OF_ALL):
        return msgspec.structs.replace(request, team="" if principal.is_admin else principal.team)
    if "team" in fields and not (principal.is_admin and isinstance(request, _OF_ANOTHER) and request.team):
        changes["team"] = principal.team
    if principal.team == EVERY_TEAM:
        if isinstance(request, _LISTS):
            changes["team"] = ""
        elif "team" in changes or _is_shared(request):
            return Refused("invalid", "this is about one team: name it instead of *")
    if "principal" in fields:
        changes["principal"] = principal.name
    if isinstance(request, c.Resolve):
        changes |= {"roles": principal.roles, "as_admin": principal.is_admin}
    return msgspec.structs.replace(request, **changes) if changes else request


def _is_shared(request: Any) -> bool:
    return isinstance(request, _OWNED) and request.scope != "run"


def hidden(principal: Principal, request: Any, engine: Engine) -> Refused | None:
    """Whatever belongs to another team does not exist; looked at when the runs it is about are in memory."""
    if principal.is_admin:
        return None
    for run in _runs(request):
        team = _team_of(engine, run)
        if team is not None and team != principal.team:
            return Refused("not_found", f"no run {run}")
    account = _account(request)
    if account and b.team_of(account) != principal.team:
        return Refused("not_found", f"no account {account} of team {principal.team}")
    if _is_shared(request) and not _owns(principal, request.scope, request.owner):
        return Refused("not_found", f"no {request.scope} {request.owner.rpartition('/')[2]}")
    return None


def _account(request: Any) -> str:
    """The account that a request names, if others than admins may name one."""
    match request:
        case b.GetAccount():
            return request.name
        case c.StopSpending():
            return request.scope
        case _:
            return ""


def _runs(request: Any) -> list[str]:
    """The runs that a request names; a list that is narrowed to one is its team's anyway."""
    named = [] if isinstance(request, _LISTS) else [getattr(request, "run", "")]
    if isinstance(request, c.Fork):
        named.append(request.origin.run)
    if isinstance(request, _OWNED) and request.scope == "run":
        named.append(request.owner)
    return [run for run in named if run]


def _team_of(engine: Engine, run_id: str) -> str | None:
    run = engine.runs.get(run_id) or engine.parked.get(run_id)
    return run.team if run is not None else None


def _owns(principal: Principal, scope: str, owner: str) -> bool:
    return owner == principal.team if scope == "team" else owner.partition("/")[0] == principal.team


__all__ = ["ANY", "DEFAULT_TEAM", "NEEDS", "hidden", "missing", "owned", "scopes_refused"]
