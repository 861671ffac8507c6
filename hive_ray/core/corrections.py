"""Corrections of the ledger: what an attempt did cost, when somebody knows better than its report."""

from __future__ import annotations

from collections.abc import Iterable

from hive_ray.core import events as ev
from hive_ray.core.commands import CorrectCost, Refused
from hive_ray.core.events import Draft, draft
from hive_ray.core.run import Correction, Run, attempt_key

MOST_NANOUSD = 10**15
"""One correction moves no more than a million dollars."""
MOST_CORRECTIONS = 10_000
"""Of one run: it remembers each."""


def correct(run: Run, command: CorrectCost, ancestors: Iterable[Run] = ()) -> list[Draft] | Refused:
    """No run's charge falls below 0 by a correction; a run that has ended can be corrected.

    Args:
        ancestors: of a child run: they are charged the same.
    """
    key = attempt_key(command.serial, command.call, command.attempt)
    known = run.corrections.get(command.correction)
    if known is not None:
        if known == Correction(command.nanousd, key):
            return []
        return Refused("conflict", f"correction {command.correction} of run {run.id} says something else")
    problem = _problem(run, command, ancestors)
    if problem:
        return Refused("invalid", problem)
    event = ev.CostCorrected(
        run.id,
        command.correction,
        command.nanousd,
        command.serial,
        command.call,
        command.attempt,
        command.principal,
    )
    # A forgotten run has no key any more that could seal a reason.
    says_why = command.content.message and not run.forgotten
    return [draft(event, command.content if says_why else None)]


def _problem(run: Run, command: CorrectCost, ancestors: Iterable[Run]) -> str:
    if not command.correction or len(command.correction) > 200:
        return "correction: an id of 1 to 200 characters would be right"
    if not command.nanousd or abs(command.nanousd) > MOST_NANOUSD:
        return "the amount: anything but 0, up to a million dollars, would be right"
    for payer in (run, *ancestors):
        if payer.spent_nanousd + command.nanousd < 0 > command.nanousd:
            return f"the amount: run {payer.id} was charged less than that, and would have a cost below 0"
    whole = (command.serial, command.call, command.attempt) == (0, 0, 0)
    if not whole and not (1 <= command.serial <= run.serial and command.call >= 0 and command.attempt >= 1):
        return f"the attempt: run {run.id} has none of that number; take serial.call.attempt from its events"
    if len(run.corrections) >= MOST_CORRECTIONS:
        return f"run {run.id} has {MOST_CORRECTIONS} corrections already"
    return ""
