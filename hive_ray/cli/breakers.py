"""The command for breakers of models and tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, Url, app, client_of, show_lines

Name = Annotated[str, typer.Argument(metavar="[NAME]", help="model/NAME or tool/NAME; all if absent.")]
Force = Annotated[str, typer.Option(help="open, closed, or auto: it decides by itself again.")]
Reason = Annotated[str, typer.Option(help="Why.")]


@app.command()
def breakers(
    name: Name = "",
    force: Force = "",
    reason: Reason = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show breakers, or force one."""
    from hive_ray.errors import Fault, InputError

    if force and not name:
        fault = Fault("NAME", "is missing", "name the breaker to force, such as tool/crm")
        raise InputError("breakers", [fault])
    with client_of(url, config) as client:
        if force:
            found = [client.send("PUT", f"/v1/breakers/{name}", {"force": force, "reason": reason})]
        elif name:
            found = [client.get(f"/v1/breakers/{name}")]
        else:
            found = client.get("/v1/breakers")["breakers"]
    show_lines(found[0] if name else found, as_json, map(_line, found))


def _line(breaker: Mapping[str, Any]) -> str:
    window, state = breaker["window"], breaker["state"]
    by = f", held by {breaker['forced_by']}" if breaker["forced_by"] else ""
    since = f" since {breaker['since']}" if breaker["since"] else ""
    why = f": {breaker['reason']}" if breaker["reason"] else ""
    counted = f" ({window['calls']} calls, {window['failures']} failed, {window['slow']} slow)"
    return f"{breaker['name']}  {state}{since}{by}{why}{counted if state == 'closed' else ''}"
