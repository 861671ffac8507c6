"""``hive-ray audit``: who did what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from hive_ray.cli.api_keys import seconds_of
from hive_ray.cli.common import Config, Json, Url, app, client_of, show_lines

PAGE = 1000

Principal = Annotated[str, typer.Option(help="Only acts of this one: key:NAME, user:SUB, operator.")]
Kind = Annotated[str, typer.Option(help="Only events of this kind: ApprovalResolved, RunCancelled, …")]
Since = Annotated[str, typer.Option(help="From then on: a time (2026-01-31T12:00Z), or how long ago: 24h.")]
Until = Annotated[str, typer.Option(help="Before then, written as --since.")]
Limit = Annotated[int, typer.Option(min=1, help="Newest so many.")]


@app.command()
def audit(  # noqa: PLR0913 - each parameter is an option of the command
    principal: Principal = "",
    kind: Kind = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 100,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Who did what, newest first: every change that somebody asked for, with their name."""
    filters = {"principal": principal, "kind": kind}
    filters |= {"since": _at(since, "--since"), "until": _at(until, "--until")}
    found: list[dict[str, Any]] = []
    before: int | None = 0
    with client_of(url, config) as client:
        while before is not None and len(found) < limit:
            params = filters | {"before_seq": before, "limit": min(PAGE, limit - len(found))}
            page = client.get("/v1/audit", params=params)
            found += page["acts"]
            before = page["next_before_seq"]
    show_lines(found, as_json, map(_line, found))


def _at(text: str, option: str) -> str:
    """A moment as HTTP wants it."""
    if not text:
        return ""
    if text[:4].isdigit() and "-" in text:
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise typer.BadParameter(f"{option} {text}: give a time such as 2026-01-31T12:00Z") from error
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
    return datetime.fromtimestamp(time.time() - seconds_of(text, option), UTC).isoformat()


def _line(act: Mapping[str, Any]) -> str:
    about = act["run_id"] or ""
    facts = " ".join(f"{key}={_short(value)}" for key, value in act["facts"].items())
    why = f" ({act['reason']})" if act["reason"] else ""
    return f"{act['time']}  {act['principal']:<20} {act['kind']}{why} {about} {facts}".rstrip()


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
