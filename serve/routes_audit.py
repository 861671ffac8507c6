"""The audit over HTTP: who did what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from hive_ray.core.principals import EVERY_TEAM
from hive_ray.observe.redaction import redact
from hive_ray.state.auditing import Act, Asked, acts
from serve import shapes
from serve.caller import current
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1", tags=["operation"])


@router.get("/audit", summary="Who did what, newest first")
async def audit(
    request: Request,
    principal: Annotated[str, Query(max_length=300)] = "",
    kind: Annotated[str, Query(max_length=64)] = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before_seq: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The events of the caller's team that carry a principal; an admin who names no team sees all of them.

    ``next_before_seq`` of one page is ``before_seq`` of the next; it is null on the last.
    """
    asked = Asked(_team(request), principal, kind, _us(since), _us(until), before_seq, limit)
    found = await asyncio.to_thread(acts, backend_of(request).store, asked)
    following = found[-1].seq if len(found) == limit else None
    return answer({"acts": [_told(act) for act in found], "next_before_seq": following})


def _team(request: Request) -> str:
    """What belongs to no team (limits, the state, keys of others) is for admins."""
    principal = current().principal
    named = request.headers.get("hive-team", "")
    if principal.is_admin and named in ("", EVERY_TEAM):
        return ""
    return principal.team


def _us(at: datetime | None) -> int:
    """Microseconds since the epoch; a time without a zone is UTC."""
    if at is None:
        return 0
    return max(0, round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000))


def _told(act: Act) -> dict[str, Any]:
    return {
        "seq": act.seq,
        "time": shapes.iso(act.time_us),
        "principal": act.principal,
        "kind": act.kind,
        "team": act.team or None,
        "run_id": act.run_id or None,
        "agent": act.agent,
        "node": act.node,
        "reason": act.reason,
        "request_id": act.request_id,
        "facts": redact(act.facts),
    }
