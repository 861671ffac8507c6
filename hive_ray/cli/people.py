"""Commands for what waits for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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


Edition = Annotated[int | None, typer.Option(help="Of the answer, if somebody edited it.")]
Owner = Annotated[str, typer.Option(help="A principal or role: only what is, or was, asked of it.")]


@app.command()
def approvals(owner: Owner = "", url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """What waits for a person: what is shown, whom it is asked of until when, and what follows."""
    from hive_ray.progress import needs

    with client_of(url, config) as client:
        waits = client.approvals(owner=owner)
    if as_json:
        show_json(waits)
        return
    for wait in waits:
        for text in needs({"paused": False, "waits": [wait]}):
            print(text)


@app.command()
def approve(  # noqa: PLR0913 - each parameter is an option of the command
    approval_id: ApprovalId,
    answer: Answer = "{}",
    comment: Comment = "",
    usd: Annotated[str | None, typer.Option(help="Of a budget: US dollars beyond the limit.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Of a budget: tokens beyond the limit.")] = None,
    edition: Edition = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Approve. Of a budget's question by default as much as the step needs."""
    allowance = _allowance(usd, tokens)
    given = json.dumps(read_input(answer) | allowance) if allowance else answer
    _decide(approval_id, "approve", given, comment, url, config, as_json, edition)


def _allowance(usd: str | None, tokens: int | None) -> dict[str, Any]:
    """What a budget's form asks for."""
    try:
        amount = {} if usd is None else {"usd": float(usd)}
    except ValueError as error:
        from hive_ray.errors import Fault, InputError

        fault = Fault("--usd", f"{usd!r} is no amount", "a decimal number such as 0.50")
        raise InputError("options", [fault]) from error
    return amount if tokens is None else {**amount, "tokens": tokens}


@app.command()
def edit(
    approval_id: ApprovalId,
    answer: Answer,
    comment: Comment = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Approve another answer; where four eyes are needed, somebody else must approve that."""
    _decide(approval_id, "edit", answer, comment, url, config, as_json)


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


def _decide(  # noqa: PLR0913 - each parameter is an option of the commands
    approval_id: str,
    decision: str,
    answer: str,
    comment: str,
    url: str,
    config: Path | None,
    as_json: bool,
    edition: int | None = None,
) -> None:
    values = read_input(answer)
    with client_of(url, config) as client:
        show_status(client.resolve(approval_id, decision, values, comment, edition)["run"], as_json)
