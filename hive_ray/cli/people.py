"""Commands for what waits for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hive_ray.cli.common import (
    ApprovalId,
    Config,
    Json,
    Url,
    app,
    client_of,
    read_input,
    show_json,
    show_status,
)

Answer = Annotated[str, typer.Option(help="What the form asks for, as JSON.")]
Comment = Annotated[str, typer.Option(help="Why.")]


@app.command()
def approvals(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """What waits for a person."""
    from hive_ray.progress import needs

    with client_of(url, config) as client:
        waits = client.approvals()
    if as_json:
        show_json(waits)
        return
    for wait in waits:
        for text in needs({"paused": False, "waits": [wait]}):
            print(text)


@app.command()
def approve(
    approval_id: ApprovalId,
    answer: Answer = "{}",
    comment: Comment = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Approve."""
    _decide(approval_id, "approve", answer, comment, url, config, as_json)


@app.command()
def reject(
    approval_id: ApprovalId,
    comment: Comment = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Reject."""
    _decide(approval_id, "reject", "{}", comment, url, config, as_json)


@app.command()
def resolve(
    approval_id: ApprovalId,
    decision: Annotated[str, typer.Argument(help="happened, did_not_happen, abort, edit, retry, …")],
    answer: Answer = "{}",
    comment: Comment = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what happened, or answer with any decision that an approval takes."""
    _decide(approval_id, decision, answer, comment, url, config, as_json)


def _decide(
    approval_id: str, decision: str, answer: str, comment: str, url: str, config: Path | None, as_json: bool
) -> None:
    values = read_input(answer)
    with client_of(url, config) as client:
        show_status(client.resolve(approval_id, decision, values, comment)["run"], as_json)
