"""``hive-ray sql``: questions to the history and the journal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, app, show_json


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over `events` and `runs`.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Ask what happened, in SQL; reads the state itself, whether or not anything runs."""
    from hive_ray.config import load
    from hive_ray.state.sql import sql_of

    table = sql_of(load(config), statement)
    if as_json:
        show_json([{name: _plain(value) for name, value in line.items()} for line in table.to_pylist()])
    else:
        _show(table)


def _show(table: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for name in table.schema.names:
        shown.add_column(name, no_wrap=True)
    for line in table.to_pylist():
        shown.add_row(*("" if value is None else str(_plain(value)) for value in line.values()))
    console = Console(highlight=False)
    # Columns are cut to a terminal's width, never in a pipe.
    Console(highlight=False, width=console.width if console.is_terminal else 100_000).print(shown)


def _plain(value: Any) -> Any:
    """Money as decimal text, times in ISO 8601, all else as JSON has it."""
    from datetime import date
    from decimal import Decimal

    match value:
        case Decimal():
            text = format(value, "f")
            return text.rstrip("0").rstrip(".") if "." in text else text
        case date():
            return value.isoformat().replace("+00:00", "Z")
        case bytes():
            return value.hex()
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case _:
            return value
