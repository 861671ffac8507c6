"""``hive-ray config``: the plan in force, and putting another ``hive.yaml`` in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hive_ray.cli.common import FAILED, SUCCEEDED, Config, Json, Url, client_of, show_json
from hive_ray.cli.groups import showing_group

config_group = showing_group("config", "What is in force: budgets, limits, policies; and changing all of it.")

File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="By default the hive.yaml in use.")]


@config_group.command()
def show(url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """The plan in force, and what people changed since."""
    with client_of(url, config) as client:
        told = client.get("/v1/config")
    if as_json:
        show_json(told)
        return
    print(f"plan {told['digest'][:12]}, applied by {told['applied_by']} at {told['applied_at']}")
    print(json.dumps(told["plan"], indent=2, ensure_ascii=False))
    for one in told["changes"]:
        who = f"{one['changed_by']} at {one['changed_at']}"
        print(f"changed: {one['what']} {one['name']} by {who}: {json.dumps(one['value'])}")
    for scope, who in told["stopped"].items():
        print(f"stopped: {scope} by {who}")
    if told["maintenance"]["on"]:
        print(f"maintenance, begun by {told['maintenance']['by']}")


@config_group.command()
def diff(file: File = None, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """What a hive.yaml says otherwise than what is in force; exits 0 if nothing, else 1."""
    told = _sent(file, url, config, "?dry_run=true")
    same = not (told["differences"] or told["needs_restart"])
    if as_json:
        show_json(told)
    else:
        for text in _lines(told):
            print(text)
        if same:
            print("equal to what is in force")
    raise typer.Exit(SUCCEEDED if same else FAILED)


@config_group.command()
def apply(file: File = None, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Put a hive.yaml's budgets, limits and policies in force, all at once or not at all."""
    told = _sent(file, url, config, "")
    if as_json:
        show_json(told)
        return
    for text in _lines(told):
        print(text)
    print(f"in force: plan {told['digest'][:12]}, {len(told['differences'])} change(s)")


def _sent(file: Path | None, url: str, config: Path | None, query: str) -> dict[str, Any]:
    """Looked at whole here, by file and key; the installation looks again."""
    from hive_ray.config import load

    settings = load(file or config)
    with client_of(url, config) as client:
        return client.post(f"/v1/config{query}", {"config": settings.model_dump(mode="json")})


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    for one in told["differences"]:
        yield f"{one['key']}: {_value(one['from'])} -> {_value(one['to'])}"
    for name in told["undone"]:
        yield f"{name}: what was changed by hand ends"
    for key in told["needs_restart"]:
        yield f"{key}: holds from the next start of the installation on (hive-ray down, hive-ray up)"


def _value(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
