"""The command for degrade ladders of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, Url, app, client_of, show_lines

Model = Annotated[str, typer.Argument(metavar="[MODEL]", help="As graphs ask for it; all if absent.")]


@app.command()
def ladders(model: Model = "", url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Show on which rung of its degrade ladder each model stands, since when and why."""
    with client_of(url, config) as client:
        found = [client.get(f"/v1/ladders/{model}")] if model else client.get("/v1/ladders")["ladders"]
    show_lines(found[0] if model else found, as_json, map(line_of, found))


def line_of(ladder: Mapping[str, Any]) -> str:
    """A ladder on a terminal."""
    since = f" since {ladder['since']}" if ladder["since"] else ""
    why = f": {ladder['reason']}" if ladder["reason"] else ""
    asked = ", ".join(f"{key} {value}" for key, value in ladder["asked"].items() if value is not None)
    other = f"; asked: {asked}" if asked else ""
    tried = f"; trials: {_counted(ladder['trials'])}" if ladder["level"] else ""
    rung = f"rung {ladder['level']} of {len(ladder['configured']['rungs'])}"
    return f"{ladder['model']}  {rung}{since}{why}{other} ({_counted(ladder['window'])}{tried})"


def _counted(tally: Mapping[str, Any]) -> str:
    p95 = f", p95 {tally['p95_s']:.3g} s" if tally["calls"] else ""
    return f"{tally['calls']} calls, {tally['failures']} failed{p95}"
