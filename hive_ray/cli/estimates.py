"""``hive-ray estimate``: what a run can cost, and who could pay for it, before anything of it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hive_ray.cli.beginning import Agent, Budget, Input
from hive_ray.cli.common import Config, Json, Url, app, client_of, read_input, show_lines, url_of
from hive_ray.cli.graphs import environment_of


@app.command()
def estimate(
    graph: Annotated[Path, typer.Argument(help="Graph file.")],
    given: Input = "{}",
    agent: Agent = None,
    budget_usd: Budget = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Worst case and expected cost of a run, node by node, and which accounts could carry it now.

    Where nothing runs, by hive.yaml alone: each call at its bound, and no account.
    """
    values = read_input(given)
    found = url_of(url, config)
    if found:
        with client_of(found, config) as client:
            told = client.estimate(graph, input=values, agent=agent, budget_usd=budget_usd)
        show_lines(told, as_json, lines(told))
        return
    told = _offline(graph, values, budget_usd, config)
    show_lines(told, as_json, [*lines(told), OFFLINE])


OFFLINE = "nothing runs here: what calls have cost so far, and what budgets have left, is not known"


def _offline(graph: Path, values: Mapping[str, Any], budget_usd: str | None, config: Path | None) -> Any:
    from decimal import Decimal

    from hive_ray import config as configuration
    from hive_ray.errors import Unavailable
    from hive_ray.graph.compiler import compile_graph
    from hive_ray.graph.load import load_graph
    from serve.routes_estimate import NANO, offline

    file = config or configuration.locate()
    if file is None:
        raise Unavailable("nothing runs here, and there is no hive.yaml that names models and their prices")
    compiled = compile_graph(load_graph(graph), environment_of(file))
    try:
        budget = None if budget_usd is None else int(Decimal(budget_usd) * NANO)
    except ArithmeticError as error:
        raise typer.BadParameter(f"--budget-usd {budget_usd}: give a number such as 0.5") from error
    return offline(configuration.load(file), compiled, values, budget)


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """A line for each node, the sum, what has no bound, and the accounts."""
    width = max(8, *(len(one["node"]) for one in told["nodes"]))
    yield f"{'NODE':<{width}}  {'VISITS':>6}  {'WORST OF ONE':>16}  {'EXPECTED':>16}"
    for one in told["nodes"]:
        worst = f"${one['worst_usd']}" if one["worst_usd"] is not None else "no bound"
        yield f"{one['node']:<{width}}  {one['visits']:>6}  {worst:>16}  {'$' + one['expected_usd']:>16}"
    if told["worst_usd"] is not None:
        yield f"at worst ${told['worst_usd']}, {told['worst_tokens']} tokens"
    else:
        yield f"at worst no bound; what has one sums to ${told['bounded_usd']}"
    yield f"expected ${told['expected_usd']}, {told['expected_tokens']} tokens"
    for text in told["unbounded"]:
        yield f"no bound: {text}"
    for one in told["accounts"]:
        yield f"{one['scope']}: {_verdict(one)}"


def _verdict(one: Mapping[str, Any]) -> str:
    if one["carries_worst"]:
        return "carries the worst case now"
    if one["carries_expected"]:
        return "carries what is expected now, not the worst case"
    return "cannot carry it now"
