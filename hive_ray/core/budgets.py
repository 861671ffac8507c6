"""What people are told of accounts, and what they change of them."""

from __future__ import annotations

from collections.abc import Iterable

from hive_ray.core import events as ev
from hive_ray.core.accounts import Purse
from hive_ray.core.events import Draft


def warnings(purses: Iterable[Purse]) -> list[Draft]:
    """What is said of accounts that have spent most of their limit."""
    return [Draft(_warning(purse)) for purse in purses]


def _warning(purse: Purse) -> ev.BudgetWarned:
    spent, plan = purse.account.present, purse.plan
    assert plan is not None
    return ev.BudgetWarned(
        "",
        purse.name,
        purse.account.window_us,
        spent.spent_nanousd,
        spent.spent_tokens,
        plan.nanousd,
        plan.tokens,
    )
