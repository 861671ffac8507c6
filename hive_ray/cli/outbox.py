"""The command that shows who was told what, and who was not."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, Url, app, client_of, show_lines

State = Annotated[str, typer.Option(help="Only these: pending, delivered or failed.")]
RunOf = Annotated[str, typer.Option("--run", help="Only those about this run.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")]


@app.command()
def outbox(
    state: State = "",
    run: RunOf = "",
    limit: Limit = 100,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Notifications: what is to be sent, and what came of the newest that were."""
    with client_of(url, config) as client:
        found = list(islice(client.outbox(state=state, run_id=run, limit=min(limit, 1000)), limit))
    show_lines(found, as_json, map(_line, found))


def _line(one: dict[str, Any]) -> str:
    about = one["run_id"] or one["team"] or ""
    told = (
        f"{one['queued_at']}  {one['state']:<9}  {one['type']:<18}  to {one['hook'] or 'callback'}  {about}"
    )
    tries = f"  {one['attempts']} attempt{'s' if one['attempts'] != 1 else ''}" if one["attempts"] else ""
    again = f", next {one['next_attempt_at']}" if one["next_attempt_at"] else ""
    error = f": {one['error']}" if one["error"] else ""
    return f"{told}{tries}{again}{error}".rstrip()
