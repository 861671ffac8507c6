"""What the commands share: the application, their options, the way to an installation, input and output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hive_ray.client import Client

SUCCEEDED, FAILED, BAD_INPUT, WAITING, CANCELLED = range(5)

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


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_lines(told: Any, as_json: bool, lines: Iterable[str]) -> None:
    """What was told as JSON, or as text, which is made only then."""
    if as_json:
        show_json(told)
        return
    for line in lines:
        print(line)


def url_of(url: str, config: Path | None) -> str:
    """The address that was named, of the Ray cluster that this job runs in, of what runs here, or ""."""
    return url or job_url() or running_url(config)


def client_of(url: str, config: Path | None) -> Client:
    """A client of what was named, of the Ray cluster that this job runs in, or of what runs here."""
    from hive_ray.client import connect

    found = url_of(url, config)
    if not found:
        from hive_ray.errors import Unavailable

        raise Unavailable("nothing runs here: start it with `hive-ray up`, or give --url")
    return connect(found, api_key_for(found, config))


api_key_file: Path | None = None
"""Given with ``--api-key-file``, which stands before or behind any command."""


@app.callback()
def common(
    file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", help="File with the API key to ask with; by default HIVE_RAY_API_KEY is it."
        ),
    ] = None,
) -> None:
    """Durable agent graphs on a Ray cluster."""
    global api_key_file
    api_key_file = file


def api_key_for(url: str, config: Path | None) -> str | None:
    """The key to ask with: from the file that was named, the environment, or what `up` left here.

    Raises:
        InputError: the file cannot be read.
    """
    from hive_ray.config import api_key
    from hive_ray.control.record import place_of

    if api_key_file is not None:
        return _read_key(api_key_file)
    given = api_key()
    if given:
        return given
    place = place_of(config)
    record = place.running()
    here = record is not None and record.url == url and place.admin_key.is_file()
    return _read_key(place.admin_key) if here else None


def _read_key(file: Path) -> str:
    from hive_ray.errors import Fault, InputError

    try:
        key = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no text of one line"
        fault = Fault(str(file), f"cannot be read: {why}", "name a file that holds an API key")
        raise InputError("--api-key-file", [fault]) from error
    if not key or any(c.isspace() for c in key):
        fault = Fault(str(file), "holds no API key", "write the key alone into it")
        raise InputError("--api-key-file", [fault])
    return key


def running_url(config: Path | None) -> str:
    from hive_ray.control.record import place_of

    record = place_of(config).running()
    return record.url if record else ""


def job_url() -> str:
    from hive_ray.config import ray_address

    address = ray_address()
    if not address:
        return ""
    from hive_ray.control.cluster import published_url

    return published_url(address)


def read_input(given: str) -> dict[str, Any]:
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
    from hive_ray.submissions import checked_json

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


def show_status(view: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(view)
    else:
        reason = f" ({view['reason']})" if view["reason"] else ""
        print(f"run {view['run_id']} is {view['status']}{reason}")
