"""Commands that end runs or let them go on: one by its id, or all that fit a filter."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import (
    FAILED,
    Config,
    Json,
    Url,
    app,
    client_of,
    show_json,
    show_status,
)

if TYPE_CHECKING:
    from hive_ray.bulk import Verb
    from hive_ray.client import Client

Why = Annotated[str, typer.Option(help="Why.")]
OneRun = Annotated[str, typer.Argument(metavar="[RUN]", help="One run; or --all with filters.")]
All = Annotated[bool, typer.Option("--all", help="All runs that fit the filters.")]
Agent = Annotated[str, typer.Option(help="With --all: only runs of this agent.")]
Status = Annotated[str, typer.Option(help="With --all: only runs of this status, or of several: a,b.")]
Older = Annotated[str, typer.Option(help="With --all: only runs submitted so long ago: 90s, 30m, 2h, 7d.")]
Dead = Annotated[bool, typer.Option("--dead-lettered", help="With --all: only dead letters not resumed yet.")]
Budget = Annotated[str | None, typer.Option(help="Ceiling of a new run in US dollars.")]
Deadline = Annotated[float | None, typer.Option(help="Of a new run, seconds from now.")]
Callback = Annotated[
    str | None, typer.Option(help="Is told a new run's end; by default where RUN's is, empty for nowhere.")
]

_AGE = re.compile(r"^(\d+(?:\.\d+)?)([smhd]?)$")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command()
def cancel(  # noqa: PLR0913 - each parameter is an option of the command
    run_id: OneRun = "",
    reason: Why = "",
    every: All = False,
    agent: Agent = "",
    status: Status = "",
    older_than: Older = "",
    dead_lettered: Dead = False,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End a run, or with --all every live run that fits the filters."""
    selection = _selection(run_id, every, agent, status, older_than, dead_lettered)
    with client_of(url, config) as client:
        if selection is not None:
            _steer(client, "cancel", selection | {"reason": reason}, as_json)
        else:
            show_status(client.run(run_id).cancel(reason), as_json)


@app.command()
def resume(  # noqa: PLR0913 - each parameter is an option of the command
    run_id: OneRun = "",
    budget_usd: Budget = None,
    deadline_s: Deadline = None,
    callback_url: Callback = None,
    every: All = False,
    agent: Agent = "",
    status: Status = "",
    older_than: Older = "",
    dead_lettered: Dead = False,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let a paused run go on, or begin a new one in the place of one that failed or was cancelled."""
    selection = _selection(run_id, every, agent, status, older_than, dead_lettered)
    if selection is not None and (budget_usd, deadline_s, callback_url) != (None, None, None):
        raise typer.BadParameter("a budget, a deadline and a callback are for one run: leave out --all")
    with client_of(url, config) as client:
        if selection is not None:
            _steer(client, "resume", selection, as_json)
            return
        run = client.run(run_id)
        view = run.resume(budget_usd=budget_usd, deadline_s=deadline_s, callback_url=callback_url)
    show_status(view, as_json)
    if not as_json:
        for text in begins_again(view):
            print(text)


def begins_again(view: Mapping[str, Any]) -> Iterator[str]:
    """What a forked or resumed run does a second time."""
    came = view.get("forked_from")
    if not came:
        return
    what = "in the place of" if came["resumes"] else "forked from"
    yield f"  {what} run {came['run_id']} (event {came['seq']})"
    if came["begins_again"]:
        yield f"  begins again: {', '.join(came['begins_again'])}"
    if came["may_repeat"]:
        yield (
            f"  may happen a second time: {', '.join(came['may_repeat'])} (had started in run "
            f"{came['run_id']}, and is not declared idempotent)"
        )


def _selection(
    run_id: str, every: bool, agent: str, status: str, older_than: str, dead_lettered: bool
) -> dict[str, Any] | None:
    """The filters, or None for one run."""
    given = {
        "agent": agent,
        "status": status,
        "older_than_s": _age_s(older_than),
        "dead_lettered": dead_lettered,
    }
    filters = {key: value for key, value in given.items() if value}
    if every == bool(run_id):
        raise typer.BadParameter("give either RUN, or --all with filters")
    if filters and not every:
        raise typer.BadParameter(f"--{next(iter(filters)).removesuffix('_s').replace('_', '-')} needs --all")
    if not every:
        return None
    return filters or {"all": True}


def _age_s(text: str) -> float:
    found = _AGE.match(text) if text else None
    if text and found is None:
        raise typer.BadParameter(f"--older-than {text}: give a number with s, m, h or d, such as 2h")
    return float(found[1]) * _SECONDS[found[2]] if found else 0.0


def _steer(client: Client, verb: Verb, selection: dict[str, Any], as_json: bool) -> None:
    told = client.cancel_runs(**selection) if verb == "cancel" else client.resume_runs(**selection)
    if as_json:
        show_json(told)
    else:
        for line in told["runs"]:
            place = f" in the place of {line['resumes']}" if "resumes" in line else ""
            if line.get("may_repeat"):
                place += f"; may happen a second time: {', '.join(line['may_repeat'])}"
            print(f"run {line['run_id']} is {line['status']}{place}")
        for problem in told["problems"]:
            print(f"run {problem['run_id']}: {problem['detail']}", file=sys.stderr)
        print(f"{verb}: {told['done']} of {told['selected']} runs, {told['refused']} refused")
    if told["refused"]:
        raise typer.Exit(FAILED)
