"""Commands about one run or many: looked at, steered."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from hive_ray.cli.common import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    WAITING,
    Config,
    Json,
    RunId,
    Url,
    app,
    client_of,
    read_input,
    show_json,
    show_status,
    url_of,
)
from hive_ray.cli.reading import told_of

# --- looking at runs ---------------------------------------------------------------------------------


@app.command()
def ls(
    status: Annotated[str, typer.Option(help="Only runs of this status.")] = "",
    agent: Annotated[str, typer.Option(help="Only runs of this agent.")] = "",
    dead_lettered: Annotated[
        bool, typer.Option("--dead-lettered", help="Only failed runs that somebody should look at.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Runs at most.")] = 20,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    import itertools

    with client_of(url, config) as client:
        filters = {"status": status, "agent": agent, "limit": min(limit, 1000)}
        if dead_lettered:
            filters["dead_lettered"] = True
        found = list(itertools.islice(client.runs(**filters), limit))
    if as_json:
        show_json(found)
        return
    for view in found:
        reason = f" ({view['reason'][:60]})" if view["reason"] else ""
        cost = f"${view['cost_usd']}"
        print(
            f"{view['run_id']}  {view['submitted_at']}  {cost:<11} {view['graph']}: {view['status']}{reason}"
        )


@app.command()
def show(run_id: RunId, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Timeline of a run with cost and attempts; why it waits, and what it needs.

    Reads the state itself where nothing runs, and changes nothing.
    """
    from hive_ray.progress import head, lines, needs

    found = url_of(url, config)
    if found:
        with client_of(found, config) as client:
            view = client.run(run_id).show()
            events = list(client.run(run_id).events())
    else:
        view, events = told_of(run_id, config)
    if as_json:
        show_json({**view, "events": events})
        return
    for text in (*head(view), "", *lines(events), "", *needs(view)):
        print(text)


@app.command()
def events(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    after_seq: Annotated[int, typer.Option(help="Only events behind this one.")] = 0,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Events of a run, one line each; with --json all of each event.

    Reads the state itself where nothing runs, and changes nothing.
    """
    address = url_of(url, config)
    if not address and not follow:
        _, told = told_of(run_id, config)
        _print_events([event for event in told if event["seq"] > after_seq], as_json)
        return
    with client_of(address, config) as client:
        found = client.run(run_id)
        _print_events(found.watch(after_seq) if follow else found.events(after_seq), as_json)


def _print_events(events: Iterable[dict[str, Any]], as_json: bool) -> None:
    from hive_ray.progress import line

    for event in events:
        text = json.dumps(event, ensure_ascii=False) if as_json else line(event)
        if text:
            print(text, flush=True)


@app.command()
def result(
    run_id: RunId,
    timeout_s: Annotated[float | None, typer.Option(help="Wait so long; by default to the end.")] = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Outputs of a run, when it has ended; exits like `run`."""
    with client_of(url, config) as client:
        outcome = client.run(run_id).outcome(timeout_s)
    show_json(outcome if as_json else outcome["outputs"])
    if not as_json and outcome["status"] != "succeeded":
        failure = outcome["failure"]
        why = (
            f"{failure['kind']} at {failure['place']}: {failure['message']}" if failure else outcome["reason"]
        )
        print(f"run {run_id} {outcome['status']}: {why}", file=sys.stderr)
    codes = {"succeeded": SUCCEEDED, "failed": FAILED, "cancelled": CANCELLED}
    raise typer.Exit(codes.get(outcome["status"], WAITING))


# --- steering runs -----------------------------------------------------------------------------------

Why = Annotated[str, typer.Option(help="Why.")]


@app.command()
def forget(run_id: RunId, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Give up all content of a run that has ended, for good; what it did and cost stays."""
    with client_of(url, config) as client:
        view = client.run(run_id).forget()
    show_json(view) if as_json else print(f"run {run_id} is forgotten")


@app.command()
def pause(
    run_id: RunId, reason: Why = "", url: Url = "", config: Config = None, as_json: Json = False
) -> None:
    """Start no further steps of a run."""
    with client_of(url, config) as client:
        show_status(client.run(run_id).pause(reason), as_json)


@app.command()
def signal(
    run_id: RunId,
    said: Annotated[str, typer.Argument(help="What the client says.")],
    node: Annotated[str, typer.Option(help="If it waits at several nodes.")] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say something to a run that waits for its client."""
    with client_of(url, config) as client:
        show_status(client.run(run_id).signal(said, node), as_json)


@app.command()
def complete(
    run_id: RunId,
    outputs: Annotated[str, typer.Option(help="Outputs to set, as JSON.")] = "{}",
    node: Annotated[str, typer.Option(help="If it waits at several nodes.")] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End the conversation of a run with its client."""
    values = read_input(outputs)
    with client_of(url, config) as client:
        show_status(client.run(run_id).complete(values, node), as_json)
