"""What a state may hold: its feature level, raised by an operator, never by an upgrade of the code alone.

A release reads every level up to its ``LATEST`` and writes only what the state's level allows, so that the
release before it can open the state again until somebody raises the level.
"""

from __future__ import annotations

from hive_ray.core.commands import (
    AllowSpending,
    ApplyPlan,
    ChangeBudget,
    ChangeRate,
    ChangeRunsLimit,
    Command,
    CorrectCost,
    CreateKey,
    DeleteMemory,
    ForceBreaker,
    Forget,
    Fork,
    Maintain,
    PutMemory,
    Refused,
    RevokeKey,
    RollKey,
    StopSpending,
    Submit,
)

FIRST = 1
"""What release 0.1.0 wrote."""
LATEST = 2
"""Sealed content and the events of this release. A fresh state starts here."""


GAINS = {
    2: "sealed content, forks and resumed runs, corrections of the ledger, history in Parquet files, "
    "artifacts, long-term memory, API keys, budgets above runs and all else of the control plane",
}
"""What each level lets a state hold."""

_COMMANDS: dict[type[Command], tuple[int, str]] = {
    Fork: (2, "forking a run"),
    CorrectCost: (2, "correcting the ledger"),
    Forget: (2, "forgetting a run"),
    PutMemory: (2, "long-term memory"),
    DeleteMemory: (2, "long-term memory"),
    ApplyPlan: (2, "budgets and limits"),
    ChangeBudget: (2, "budgets and limits"),
    ChangeRate: (2, "budgets and limits"),
    ChangeRunsLimit: (2, "budgets and limits"),
    ForceBreaker: (2, "breakers"),
    StopSpending: (2, "stopping the spending of a team"),
    AllowSpending: (2, "stopping the spending of a team"),
    Maintain: (2, "maintenance"),
    CreateKey: (2, "making API keys"),
    RollKey: (2, "making API keys"),
    RevokeKey: (2, "making API keys"),
}


def refuse(command: Command, present: int) -> Refused | None:
    """The refusal of a command whose events a state of level ``present`` cannot hold."""
    if isinstance(command, Submit) and command.callback:
        return needs(CONTROLLED, present, "a callback at the end of a run")
    needed = _COMMANDS.get(type(command))
    return needs(needed[0], present, needed[1]) if needed is not None else None


CONTROLLED = 2
"""Accounts above runs, and whatever else the control plane keeps."""
SEALED = 2
"""Content may be sealed, reasons in free text are content, and runs can be forgotten."""


def needs(level: int, present: int, what: str) -> Refused | None:
    """The refusal of something that a state of level ``present`` cannot hold."""
    if present >= level:
        return None
    why = f"{what} needs state feature level {level}, and this state is at {present}"
    return Refused("conflict", f"{why}: run `hive-ray state upgrade`")
