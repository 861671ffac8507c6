"""``hive-ray``: the command line. Everything but ``up`` and ``run`` is a client over HTTP.

Exit codes: 0 succeeded, 1 a run failed, 2 bad input or nothing to talk to, 3 a run waits for a human,
4 a run was cancelled.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.errors import FaultsError, HiveError

if TYPE_CHECKING:
    from hive_ray.client import Client, Run
    from hive_ray.control.record import Record

SUCCEEDED, FAILED, BAD_INPUT, WAITING, CANCELLED = range(5)
IDLE_EXIT_S = 30.0
"""A cluster that `run` started ends after this long without work."""

app = typer.Typer(
    name="hive-ray",
    help="Durable agent graphs on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Option(help="Address of the HTTP face; by default of what runs here.")]
Config = Annotated[Path | None, typer.Option(help="hive.yaml to use.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(metavar="RUN")]
ApprovalId = Annotated[str, typer.Argument(metavar="APPROVAL")]


def main() -> None:
    """Entry point: errors of ours become one message on stderr and exit code 2."""
    try:
        app()
    except HiveError as error:
        _complain(error)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(error: HiveError) -> None:
    if "--json" in sys.argv:
        told: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
        if isinstance(error, FaultsError):
            told["faults"] = [
                {"place": f.place, "problem": f.problem, "remedy": f.remedy} for f in error.faults
            ]
        print(json.dumps(told), file=sys.stderr)
    else:
        print(f"hive-ray: {error}", file=sys.stderr)


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _client(url: str, config: Path | None) -> Client:
    """A client of what was named, of the Ray cluster that this job runs in, or of what runs here."""
    from hive_ray.client import connect

    found = url or _job_url() or _running_url(config)
    if not found:
        from hive_ray.errors import Unavailable

        raise Unavailable("nothing runs here: start it with `hive-ray up`, or give --url")
    return connect(found)


def _running_url(config: Path | None) -> str:
    from hive_ray.control.record import place_of

    record = place_of(config).running()
    return record.url if record else ""


def _job_url() -> str:
    from hive_ray.config import ray_address

    address = ray_address()
    if not address:
        return ""
    from hive_ray.control.cluster import published_url

    return published_url(address)


# --- installation ------------------------------------------------------------------------------------


@app.command()
def up(
    config: Config = None,
    address: Annotated[str, typer.Option(help="Join this running Ray cluster.")] = "",
    port: Annotated[int, typer.Option(help="Instead of http.port.")] = 0,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Fence an owner that still seems alive.")
    ] = False,
    idle_exit_s: Annotated[float, typer.Option(help="End after so long without work; 0 never.")] = 0.0,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and end with Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Start Ray, the controller and the HTTP face; returns when they are ready."""
    from hive_ray.control.launch import UpOptions, absolute, launch
    from hive_ray.control.record import place_of

    options = UpOptions(absolute(config), address, port, take_over, idle_exit_s)
    record = launch(place_of(config), options)
    _show_record(record, as_json)
    if foreground:
        _stay(record, config)


def _stay(record: Record, config: Path | None) -> None:
    import time

    from hive_ray.control.record import end, is_alive, place_of

    try:
        while is_alive(record.pid, record.start):
            time.sleep(0.5)
    except KeyboardInterrupt:
        end(place_of(config))


def _show_record(record: Record, as_json: bool) -> None:
    if as_json:
        _print(_public(record))
        return
    print(f"ready      {record.url}")
    print(f"dashboard  {record.dashboard_url}")
    print(f"jobs       RAY_AUTH_MODE=token ray job submit --address {record.dashboard_url} -- hive-ray run …")
    print(f"ray        {record.ray_address}")
    print(f"controller process {record.controller_pid}, epoch {record.epoch}")
    print(f"supervisor process {record.pid}, log {record.log}")


def _public(record: Record) -> dict[str, Any]:
    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(record)
    for key in ("token", "temporary"):
        told.pop(key)
    return told


@app.command()
def down(config: Config = None, as_json: Json = False) -> None:
    """End what runs here, or what a killed supervisor left behind."""
    from hive_ray.control.record import end, place_of

    ended = end(place_of(config))
    if as_json:
        _print({"ended": _public(ended) if ended else None})
    else:
        print(f"ended {ended.url or ended.pid}" if ended else "nothing runs here")


