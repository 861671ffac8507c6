"""What people are told of accounts, and what they change of them."""

from __future__ import annotations

from collections.abc import Iterable

from hive_ray.core import events as ev
from hive_ray.core.accounts import Accounts, Purse
from hive_ray.core.events import Draft
from hive_ray.core.plan import InForce
from hive_ray.core.run import Run


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


def share(force: InForce, accounts: Accounts, root: Run, pool: str, subject: str, at_us: int) -> int:
    """How much of the scarcest budget above a step is spent or held, the run's own included.

    Returns:
        Thousandths; 0 where nothing is limited.
    """
    most = _thousandths(root.spent_nanousd + root.reserved_nanousd, root.budget_nanousd)
    for purse in accounts.of(root, pool, subject) if force.limits_accounts else ():
        plan, ledger = purse.plan, purse.account.seen_at(at_us)
        if plan is not None:
            held = (ledger.held_nanousd, ledger.held_tokens)
            likely = held if purse.strict else (ledger.likely_nanousd, ledger.likely_tokens)
            money = _thousandths(ledger.spent_nanousd + likely[0], plan.nanousd)
            tokens = _thousandths(ledger.spent_tokens + likely[1], plan.tokens)
            most = max(most, money, tokens)
    return most


def _thousandths(part: int, whole: int) -> int:
    if whole < 0:
        return 0
    return 1000 if part >= whole else max(part, 0) * 1000 // whole
