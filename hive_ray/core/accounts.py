"""Accounts above a run: what a team, an agent, a workflow, a pool, a model or a tool spends in a window.

A step holds its worst case on every account above it before it starts, and settles on what it cost in the
windows in which it began, however late. What is spent is a fact of the journal; what is held is an index of
the attempts under way. Windows are those of UTC and never move back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from hive_ray.core.holds import Hold
from hive_ray.core.messages import Usage
from hive_ray.core.plan import AccountPlan, Action, InForce
from hive_ray.core.run import Run

WINDOWS = {
    "team": "month",
    "agent": "day",
    "workflow": "month",
    "pool": "hour",
    "model": "hour",
    "tool": "hour",
}
"""By the first part of an account's name."""
KEPT_WINDOWS = 3
"""Windows before the present one that an account remembers."""
ENOUGH_CALLS = 5
"""Settled calls of a model from which its experience counts."""
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US


class Ledger(msgspec.Struct, array_like=True):
    """Of one account in one window."""

    spent_nanousd: int = 0
    spent_tokens: int = 0
    held_nanousd: int = 0
    held_tokens: int = 0
    likely_nanousd: int = 0
    """What the attempts under way will probably cost; 0 where the worst case counts."""
    likely_tokens: int = 0

    @property
    def holds(self) -> bool:
        return bool(self.held_nanousd or self.held_tokens)


class Account(msgspec.Struct, array_like=True):
    """One account: its present window, and those before."""

    name: str
    window_us: int = 0
    """Begin of the present window."""
    until_us: int = 0
    present: Ledger = msgspec.field(default_factory=Ledger)
    past: dict[int, Ledger] = {}
    warned: bool = False
    """A warning was given in the present window."""

    def at(self, at_us: int) -> Ledger:
        """The ledger of a time; a time after the present window begins the next one."""
        if at_us >= self.until_us:
            self._roll(at_us)
        if at_us >= self.window_us:
            return self.present
        start, _ = window(self.name, at_us)
        ledger = self.past.get(start)
        if ledger is None:
            ledger = self.past[start] = Ledger()
            self._drop_old()
        return ledger

    def seen_at(self, at_us: int) -> Ledger:
        """The same for whoever only looks: nothing changes."""
        if at_us >= self.until_us:
            return _NOTHING
        return self.present

    def _roll(self, at_us: int) -> None:
        if self.until_us:
            self.past[self.window_us] = self.present
            self._drop_old()
        self.window_us, self.until_us = window(self.name, at_us)
        self.present = Ledger()
        self.warned = False

    def _drop_old(self) -> None:
        """A window in which something is still held stays."""
        old = sorted(self.past)[:-KEPT_WINDOWS]
        for start in old:
            if not self.past[start].holds:
                del self.past[start]


_NOTHING = Ledger()


