"""Notifications over HTTP: what is pending, and what came of the newest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from hive_ray.control.outbox_views import ListOutbox, NotificationView
from serve import shapes
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1/outbox", tags=["operation"])


@router.get("", summary="Notifications, newest first")
async def list_outbox(
    request: Request,
    state: Literal["", "pending", "delivered", "failed"] = "",
    run_id: str = "",
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """All that are pending, and the newest of those that are over; the journal has every one.

    ``next_before`` of one page is ``before`` of the next; it is null on the last.
    """
    query = ListOutbox("", state, run_id, before, limit)
    found: list[NotificationView] = await backend_of(request).read(query, list[NotificationView])
    following = found[-1].id if len(found) == limit else None
    return answer({"notifications": [_told(one) for one in found], "next_before": following})


def _told(view: NotificationView) -> dict[str, Any]:
    return {
        "id": view.id,
        "type": view.kind,
        "hook": view.hook or None,
        "run_id": view.run_id or None,
        "team": view.team or None,
        "state": view.state,
        "attempts": view.attempts,
        "error": view.error or None,
        "queued_at": shapes.iso(view.queued_us),
        "next_attempt_at": shapes.iso(view.due_us),
        "ended_at": shapes.iso(view.ended_us),
    }
