"""Command groups of which the name alone shows something: ``budgets``, ``budgets team/acme``."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from hive_ray.cli.common import app

SHOW = "show"


class ShowingGroup(TyperGroup):
    """Words that name no command of the group are those of ``show``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if known else [SHOW, *args])


def showing_group(name: str, about: str) -> typer.Typer:
    """A group of the command line whose ``show`` may be left out."""
    group = typer.Typer(cls=ShowingGroup, help=about, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group