@app.command()
def status(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Readiness, workers, counters, versions."""
    from importlib.metadata import version

    with _client(url, config) as client:
        told = {"url": client.url, "versions": {name: version(name) for name in ("hive-ray", "ray")}}
        told |= client.status()
    if as_json:
        _print(told)
    else:
        for text in _status_lines(told):
            print(text)
    raise typer.Exit(SUCCEEDED if told["ready"] else FAILED)


def _status_lines(told: Mapping[str, Any]) -> list[str]:
    ready = "ready" if told["ready"] else "not ready"
    lines = [
        f"{ready}: {told['reason']} at {told['url']}",
        f"state      {told['state']} (environment {told['environment']})",
        f"controller process {told['controller_pid']}, epoch {told['epoch']}",
        f"live runs  {told['live_runs']}, cost ${told['cost_usd']}",
    ]
    for worker in told["workers"]:
        used = f"{worker['leases']}/{worker['slots']} slots"
        lines.append(f"worker     {worker['worker']}: {used}, process {worker['pid']} on {worker['host']}")
    lines.append("counters   " + ", ".join(f"{name} {count}" for name, count in told["counters"].items()))
    lines.append("versions   " + ", ".join(f"{name} {text}" for name, text in told["versions"].items()))
    return lines


# --- beginning runs ----------------------------------------------------------------------------------

Input = Annotated[str, typer.Option("--input", "-i", help="A JSON file, - for stdin, or JSON itself.")]
Agent = Annotated[str | None, typer.Option(help="Name of the agent that runs.")]
Budget = Annotated[str | None, typer.Option(help="Ceiling in US dollars.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds from now.")]
Key = Annotated[str, typer.Option(help="Submitting again under it gives the same run.")]


@app.command()
def submit(  # noqa: PLR0913 - each parameter is an option of the command
    graph: Annotated[Path | None, typer.Argument(help="Graph file; none with --agent.")] = None,
    given: Input = "{}",
    agent: Agent = None,
    budget_usd: Budget = None,
    deadline_s: Deadline = None,
    idempotency_key: Key = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Begin a run and print its id."""
    values = _input(given)
    with _client(url, config) as client:
        run = client.submit(
            graph,
            input=values,
            agent=agent,
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
        )
    _print({"run_id": run.id}) if as_json else print(run.id)


@app.command()
def run(  # noqa: PLR0913 - each parameter is an option of the command
    graph: Annotated[Path, typer.Argument(help="Graph file.")],
    given: Input = "{}",
    agent: Agent = None,
    budget_usd: Budget = None,
    deadline_s: Deadline = None,
    idempotency_key: Key = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Run a graph and watch it; starts a cluster that ends by itself if none runs here.

    Exits 0 succeeded, 1 failed, 2 bad input, 3 waiting for a human, 4 cancelled.
    """
    values = _input(given)
    _check_form(graph)
    found = url or _job_url() or _running_url(config)
    own = not found
    if own:
        found = _start_for(graph, values, config, quiet=as_json)
    with _client(found, config) as client:
        begun = client.submit(
            graph,
            input=values,
            agent=agent,
            budget_usd=budget_usd,
            deadline_s=deadline_s,
            idempotency_key=idempotency_key or uuid.uuid4().hex,
        )
        code = _follow(begun, own, as_json)
    raise typer.Exit(code)


def _input(given: str) -> dict[str, Any]:
    """The run's input: JSON itself, a file, or stdin.

    Raises:
        InputError: it cannot be read, is not JSON, or not an object.
    """
    from hive_ray.errors import Fault, InputError

    place, text = _input_text(given)
    try:
        values = json.loads(text)
    except ValueError as error:
        fault = Fault(place, f"is not JSON: {error}", 'give an object such as {"ticket": "…"}')
        raise InputError("--input", [fault]) from error
    if not isinstance(values, dict):
        kind = {list: "a list", str: "text", bool: "a boolean", type(None): "null"}.get(
            type(values), "a number"
        )
        raise InputError("--input", [Fault(place, f"is {kind}", 'give an object such as {"ticket": "…"}')])
    from hive_ray.client import checked_json

    return checked_json(values)


def _input_text(given: str) -> tuple[str, str]:
    from hive_ray.errors import Fault, InputError

    if given == "-":
        return "stdin", sys.stdin.read()
    if given.lstrip()[:1] in ("{", "[", '"') or given in ("null", "true", "false") or given.isdigit():
        return "--input", given
    try:
        return given, Path(given).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        fault = Fault(given, f"cannot be read: {why}", "name a JSON file, - for stdin, or give JSON itself")
        raise InputError("--input", [fault]) from error


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
    from hive_ray.errors import Fault, InputError
    from hive_ray.graph.compiler import compile_graph
    from hive_ray.graph.load import load_graph
    from hive_ray.workers.environment import compile_environment
    from hive_ray.workers.tools import Registry

    settings = configuration.load(config)
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
        _print(outcome)
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


# --- looking at runs ---------------------------------------------------------------------------------


@app.command()
def ls(
    status: Annotated[str, typer.Option(help="Only runs of this status.")] = "",
    agent: Annotated[str, typer.Option(help="Only runs of this agent.")] = "",
    limit: Annotated[int, typer.Option(help="Runs at most.")] = 20,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    import itertools

    with _client(url, config) as client:
        found = list(itertools.islice(client.runs(status=status, agent=agent, limit=min(limit, 1000)), limit))
    if as_json:
        _print(found)
        return
    for view in found:
        reason = f" ({view['reason'][:60]})" if view["reason"] else ""
        cost = f"${view['cost_usd']}"
        print(
            f"{view['run_id']}  {view['submitted_at']}  {cost:<11} {view['graph']}: {view['status']}{reason}"
        )


@app.command()
def show(run_id: RunId, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Timeline of a run with cost and attempts; why it waits, and what it needs."""
    from hive_ray.progress import head, lines, needs

    with _client(url, config) as client:
        view = client.run(run_id).show()
        events = list(client.run(run_id).events())
    if as_json:
        _print({**view, "events": events})
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
    """Events of a run, one line each; with --json all of each event."""
    from hive_ray.progress import line

    with _client(url, config) as client:
        found = client.run(run_id)
        for event in found.watch(after_seq) if follow else found.events(after_seq):
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
    with _client(url, config) as client:
        outcome = client.run(run_id).outcome(timeout_s)
    _print(outcome if as_json else outcome["outputs"])
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
def cancel(
    run_id: RunId, reason: Why = "", url: Url = "", config: Config = None, as_json: Json = False
) -> None:
    """End a run."""
    with _client(url, config) as client:
        _show_status(client.run(run_id).cancel(reason), as_json)


@app.command()
def pause(
    run_id: RunId, reason: Why = "", url: Url = "", config: Config = None, as_json: Json = False
) -> None:
    """Start no further steps of a run."""
    with _client(url, config) as client:
        _show_status(client.run(run_id).pause(reason), as_json)


@app.command()
def resume(run_id: RunId, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Let a paused run go on."""
    with _client(url, config) as client:
        _show_status(client.run(run_id).resume(), as_json)


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
    with _client(url, config) as client:
        _show_status(client.run(run_id).signal(said, node), as_json)


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
    values = _input(outputs)
    with _client(url, config) as client:
        _show_status(client.run(run_id).complete(values, node), as_json)


def _show_status(view: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print(view)
    else:
        reason = f" ({view['reason']})" if view["reason"] else ""
        print(f"run {view['run_id']} is {view['status']}{reason}")


# --- people ------------------------------------------------------------------------------------------

Answer = Annotated[str, typer.Option(help="What the form asks for, as JSON.")]
Comment = Annotated[str, typer.Option(help="Why.")]


@app.command()
def approvals(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """What waits for a person."""
    from hive_ray.progress import needs

    with _client(url, config) as client:
        waits = client.approvals()
    if as_json:
        _print(waits)
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
    decision: Annotated[str, typer.Argument(help="happened, did_not_happen, abort, edit, …")],
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
    values = _input(answer)
    with _client(url, config) as client:
        _show_status(client.resolve(approval_id, decision, values, comment)["run"], as_json)


# --- graphs ------------------------------------------------------------------------------------------


@app.command()
def lint(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check graphs; exits 2 on faults. With a hive.yaml also models, prices and tools."""
    from hive_ray import config as configuration

    environment = _environment(config or configuration.locate())
    found = {str(file): _findings(file, environment) for file in files}
    if as_json:
        _print(found)
    else:
        for name, findings in found.items():
            print(f"{name}: " + ("ok" if not findings else f"{len(findings)} finding(s)"))
            for item in findings:
                tail = f" ({item['remedy']})" if item["remedy"] else ""
                print(f"  {item['severity']}: {item['place']}: {item['problem']}{tail}")
    bad = any(item["severity"] == "error" for findings in found.values() for item in findings)
    raise typer.Exit(BAD_INPUT if bad else SUCCEEDED)


def _environment(config: Path | None) -> Any:
    """What exists where the graph would run; nothing is known without a ``hive.yaml``."""
    from hive_ray.graph.compiler import CompileEnvironment

    if config is None:
        return CompileEnvironment()
    import asyncio

    from hive_ray import config as configuration
    from hive_ray.workers.environment import compile_environment
    from hive_ray.workers.tools import Registry

    settings = configuration.load(config)
    registry = Registry()
    registry.load_modules(settings.tools.modules)
    return asyncio.run(compile_environment(settings, configuration.resolve, registry))


def _findings(file: Path, environment: Any) -> list[dict[str, str]]:
    from hive_ray.errors import GraphError
    from hive_ray.graph.compiler import lint as check
    from hive_ray.graph.load import load_graph

    try:
        pairs = [(str(item.severity), item.fault) for item in check(load_graph(file), environment)]
    except GraphError as error:
        pairs = [("error", fault) for fault in error.faults]
    return [
        {"severity": severity, "place": fault.place, "problem": fault.problem, "remedy": fault.remedy}
        for severity, fault in pairs
    ]


@app.command()
def agents(
    name: Annotated[str, typer.Argument(help="Name to register.")] = "",
    graph: Annotated[Path | None, typer.Argument(help="Graph that it is to stand for.")] = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List agents; with NAME and GRAPH, let the name stand for the graph."""
    if name and graph is None:
        raise typer.BadParameter("give the graph's file too")
    with _client(url, config) as client:
        found = [client.register(name, graph)] if graph is not None else client.agents()
    if as_json:
        _print(found)
        return
    for agent in found:
        print(f"{agent['name']}  {agent['graph_version'][:12]}  since {agent['registered_at']}")


if __name__ == "__main__":
    main()