def window(name: str, at_us: int) -> tuple[int, int]:
    """Begin and end of the window of an account that a time lies in, as microseconds of UTC."""
    kind = WINDOWS[name.partition("/")[0]]
    if kind == "hour":
        start = at_us - at_us % _HOUR_US
        return start, start + _HOUR_US
    if kind == "day":
        start = at_us - at_us % _DAY_US
        return start, start + _DAY_US
    first = _first_of_month(at_us // _DAY_US)
    return first * _DAY_US, _first_of_month(first + 32) * _DAY_US


def _first_of_month(day: int) -> int:
    """The first day of a day's month, both counted from 1970-01-01 (in eras of 400 Gregorian years)."""
    day_of_era = (day + 719_468) % 146_097
    year = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    return day - (day_of_year - (153 * month + 2) // 5)


def names_of(root: Run, pool: str, subject: str) -> Iterator[str]:
    """The accounts that an attempt is charged to, the widest first.

    Args:
        root: the run that pays.
        subject: ``model/NAME`` or ``tool/NAME``.
    """
    yield f"team/{root.team}"
    if root.agent:
        yield f"agent/{root.team}/{root.agent}"
    if root.graph_name:
        yield f"workflow/{root.team}/{root.graph_name}"
    if pool:
        yield f"pool/{pool}"
    if subject:
        yield subject


class Experience(msgspec.Struct, array_like=True):
    """What calls of one model cost compared with their worst case: smoothed mean and deviation.

    In thousandths, as Jacobson estimates round-trip times ("Congestion Avoidance and Control", 1988).
    """

    calls: int = 0
    mean: int = 1000
    deviation: int = 0

    def learn(self, actual: int, worst: int) -> None:
        """A call was settled."""
        if worst <= 0:
            return
        share = min(1000, max(0, actual * 1000 // worst))
        if not self.calls:
            self.mean, self.deviation = share, share // 2
        else:
            error = share - self.mean
            self.mean += error // 8
            self.deviation += (abs(error) - self.deviation) // 4
        self.calls += 1

    def expect(self, worst: int) -> int:
        """What a call of that worst case will hardly pass; the worst case while little is known."""
        if self.calls < ENOUGH_CALLS:
            return worst
        return -(-worst * min(1000, self.mean + 4 * self.deviation) // 1000)


class Purse:
    """An account with the limits in force: what is looked at for each step."""

    __slots__ = (
        "account",
        "name",
        "plan",
        "strict",
        "top_nanousd",
        "top_tokens",
        "warn_nanousd",
        "warn_tokens",
    )

    def __init__(self, account: Account, plan: AccountPlan | None) -> None:
        self.account = account
        self.name = account.name
        self.plan = plan
        self.strict = plan is None or plan.action == Action.STOP
        """The worst case counts, not what is likely."""
        bounded = plan if plan is not None and plan.action != Action.DEGRADE else _UNLIMITED
        self.top_nanousd = bounded.nanousd if bounded.nanousd >= 0 else NO_LIMIT
        self.top_tokens = bounded.tokens if bounded.tokens >= 0 else NO_LIMIT
        self.warn_nanousd = self.warn_tokens = NO_LIMIT
        """What is spent when a warning is due."""
        if plan is not None and plan.nanousd >= 0:
            self.warn_nanousd = -(-plan.nanousd * plan.warn_percent // 100)
        if plan is not None and plan.tokens >= 0:
            self.warn_tokens = -(-plan.tokens * plan.warn_percent // 100)


NO_LIMIT = 1 << 200
_UNLIMITED = AccountPlan()


class Accounts(msgspec.Struct):
    """All accounts of a partition."""

    by_name: dict[str, Account] = {}
    experiences: dict[str, Experience] = {}
    """By ``model/…`` and ``tool/…``."""
    wall_us: int = 0
    """The latest time at which something was held: windows never move back behind it."""
    purses: dict[str, Purse] = {}
    """By name. An index, as the next."""
    index: dict[tuple[str, str, str, str, str], list[Purse]] = {}
    """Purses by what ``names_of`` looks at."""
    plans: InForce | None = None

    def get(self, name: str) -> Account:
        account = self.by_name.get(name)
        if account is None:
            account = self.by_name[name] = Account(name)
        return account

    def replan(self, force: InForce) -> None:
        """Other limits are in force."""
        self.plans, self.purses, self.index = force, {}, {}

    def of(self, root: Run, pool: str, subject: str) -> list[Purse]:
        """What an attempt in a pool, of a model or tool, is charged to."""
        key = (root.team, root.agent, root.graph_name, pool, subject)
        found = self.index.get(key)
        if found is None:
            found = self.index[key] = [self._purse(name) for name in names_of(root, pool, subject)]
        return found

    def _purse(self, name: str) -> Purse:
        purse = self.purses.get(name)
        if purse is None:
            plan = self.plans.account(name) if self.plans is not None else None
            purse = self.purses[name] = Purse(self.get(name), plan)
        return purse

    def fits(self, root: Run, hold: Hold) -> bool:
        """Whether every account above a run has room for a hold, no allowance counted."""
        for purse in self.of(root, hold.pool, hold.subject):
            account = purse.account
            ledger = account.present if hold.at_us < account.until_us else _NOTHING
            if purse.strict:
                money = ledger.spent_nanousd + ledger.held_nanousd + hold.nanousd
                tokens = ledger.spent_tokens + ledger.held_tokens + hold.tokens
            else:
                money = ledger.spent_nanousd + ledger.likely_nanousd + hold.likely_nanousd
                tokens = ledger.spent_tokens + ledger.likely_tokens + hold.likely_tokens
            if money > purse.top_nanousd or tokens > purse.top_tokens:
                return False
        return True

    def hold(self, root: Run, hold: Hold) -> None:
        """An attempt began."""
        at_us = hold.at_us
        if at_us > self.wall_us:
            self.wall_us = at_us
        for purse in self.of(root, hold.pool, hold.subject):
            account = purse.account
            now = account.window_us <= at_us < account.until_us
            ledger = account.present if now else account.at(at_us)
            ledger.held_nanousd += hold.nanousd
            ledger.held_tokens += hold.tokens
            if not purse.strict:
                ledger.likely_nanousd += hold.likely_nanousd
                ledger.likely_tokens += hold.likely_tokens

    def settle(self, root: Run, hold: Hold, nanousd: int, tokens: int) -> None:
        """An attempt is over, or never ran: what it held is free, and what it cost is spent."""
        at_us = hold.at_us
        for purse in self.of(root, hold.pool, hold.subject):
            account = purse.account
            now = account.window_us <= at_us < account.until_us
            ledger = account.present if now else account.at(at_us)
            ledger.held_nanousd -= hold.nanousd
            ledger.held_tokens -= hold.tokens
            ledger.spent_nanousd += nanousd
            ledger.spent_tokens += tokens
            if not purse.strict:
                ledger.likely_nanousd -= hold.likely_nanousd
                ledger.likely_tokens -= hold.likely_tokens

    def charge(self, root: Run, hold: Hold, nanousd: int, tokens: int) -> None:
        """A charge is corrected, in the windows in which it was made; nothing is held for it."""
        self.settle(root, Hold(at_us=hold.at_us, pool=hold.pool, subject=hold.subject), nanousd, tokens)

    def learn(self, hold: Hold, nanousd: int, tokens: int) -> None:
        """A call was settled on what it did cost."""
        if hold.subject:
            experience = self.experiences.setdefault(hold.subject, Experience())
            actual, worst = (nanousd, hold.nanousd) if hold.nanousd else (tokens, hold.tokens)
            experience.learn(actual, worst)

    def rehold(self, held: Iterable[tuple[Run, Hold]]) -> None:
        """Make the index of what is held from the attempts under way."""
        for account in self.by_name.values():
            for ledger in (account.present, *account.past.values()):
                ledger.held_nanousd = ledger.held_tokens = 0
                ledger.likely_nanousd = ledger.likely_tokens = 0
        for root, hold in held:
            self.hold(root, hold)

    def due_for_warning(self, root: Run, hold: Hold) -> list[Purse]:
        """Those that have spent most of their limit in the present window, and nobody was told."""
        return [
            purse
            for purse in self.of(root, hold.pool, hold.subject)
            if (
                purse.account.present.spent_nanousd >= purse.warn_nanousd
                or purse.account.present.spent_tokens >= purse.warn_tokens
            )
            and not purse.account.warned
        ]

    def facts(self) -> Accounts:
        """What a snapshot keeps."""
        return Accounts(self.by_name, self.experiences, self.wall_us)


def tokens_of(usage: Usage | None) -> int:
    """Tokens that a call was billed for."""
    return usage.input_tokens + usage.output_tokens if usage is not None else 0
