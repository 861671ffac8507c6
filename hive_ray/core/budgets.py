"""What people are told of accounts, and what they change of them."""

from __future__ import annotations

from collections.abc import Iterable

from hive_ray.core import events as ev
from hive_ray.core.accounts import Account, Accounts
from hive_ray.core.events import Draft
from hive_ray.core.plan import AccountPlan, InForce
from hive_ray.core.run import Run


def warnings(force: InForce, accounts: Accounts, names: Iterable[str]) -> list[Draft]:
    """One warning in a window of each account that has spent most of its limit."""
    found: list[Draft] = []
    for name in names:
        plan = force.account(name)
        account = accounts.by_name.get(name)
        if plan is None or account is None or account.warned or not _is_mostly_spent(account, plan):
            continue
        spent = account.present
        event = ev.BudgetWarned(
            "",
            name,
            account.window_us,
            spent.spent_nanousd,
            spent.spent_tokens,
            plan.nanousd,
            plan.tokens,
        )
        found.append(Draft(event))
    return found


def share(force: InForce, accounts: Accounts, root: Run, pool: str, subject: str, at_us: int) -> int:
    """How much of the scarcest budget above a step is spent or held, the run's own included.

    Returns:
        Thousandths; 0 where nothing is limited.
    """
    most = _thousandths(root.spent_nanousd + root.reserved_nanousd, root.budget_nanousd)
    for account in accounts.of(root, pool, subject) if force.limits_accounts else ():
        plan = force.account(account.name)
        if plan is not None:
            ledger = account.seen_at(at_us)
            money = _thousandths(ledger.spent_nanousd + ledger.likely_nanousd, plan.nanousd)
            tokens = _thousandths(ledger.spent_tokens + ledger.likely_tokens, plan.tokens)
            most = max(most, money, tokens)
    return most


def _thousandths(part: int, whole: int) -> int:
    if whole < 0:
        return 0
    return 1000 if part >= whole else max(part, 0) * 1000 // whole


def _is_mostly_spent(account: Account, plan: AccountPlan) -> bool:
    spent = account.present
    money = plan.nanousd >= 0 and spent.spent_nanousd * 100 >= plan.nanousd * plan.warn_percent
    return money or (plan.tokens >= 0 and spent.spent_tokens * 100 >= plan.tokens * plan.warn_percent)
