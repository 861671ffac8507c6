"""Commands for what runs leave behind: artifacts and long-term memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hive_ray.cli.common import Config, Json, RunId, Url, app, client_of, show_json

if TYPE_CHECKING:
    from hive_ray.client import Client
    from hive_ray.kept import Artifact, Memory

Whose = Annotated[str, typer.Argument(metavar="SCOPE/OWNER", help="run/RUN, agent/NAME or team/NAME.")]
Key = Annotated[str, typer.Argument(metavar="KEY")]
IfVersion = Annotated[
    int | None, typer.Option(help="Only if this version is there; 0: only if the key is absent.")
]

SCOPES = ("run", "agent", "team")

memory = typer.Typer(help="Long-term memory of a run, an agent or a team.", no_args_is_help=True)
app.add_typer(memory, name="memory")


@app.command()
def artifacts(
    run_id: RunId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id: download that one.")] = "",
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="File to write; - is stdout. By default the artifact's name."),
    ] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the files that a run made, or download one."""
    with client_of(url, config) as client:
        run = client.run(run_id)
        if name:
            _download(run.artifact(name), output, as_json)
            return
        found = run.artifacts()
    if as_json:
        show_json([item.told for item in found])
        return
    for item in found:
        print(f"{item.id:<7} {item.size:>12}  {item.media_type:<28} {item.node:<18} {item.name}")


def _download(item: Artifact, output: str, as_json: bool) -> None:
    if output == "-":
        for part in item.parts():
            sys.stdout.buffer.write(part)
        return
    target = _target(item, output)
    try:
        saved = item.save(target)
    except OSError as error:
        from hive_ray.errors import Fault, InputError

        fault = Fault(
            str(target), f"cannot be written: {error.strerror or error}", "name a file with -o FILE"
        )
        raise InputError("--output", [fault]) from error
    if as_json:
        show_json({**item.told, "file": str(saved)})
    else:
        print(f"{saved}: {item.size} bytes, sha256 {item.sha256}")


def _target(item: Artifact, output: str) -> Path:
    """Where it goes; without ``-o`` nothing that is there is written over."""
    if output:
        return Path(output)
    target = Path(Path(item.name).name or item.id)
    if target.exists():
        from hive_ray.errors import Conflict

        raise Conflict(f"{target} exists; name a file with -o FILE")
    return target


# --- long-term memory --------------------------------------------------------------------------------


@memory.command("get")
def get_key(whose: Whose, key: Key, url: Url = "", config: Config = None, as_json: Json = False) -> None:
    """Print a value as JSON; with --json also its version, and who wrote it when."""
    with client_of(url, config) as client:
        entry = _shelf(client, whose).entry(key)
    show_json(entry if as_json else entry["value"])


@memory.command("put")
def put_key(
    whose: Whose,
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="JSON; - is stdin.")],
    if_version: IfVersion = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write a value."""
    given = _value(value)
    with client_of(url, config) as client:
        version = _shelf(client, whose).put(key, given, if_version=if_version)
    if as_json:
        show_json({"key": key, "version": version})
    else:
        print(f"{key} is at version {version}")


@memory.command("rm")
def delete_key(
    whose: Whose,
    key: Key,
    if_version: IfVersion = None,
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Delete a key; one that is absent is no fault."""
    with client_of(url, config) as client:
        _shelf(client, whose).delete(key, if_version=if_version)
    if as_json:
        show_json({"key": key, "deleted": True})
    else:
        print(f"{key} is gone")


@memory.command("ls")
def list_keys(
    whose: Whose,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    url: Url = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List keys in order."""
    with client_of(url, config) as client:
        found = list(_shelf(client, whose).keys(prefix))
    if as_json:
        show_json(found)
        return
    for entry in found:
        written = f"{entry['written_at']} by {entry['written_by'] or 'a client'}"
        print(f"v{entry['version']:<6} {entry['size_bytes']:>8}  {written:<64} {entry['key']}")


def _shelf(client: Client, whose: str) -> Memory:
    scope, slash, owner = whose.partition("/")
    if slash and owner and scope in SCOPES:
        return client.memory(scope, owner)
    from hive_ray.errors import Fault, InputError

    fault = Fault(
        "SCOPE/OWNER", f"is '{whose}'", f"write OWNER behind one of {', '.join(SCOPES)} and a slash"
    )
    raise InputError("memory", [fault])


def _value(given: str) -> Any:
    from hive_ray.errors import Fault, InputError
    from hive_ray.submissions import checked_json

    text = sys.stdin.read() if given == "-" else given
    try:
        value = json.loads(text)
    except ValueError as error:
        fault = Fault("VALUE", f"is not JSON: {error}", "quote text twice: '\"like this\"'")
        raise InputError("memory put", [fault]) from error
    return checked_json(value, "VALUE")
