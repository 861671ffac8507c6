"""Commands about graphs and the names that stand for them: lint, agents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hive_ray.cli.common import BAD_INPUT, SUCCEEDED, Config, Json, Url, app, client_of, show_json


@app.command()
def lint(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check graphs; exits 2 on faults. With a hive.yaml also models, prices and tools."""
    from hive_ray import config as configuration

    environment = environment_of(config or configuration.locate())
    found = {str(file): _findings(file, environment) for file in files}
    if as_json:
        show_json(found)
    else:
        for name, findings in found.items():
            print(f"{name}: " + ("ok" if not findings else f"{len(findings)} finding(s)"))
            for item in findings:
                tail = f" ({item['remedy']})" if item["remedy"] else ""
                print(f"  {item['severity']}: {item['place']}: {item['problem']}{tail}")
    bad = any(item["severity"] == "error" for findings in found.values() for item in findings)
    raise typer.Exit(BAD_INPUT if bad else SUCCEEDED)


def environment_of(config: Path | None) -> Any:
    """What exists where the graph would run; nothing is known without a ``hive.yaml``."""
    from hive_ray.graph.compiler import CompileEnvironment

    if config is None:
        return CompileEnvironment()
    import asyncio

    from hive_ray import config as configuration
    from hive_ray.control.planning import plan_of
    from hive_ray.workers.environment import compile_environment
    from hive_ray.workers.tools import Registry

    settings = configuration.load(config)
    plan_of(settings)
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
    with client_of(url, config) as client:
        found = [client.register(name, graph)] if graph is not None else client.agents()
    if as_json:
        show_json(found)
        return
    for agent in found:
        print(f"{agent['name']}  {agent['graph_version'][:12]}  since {agent['registered_at']}")
