"""Commands about a run's past: a new run from a place in it."""

from __future__ import annotations

from typing import Annotated

import typer

from hive_ray.cli.common import Config, Json, RunId, Url, app, client_of, read_input, show_json, show_status
from hive_ray.cli.steering import begins_again

Node = Annotated[str, typer.Option("--from", help="Node before which the run is cut.")]
Visit = Annotated[int, typer.Option(help="Which visit of the node, from 1; by default the last.")]
Changes = Annotated[
    str, typer.Option("--input", "-i", help="Values that are to be different: JSON, a file, -.")
]
Agent = Annotated[str | None, typer.Option(help="Name of the agent that runs; by default the parent's.")]
Budget = Annotated[str | None, typer.Option(help="Ceiling in US dollars; by default the parent's.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds from now; by default the graph's.")]
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
            idempotency_key=idempotency_key,
        )
        view = forked.show()
    if as_json:
        show_json(view)
        return
    show_status(view, as_json)
    for text in begins_again(view):
        print(text)
