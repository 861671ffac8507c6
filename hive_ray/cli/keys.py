"""Commands about the keys that seal content (``show``, ``rotate``). They work on the state itself, whether or
not anything runs. Those about the API keys of callers, in the same group, are in ``api_keys``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hive_ray.cli.common import Config, Json, app, show_json

if TYPE_CHECKING:
    from hive_ray.state.keyring import Keyring, KeyringView

keys = typer.Typer(
    help="API keys of callers (create, list, roll, revoke, whoami), and the keys that seal all content "
    "(show, rotate).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys, name="keys")


@keys.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Content: which key wraps what; how many run keys there are, and how many were erased."""
    view = _keyring(config).view()
    if as_json:
        show_json({**view._asdict(), "wrapped_by": {str(k): v for k, v in view.wrapped_by.items()}})
        return
    for text in _lines(view):
        print(text)


@keys.command()
def rotate(config: Config = None, as_json: Json = False) -> None:
    """Content: wrap all keys with the configured one; afterwards nothing needs those of keys.old_keys."""
    ring = _keyring(config)
    done = ring.rotate()
    view = ring.view()
    if as_json:
        show_json({"rewrapped": done, "key": view.key})
    elif done:
        print(f"{done} intermediate key(s) are wrapped by {view.key} now; keys.old_keys can go")
    else:
        print(f"{view.key} wraps everything already")


def _keyring(config: Path | None) -> Keyring:
    from hive_ray import config as configuration
    from hive_ray.state.access import open_keyring

    return open_keyring(configuration.load(config))


def _lines(view: KeyringView) -> list[str]:
    return [
        f"configured        {view.key}",
        *(f"intermediate {number:<4} wrapped by {kek}" for number, kek in view.wrapped_by.items()),
        f"pages             {view.pages}",
        f"keys              {view.keys}, of which {view.erased} were erased",
    ]
