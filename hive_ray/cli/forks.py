"""Commands about a run's past: a new run from a place in it, or its state derived from it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from hive_ray.cli.common import (
    FAILED,
    SUCCEEDED,
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
from hive_ray.cli.reading import verdict_of
from hive_ray.cli.steering import begins_again

Node = Annotated[str, typer.Option("--from", help="Node before which the run is cut.")]
Visit = Annotated[int, typer.Option(help="Which visit of the node, from 1; by default the last.")]
Changes = Annotated[
    str, typer.Option("--input", "-i", help="Values that are to be different: JSON, a file, -.")
]
Agent = Annotated[str | None, typer.Option(help="Name of the agent that runs; by default the parent's.")]
Budget = Annotated[str | None, typer.Option(help="Ceiling in US dollars; by default the parent's.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds from now; by default the graph's.")]
Callback = Annotated[
    str | None, typer.Option(help="Is told its end; by default where the parent's is, empty for nowhere.")
]
Key = Annotated[str, typer.Option(help="Forking again under it gives the same run.")]


@app.command()
def fork(  # noqa: PLR0913 - each parameter is an option of the command
    run_id: RunId,
    node: Node,
    visit: Visit = 0,
    given: Changes = "{}",
    agent: Agent = None,
    budget_usd: Budget = None,
    deadline_s: Deadline = None,
    callback_url: Callback = None,
    idempotency_key: Key = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Begin a run with the state that RUN had before it entered a node; RUN does not notice."""
    values = read_input(given)
    with client_of(url, config) as client:
        forked = client.run(run_id).fork(
            node,
            visit=visit,
            input=values,
            agent=agent,
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            callback_url=callback_url,
            idempotency_key=idempotency_key,
        )
        view = forked.show()
    if as_json:
        show_json(view)
        return
    show_status(view, as_json)
    for text in begins_again(view):
        print(text)


@app.command()
def replay(run_id: RunId, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Derive a run's state from its journal again, and compare; exits 1 if anything differs.

    Works on the state itself where nothing runs, and changes nothing.
    """
    found = url_of(url, config)
    if found:
        with client_of(found, config) as client:
            told = client.run(run_id).replay()
    else:
        told = verdict_of(run_id, config)
    if as_json:
        show_json(told)
    else:
        for text in _verdict_lines(told):
            print(text)
    raise typer.Exit(SUCCEEDED if told["ok"] else FAILED)


def _verdict_lines(told: Mapping[str, Any]) -> Iterator[str]:
    against = ", ".join(told["compared"]) or "nothing: no snapshot holds it, and no controller is up"
    yield f"run {told['run_id']}: {'ok' if told['ok'] else 'DIFFERS'}"
    yield f"  {told['events']} events applied, to event {told['seq']}; compared with {against}"
    if told["erased"]:
        yield f"  {told['erased']} events have content that was erased; what it told is not compared"
    for key in ("misfit", "difference"):
        if told[key]:
            yield f"  {told[key]}"
