"""What a run can cost, and who could pay for it, before anything of it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from hive_ray.config import Settings
from hive_ray.control.budget_views import AccountView, Foresee, Foreseen
from hive_ray.control.estimating import Amount, Cost, Estimate, Known, NodeCost, charged_to, estimate, total
from hive_ray.core.plan import AccountPlan, Action
from hive_ray.graph.compiled import CompiledGraph
from serve import shapes
from serve.backend import check_size
from serve.bodies import Submission
from serve.caller import team
from serve.routes_runs import NANO, answer, backend_of, graph_of

router = APIRouter(prefix="/v1/estimate", tags=["budgets"])

_PLENTY = 1 << 62


@router.post("", summary="Worst case and expected cost of a run, and which accounts could carry it")
async def post_estimate(request: Request, body: Submission) -> Response:
    """Takes what a submission takes; nothing runs. ``worst_usd`` is null where something has no bound, which
    ``unbounded`` names; ``bounded_usd`` sums the rest."""
    backend = backend_of(request)
    check_size(body.input, backend.settings.limits.max_input_bytes, "body.input")
    graph = await graph_of(backend, body)
    agent = body.agent or graph.id
    workflow = graph.name or graph.id
    first = estimate(graph, body.input, Known({}, _contexts(backend.settings)))
    pools = tuple(sorted({pool for pool, _ in first.cost.worst if pool}))
    subjects = tuple(sorted({subject for _, subject in first.cost.worst if subject}))
    query = Foresee(_now_us(), team(), agent, workflow, pools, subjects)
    seen: Foreseen = await backend.read(query, Foreseen)
    found = estimate(graph, body.input, Known(seen.experience, _contexts(backend.settings)))
    budget = graph.budget_nanousd if body.budget_usd is None else int(body.budget_usd * NANO)
    accounts = [*_own(budget, found.cost), *_accounts(found.cost, seen, (team(), agent, workflow))]
    return answer(_told(graph, found) | {"accounts": accounts})


def offline(
    settings: Settings, graph: CompiledGraph, given: Mapping[str, Any], budget_nanousd: int | None
) -> dict[str, Any]:
    """What can be said without a controller: no experience, and of accounts the run's own."""
    found = estimate(graph, given, Known({}, _contexts(settings)))
    budget = graph.budget_nanousd if budget_nanousd is None else budget_nanousd
    return _told(graph, found) | {"accounts": list(_own(budget, found.cost))}


def _contexts(settings: Settings) -> dict[str, int]:
    models = settings.models.items()
    return {name: model.context_tokens for name, model in models if model.context_tokens is not None}


def _told(graph: CompiledGraph, found: Estimate) -> dict[str, Any]:
    nodes = [_node(one) for one in found.nodes]
    head = {"graph": graph.name or graph.id, "graph_version": graph.version}
    return head | _cost(found.cost) | {"nodes": nodes}


def _node(one: NodeCost) -> dict[str, Any]:
    return {"node": one.node, "kind": one.kind, "visits": one.visits, **_cost(one.of_visit)}


def _cost(cost: Cost) -> dict[str, Any]:
    worst, expected = total(cost.worst), total(cost.expected)
    bounded = not cost.unbounded
    return {
        "worst_usd": shapes.usd(worst.nanousd) if bounded else None,
        "worst_tokens": worst.tokens if bounded else None,
        "bounded_usd": shapes.usd(worst.nanousd),
        "bounded_tokens": worst.tokens,
        "expected_usd": shapes.usd(expected.nanousd),
        "expected_tokens": expected.tokens,
        "unbounded": list(cost.unbounded),
    }


def _own(budget_nanousd: int, cost: Cost) -> Iterator[dict[str, Any]]:
    """The run's own budget, if it has one."""
    if budget_nanousd >= 0:
        worst, expected = total(cost.worst), total(cost.expected)
        room = Amount(budget_nanousd, _PLENTY)
        yield {
            "scope": "run",
            "limit_usd": shapes.usd(budget_nanousd),
            "limit_tokens": None,
            "at_limit": Action.STOP,
            **_carried(room, worst, expected, not cost.unbounded),
        }


def _accounts(cost: Cost, seen: Foreseen, who: tuple[str, str, str]) -> Iterator[dict[str, Any]]:
    """Each account above the run that has a limit or is stopped."""
    expected = dict(charged_to(cost.expected, *who))
    views = {view.name: view for view in seen.accounts}
    for name, worst in charged_to(cost.worst, *who):
        view = views.get(name)
        if view is not None and (view.limits is not None or view.stopped_by):
            limits = view.limits or AccountPlan()
            yield {
                "scope": name,
                "limit_usd": shapes.usd(limits.nanousd) if limits.nanousd >= 0 else None,
                "limit_tokens": limits.tokens if limits.tokens >= 0 else None,
                "at_limit": limits.action,
                **_carried(_room(view, limits), worst, expected.get(name, Amount()), not cost.unbounded),
            }


def _room(view: AccountView, limits: AccountPlan) -> Amount:
    """What another run may take now."""
    if view.stopped_by:
        return Amount(-1, -1)
    if limits.action == Action.DEGRADE:
        return Amount(_PLENTY, _PLENTY)
    ledger = view.ledger
    strict = limits.action == Action.STOP
    held = Amount(
        ledger.held_nanousd if strict else ledger.likely_nanousd,
        ledger.held_tokens if strict else ledger.likely_tokens,
    )
    return Amount(
        limits.nanousd - max(0, ledger.spent_nanousd) - held.nanousd if limits.nanousd >= 0 else _PLENTY,
        limits.tokens - max(0, ledger.spent_tokens) - held.tokens if limits.tokens >= 0 else _PLENTY,
    )


def _carried(room: Amount, worst: Amount, expected: Amount, bounded: bool) -> Mapping[str, Any]:
    return {
        "worst_usd": shapes.usd(worst.nanousd) if bounded else None,
        "expected_usd": shapes.usd(expected.nanousd),
        "carries_worst": bounded and _fits(worst, room),
        "carries_expected": _fits(expected, room),
    }


def _fits(wanted: Amount, room: Amount) -> bool:
    return wanted.nanousd <= room.nanousd and wanted.tokens <= room.tokens


def _now_us() -> int:
    return time.time_ns() // 1000
