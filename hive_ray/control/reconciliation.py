"""What a provider billed for a model against what the ledger says, and the corrections that close the gap.

Attempts whose end nobody saw were charged their worst case, so a bill that is lower is taken off them
first. What is left is spread over the other attempts of the same group in proportion to their charge.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from hive_ray.errors import Fault, InputError
from hive_ray.state.ledger import Charge

NANO = 1_000_000_000
MOST_FAULTS = 20
MOST_USD = 1_000_000

COST, DAY, MODEL, REQUEST = "cost_usd", "date", "model", "request_id"


class Billed(NamedTuple):
    """One line of a provider's export."""

    day: date
    request_id: str
    nanousd: int


class Window(NamedTuple):
    """Whole days (UTC), both ends included."""

    first: date
    last: date

    def holds(self, day: date) -> bool:
        return self.first <= day <= self.last


class Difference(NamedTuple):
    """One day, or one request: what we charged and what was billed."""

    group: str
    charged_nanousd: int
    billed_nanousd: int
    charges: tuple[Charge, ...]

    @property
    def nanousd(self) -> int:
        """To be added to the ledger; below 0: to be taken off."""
        return self.billed_nanousd - self.charged_nanousd

    @property
    def unseen(self) -> int:
        return sum(charge.unseen for charge in self.charges)


class Planned(NamedTuple):
    """One correction to make; its id tells it from every other, and a repeat of it is the same."""

    correction: str
    charge: Charge
    nanousd: int


# --- the export ----------------------------------------------------------------------------------


def read_bill(name: str, lines: Iterable[str], models: Collection[str], window: Window) -> list[Billed]:
    """The lines of a CSV export that are about one model and a window.

    Columns, in any order and case; others are ignored: ``cost_usd`` and ``date`` (a day, or a time in ISO
    8601; without a zone it is UTC) must be there, ``model`` and ``request_id`` may.

    Args:
        models: names of the model in the export; without a column ``model`` every line counts.

    Raises:
        InputError: names each bad line, up to 20.
    """
    reader = csv.reader(lines)
    columns = _columns(name, next(reader, []))
    faults: list[Fault] = []
    found: list[Billed] = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        try:
            billed = _billed(columns, row, models)
        except ValueError as error:
            faults.append(Fault(f"{name}:{reader.line_num}", str(error)))
            if len(faults) == MOST_FAULTS:
                break
            continue
        if billed is not None and window.holds(billed.day):
            found.append(billed)
    if faults:
        raise InputError(name, faults)
    return found


def _columns(name: str, header: Sequence[str]) -> dict[str, int]:
    columns = {cell.strip().lstrip("\ufeff").lower(): index for index, cell in enumerate(header)}
    missing = [column for column in (DAY, COST) if column not in columns]
    if missing:
        problem = f"has no column {' and no column '.join(missing)}"
        raise InputError(name, [Fault(f"{name}:1", problem, "write a first line: date,cost_usd")])
    return columns


def _billed(columns: dict[str, int], row: Sequence[str], models: Collection[str]) -> Billed | None:
    if len(row) < max(columns.values()) + 1:
        raise ValueError(f"has {len(row)} columns, not {max(columns.values()) + 1}")
    if MODEL in columns and row[columns[MODEL]].strip() not in models:
        return None
    request_id = row[columns[REQUEST]].strip() if REQUEST in columns else ""
    return Billed(_day(row[columns[DAY]].strip()), request_id, _nanousd(row[columns[COST]].strip()))


def _day(text: str) -> date:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"date {text!r} is neither YYYY-MM-DD nor a time in ISO 8601") from None
    return (at.astimezone(UTC) if at.tzinfo else at).date()


def _nanousd(text: str) -> int:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"cost_usd {text!r} is no decimal number") from None
    if not amount.is_finite() or abs(amount) > MOST_USD:
        raise ValueError(f"cost_usd {text} is not within a million dollars")
    if amount * NANO != (amount * NANO).to_integral_value():
        raise ValueError(f"cost_usd {text} has more than nine decimal places")
    return int(amount * NANO)


# --- the comparison ------------------------------------------------------------------------------


def compare(charges: Iterable[Charge], bill: Sequence[Billed]) -> list[Difference]:
    """Every group in which charge and bill differ or not, in order.

    Groups are requests where each line of the bill names one, else days (UTC) of the attempts' ends.
    """
    by_request = bool(bill) and all(line.request_id for line in bill)
    ours: dict[str, list[Charge]] = {}
    for charge in charges:
        ours.setdefault(charge.request_id if by_request else _day_of(charge).isoformat(), []).append(charge)
    theirs: dict[str, int] = {}
    for line in bill:
        group = line.request_id if by_request else line.day.isoformat()
        theirs[group] = theirs.get(group, 0) + line.nanousd
    return [
        Difference(
            group,
            sum(charge.nanousd for charge in ours.get(group, ())),
            theirs.get(group, 0),
            tuple(ours.get(group, ())),
        )
        for group in sorted(ours.keys() | theirs.keys())
    ]


def of_model(charges: Iterable[Charge], model: str, window: Window) -> list[Charge]:
    """The attempts of one model whose end lies in a window."""
    return [charge for charge in charges if charge.name == model and window.holds(_day_of(charge))]


def _day_of(charge: Charge) -> date:
    return datetime.fromtimestamp(charge.at_us / 1e6, UTC).date()


def plan(difference: Difference) -> list[Planned]:
    """Corrections whose sum is the difference; none where there is no attempt to correct."""
    left = difference.nanousd
    unseen = [charge for charge in difference.charges if charge.unseen]
    seen = [charge for charge in difference.charges if not charge.unseen]
    shares: dict[int, int] = {}
    for charge in unseen:
        share = max(left, -charge.nanousd) if left < 0 else 0
        shares[id(charge)] = share
        left -= share
    shares.update(_spread(left, seen or unseen, shares))
    return [
        _planned(difference.group, charge, shares[id(charge)])
        for charge in difference.charges
        if shares.get(id(charge))
    ]


def _spread(left: int, charges: Sequence[Charge], before: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Shares in proportion to the charges, exact to the nano-dollar: each takes its part of what is left."""
    weights = [max(charge.nanousd, 0) for charge in charges]
    if not any(weights):
        weights = [1] * len(charges)
    total = sum(weights)
    for charge, weight in zip(charges, weights, strict=True):
        share = left * weight // total if total else 0
        left -= share
        total -= weight
        yield id(charge), before.get(id(charge), 0) + share


def _planned(group: str, charge: Charge, nanousd: int) -> Planned:
    # What was charged before counts: after a bill that is corrected itself, the next correction is another.
    told = f"{group}|{charge.run}|{charge.key}|{charge.nanousd}|{nanousd}"
    digest = hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
    return Planned(f"reconcile-{digest}", charge, nanousd)
