"""Which scope each route needs: the one table of the HTTP face. A route that is not in it needs ``admin``.

Any of the scopes that stand with a route will do. The controller looks again, by command and by team
(``hive_ray.control.access``).
"""

from __future__ import annotations

from typing import Literal

from hive_ray.core.principals import Scope

Needs = tuple[Scope, ...] | Literal["open", "known", "lenient"]
"""``open``: nobody is asked who they are; ``known``: any valid credential; ``lenient``: as ``known``, but
while no controller can tell who somebody is they are let in without any scope."""

SUBMIT, READ, APPROVE, OPERATE, ADMIN = ((scope,) for scope in Scope)

ROUTES: dict[tuple[str, str], Needs] = {
    # Runs.
    ("POST", "/v1/runs"): SUBMIT,
    ("POST", "/v1/runs:batch"): SUBMIT,
    ("GET", "/v1/runs"): READ,
    ("GET", "/v1/runs/{run_id}"): READ,
    ("GET", "/v1/runs/{run_id}/result"): READ,
    ("GET", "/v1/runs/{run_id}/events"): READ,
    ("GET", "/v1/runs/{run_id}/replay"): READ,
    ("GET", "/v1/runs/{run_id}/artifacts"): READ,
    ("GET", "/v1/runs/{run_id}/artifacts/{name}"): READ,
    ("POST", "/v1/runs/{run_id}/signal"): SUBMIT,
    ("POST", "/v1/runs/{run_id}/complete"): SUBMIT,
    ("POST", "/v1/runs/{run_id}/fork"): SUBMIT,
    ("POST", "/v1/runs/{run_id}/cancel"): OPERATE,
    ("POST", "/v1/runs/{run_id}/pause"): OPERATE,
    ("POST", "/v1/runs/{run_id}/resume"): OPERATE,
    ("POST", "/v1/runs/{run_id}/forget"): OPERATE,
    ("POST", "/v1/runs:cancel"): OPERATE,
    ("POST", "/v1/runs:resume"): OPERATE,
    ("POST", "/v1/runs/{run_id}/corrections"): ADMIN,
    # People.
    ("GET", "/v1/approvals"): (Scope.READ, Scope.APPROVE),
    ("POST", "/v1/approvals/{approval_id}"): APPROVE,
    ("GET", "/v1/outbox"): (Scope.READ, Scope.OPERATE),
    # Agents and graphs.
    ("GET", "/v1/agents"): (Scope.READ, Scope.SUBMIT, Scope.OPERATE),
    ("GET", "/v1/agents/{name}"): (Scope.READ, Scope.SUBMIT, Scope.OPERATE),
    ("PUT", "/v1/agents/{name}"): OPERATE,
    ("POST", "/v1/lint"): (Scope.READ, Scope.SUBMIT, Scope.OPERATE),
    # Long-term memory.
    ("GET", "/v1/memory/{scope}/{owner}"): READ,
    ("GET", "/v1/memory/{scope}/{owner}/{key:path}"): READ,
    ("PUT", "/v1/memory/{scope}/{owner}/{key:path}"): OPERATE,
    ("DELETE", "/v1/memory/{scope}/{owner}/{key:path}"): OPERATE,
    # Keys, and what was done with them.
    ("GET", "/v1/whoami"): "known",
    ("GET", "/v1/keys"): ADMIN,
    ("POST", "/v1/keys"): ADMIN,
    ("POST", "/v1/keys/{key_id}/roll"): ADMIN,
    ("DELETE", "/v1/keys/{key_id}"): ADMIN,
    # Budgets and limits. Raising them, and letting go on what was stopped, is for admins.
    ("GET", "/v1/budgets"): (Scope.READ, Scope.OPERATE),
    ("GET", "/v1/budgets/{scope:path}"): (Scope.READ, Scope.OPERATE),
    ("PUT", "/v1/budgets/{scope:path}"): ADMIN,
    ("DELETE", "/v1/budgets/{scope:path}"): ADMIN,
    ("POST", "/v1/budgets/{scope:path}/stop"): OPERATE,
    ("POST", "/v1/budgets/{scope:path}/allow"): ADMIN,
    ("GET", "/v1/pools"): (Scope.READ, Scope.OPERATE),
    ("GET", "/v1/pools/{name}"): (Scope.READ, Scope.OPERATE),
    ("PUT", "/v1/pools/{name}"): ADMIN,
    ("DELETE", "/v1/pools/{name}"): ADMIN,
    ("GET", "/v1/rates"): (Scope.READ, Scope.OPERATE),
    ("GET", "/v1/rates/{name:path}"): (Scope.READ, Scope.OPERATE),
    ("PUT", "/v1/rates/{name:path}"): ADMIN,
    ("DELETE", "/v1/rates/{name:path}"): ADMIN,
    ("GET", "/v1/limits"): (Scope.READ, Scope.OPERATE),
    ("PUT", "/v1/limits/{scope:path}"): ADMIN,
    ("DELETE", "/v1/limits/{scope:path}"): ADMIN,
    ("GET", "/v1/breakers"): (Scope.READ, Scope.OPERATE),
    ("GET", "/v1/breakers/{name:path}"): (Scope.READ, Scope.OPERATE),
    ("PUT", "/v1/breakers/{name:path}"): ADMIN,
    ("GET", "/v1/ladders"): (Scope.READ, Scope.OPERATE),
    ("GET", "/v1/ladders/{model}"): (Scope.READ, Scope.OPERATE),
    ("POST", "/v1/estimate"): (Scope.SUBMIT, Scope.READ),
    ("GET", "/v1/maintenance"): "known",
    ("POST", "/v1/maintenance"): ADMIN,
    ("DELETE", "/v1/maintenance"): ADMIN,
    ("GET", "/v1/config"): ADMIN,
    ("POST", "/v1/config"): ADMIN,
    ("GET", "/v1/audit"): OPERATE,
    # The installation.
    ("GET", "/v1/policies"): (Scope.READ, Scope.SUBMIT, Scope.APPROVE, Scope.OPERATE),
    ("GET", "/v1/state"): READ,
    ("POST", "/v1/state/upgrade"): ADMIN,
    ("GET", "/v1/status"): "lenient",
    ("GET", "/metrics"): "lenient",
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
}


def needs(method: str, path: str) -> Needs:
    """What a route needs."""
    return ROUTES.get((method, path), ADMIN)
