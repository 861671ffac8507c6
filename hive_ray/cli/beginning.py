"""Commands that begin runs: submit, run."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    WAITING,
    Config,
    Json,
    Url,
    app,
    client_of,
    job_url,
    read_input,
    running_url,
    show_json,
)

if TYPE_CHECKING:
    from hive_ray.client import Run

IDLE_EXIT_S = 30.0
"""A cluster that `run` started ends after this long without work."""

Input = Annotated[str, typer.Option("--input", "-i", help="A JSON file, - for stdin, or JSON itself.")]
Agent = Annotated[str | None, typer.Option(help="Name of the agent that runs.")]
Budget = Annotated[str | None, typer.Option(help="Ceiling in US dollars.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds from now.")]
Priority = Annotated[str | None, typer.Option(help="interactive, normal or batch; as configured by default.")]
Callback = Annotated[str, typer.Option(help="Is told the end of the run by a signed webhook.")]
Key = Annotated[str, typer.Option(help="Submitting again under it gives the same run.")]


@app.command()
def submit(  # noqa: PLR0913 - each parameter is an option of the command
    graph: Annotated[Path | None, typer.Argument(help="Graph file; none with --agent.")] = None,
    given: Input = "{}",
    agent: Agent = None,
    budget_usd: Budget = None,
    deadline_s: Deadline = None,
    idempotency_key: Key = "",
    priority: Priority = None,
    callback_url: Callback = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Begin a run and print its id."""
    values = read_input(given)
    with client_of(url, config) as client:
        run = client.submit(
            graph,
            input=values,
            agent=agent,
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
            priority=priority,
            callback_url=callback_url,
        )
    show_json({"run_id": run.id}) if as_json else print(run.id)


@app.command()
def run(  # noqa: PLR0913 - each parameter is an option of the command
    graph: Annotated[Path, typer.Argument(help="Graph file.")],
    given: Input = "{}",
    agent: Agent = None,
    budget_usd: Budget = None,
    deadline_s: Deadline = None,
    idempotency_key: Key = "",
    priority: Priority = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run a graph and watch it; starts a cluster that ends by itself if none runs here.

    Exits 0 succeeded, 1 failed, 2 bad input, 3 waiting for a human, 4 cancelled.
    """
    values = read_input(given)
    _check_form(graph)
    found = url or job_url() or running_url(config)
    own = not found
    if own:
        found = _start_for(graph, values, config, quiet=as_json)
    with client_of(found, config) as client:
        begun = client.submit(
            graph,
            input=values,
            agent=agent,
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
            priority=priority,
        )
        code = _follow(begun, own, as_json)
    raise typer.Exit(code)


def _check_form(graph: Path) -> None:
    """Faults that need no installation are found before anything starts."""
    from hive_ray.graph.compiler import compile_graph
    from hive_ray.graph.load import load_graph

    compile_graph(load_graph(graph))


def _start_for(graph: Path, values: Mapping[str, Any], config: Path | None, quiet: bool) -> str:
    """Start a cluster for this graph, with the ``tools.py`` that lies next to it."""
    from hive_ray.control.launch import UpOptions, absolute, launch
    from hive_ray.control.record import place_of

    beside = graph.resolve().parent / "tools.py"
    modules = (str(beside),) if beside.exists() else ()
    _check_for(graph, values, config, modules)
    if not quiet:
        print(f"starting a cluster (it ends after {IDLE_EXIT_S:g} s without work)", file=sys.stderr)
    options = UpOptions(absolute(config), port=-1, idle_exit_s=IDLE_EXIT_S, ha_proxy=False, modules=modules)
    return launch(place_of(config), options).url


def _check_for(graph: Path, values: Mapping[str, Any], config: Path | None, modules: tuple[str, ...]) -> None:
    """Refuse in this process what the cluster would refuse after its start."""
    import asyncio

    from hive_ray import config as configuration
    from hive_ray.control.planning import plan_of
    from hive_ray.errors import Fault, InputError
    from hive_ray.graph.compiler import compile_graph
    from hive_ray.graph.load import load_graph
    from hive_ray.workers.environment import compile_environment
    from hive_ray.workers.tools import Registry

    settings = configuration.load(config)
    plan_of(settings)
    limit, size = settings.limits.max_input_bytes, len(json.dumps(values).encode())
    if size > limit:
        problem = f"is {size} bytes, more than {limit}"
        remedy = "give a reference to the data instead, or raise limits.max_input_bytes"
        raise InputError("--input", [Fault("input", problem, remedy)])
    registry = Registry()
    registry.load_modules((*settings.tools.modules, *modules))
    environment = asyncio.run(compile_environment(settings, configuration.resolve, registry))
    compile_graph(load_graph(graph), environment)


def _follow(begun: Run, own: bool, as_json: bool) -> int:
    """Print a run's transitions until it ends or waits for a person; returns the exit code."""
    from hive_ray.progress import line

    waiting = False
    for event in begun.watch():
        text = line(event)
        if text and not as_json:
            print(text, flush=True)
        waiting = waiting or event["kind"] in ("ApprovalRequested", "RunPaused")
        if waiting and begun.status == "waiting":
            break
    outcome = begun.outcome(0)
    if as_json:
        show_json(outcome)
    elif outcome["status"] == "succeeded":
        print(json.dumps(outcome["outputs"], indent=2, ensure_ascii=False))
        print(f"cost ${outcome['cost_usd']}", file=sys.stderr)
    elif outcome["status"] == "waiting":
        _say_what_becomes(begun, own)
    return {"succeeded": SUCCEEDED, "failed": FAILED, "cancelled": CANCELLED}.get(outcome["status"], WAITING)


def _say_what_becomes(begun: Run, own: bool) -> None:
    from hive_ray.progress import needs

    for text in needs(begun.show()):
        print(text)
    if own:
        print(
            f"the cluster ends after {IDLE_EXIT_S:g} s without work; the run is kept, and goes on with the "
            "next `hive-ray up` here",
            file=sys.stderr,
        )
    else:
        print(f"the run waits on the cluster; look at it with: hive-ray show {begun.id}", file=sys.stderr)
