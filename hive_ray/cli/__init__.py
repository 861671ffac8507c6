"""``hive-ray``: the command line. Everything but ``up`` and ``run`` is a client over HTTP.

Exit codes: 0 succeeded, 1 a run failed, 2 bad input or nothing to talk to, 3 a run waits for a human,
4 a run was cancelled.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import Any

from hive_ray.cli import (
    api_keys,
    audit,
    beginning,
    breakers,
    budgets,
    configuration,
    costs,
    estimates,
    forks,
    graphs,
    installation,
    kept,
    keys,
    ladders,
    limits,
    outbox,
    people,
    policies,
    runs,
    sql,
    state,
    steering,
)
from hive_ray.cli.common import BAD_INPUT, app
from hive_ray.errors import FaultsError, HiveError

__all__ = ["app", "main"]

KEY_FILE = "--api-key-file"

_COMMANDS = (
    installation,
    beginning,
    runs,
    steering,
    forks,
    people,
    policies,
    outbox,
    graphs,
    kept,
    sql,
    state,
    breakers,
    ladders,
    costs,
    budgets,
    limits,
    estimates,
    configuration,
    keys,
    api_keys,
    audit,
)
"""Importing a module registers its commands."""


def main() -> None:
    """Entry point: errors of ours become one message on stderr and exit code 2."""
    try:
        app(_with_key_file_first(sys.argv[1:]))
    except HiveError as error:
        _complain(error)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(130)


def _with_key_file_first(words: list[str]) -> list[str]:
    """``--api-key-file`` is an option of every command: wherever it stands, it means the same."""
    first: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return [*first, *rest, word, *left]
        if word == KEY_FILE:
            first += [word, *islice(left, 1)]
        elif word.startswith(f"{KEY_FILE}="):
            first.append(word)
        else:
            rest.append(word)
    return [*first, *rest]


def _complain(error: HiveError) -> None:
    if "--json" in sys.argv:
        told: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
        if isinstance(error, FaultsError):
            told["faults"] = [
                {"place": f.place, "problem": f.problem, "remedy": f.remedy} for f in error.faults
            ]
        print(json.dumps(told), file=sys.stderr)
    else:
        print(f"hive-ray: {error}", file=sys.stderr)
