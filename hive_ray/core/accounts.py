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
        if ledger is None and len(self.past) >= KEPT_WINDOWS and start < min(self.past):
            return Ledger()  # nobody remembers that window
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
        "aside_nanousd",
        "aside_tokens",
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
        self.aside_nanousd = self.aside_tokens = 0
        """Given to tabs as credit."""
        self.warn_nanousd = self.warn_tokens = NO_LIMIT
        """What is spent when a warning is due."""
        if plan is not None and plan.nanousd >= 0:
            self.warn_nanousd = -(-plan.nanousd * plan.warn_percent // 100)
        if plan is not None and plan.tokens >= 0:
            self.warn_tokens = -(-plan.tokens * plan.warn_percent // 100)

    @property
    def is_due(self) -> bool:
        """A warning is due."""
        spent = self.account.present
        reached = spent.spent_nanousd >= self.warn_nanousd or spent.spent_tokens >= self.warn_tokens
        return reached and not self.account.warned

    def room(self, hold: Hold) -> tuple[int, int, int, int]:
        """What is left beside a hold, and what of it may be given away without reaching a warning.

        Returns:
            Nano-dollars and tokens, then the same again; below 0: it does not fit.
        """
        account = self.account
        ledger = account.seen_at(hold.at_us)
        if self.strict:
            money = ledger.spent_nanousd + ledger.held_nanousd + hold.nanousd + self.aside_nanousd
            tokens = ledger.spent_tokens + ledger.held_tokens + hold.tokens + self.aside_tokens
        else:
            money = ledger.spent_nanousd + ledger.likely_nanousd + hold.likely_nanousd
            tokens = ledger.spent_tokens + ledger.likely_tokens + hold.likely_tokens
        free, free_tokens = self.top_nanousd - money, self.top_tokens - tokens
        if account.warned:
            return free, free_tokens, free, free_tokens
        return (
            free,
            free_tokens,
            min(free, self.warn_nanousd - money),
            min(free_tokens, self.warn_tokens - tokens),
        )


NO_LIMIT = 1 << 62
_UNLIMITED = AccountPlan()


class Tab:
    """What the attempts of one team, agent, workflow, pool and model do to their accounts, posted in batches.

    Beside it, how much they may hold without asking the accounts again: that is set aside on each of them.
    """

    __slots__ = (
        "aside_nanousd",
        "aside_tokens",
        "credit_nanousd",
        "credit_tokens",
        "held_nanousd",
        "held_tokens",
        "lent",
        "open",
        "purses",
        "simple",
        "spent_nanousd",
        "spent_tokens",
        "until_us",
        "window_us",
    )

    def __init__(self, purses: list[Purse]) -> None:
        self.purses = purses
        self.simple = all(purse.strict for purse in purses)
        """Nothing but worst cases counts."""
        self.window_us = self.until_us = 0
        """Where the present windows of all of them meet."""
        self.held_nanousd = self.held_tokens = self.spent_nanousd = self.spent_tokens = 0
        """Not posted yet."""
        self.credit_nanousd = self.credit_tokens = 0
        self.aside_nanousd = self.aside_tokens = 0
        """The credit that was given, used or not, and the hold with which it was given."""
        self.lent = False
        """It has credit: what it holds is set aside already."""
        self.open = False
        """There is something to post, or to give back."""


SHARE_OF_CREDIT = 16
"""A tab is given so small a part of what is free at once."""


class Accounts(msgspec.Struct):
    """All accounts of a partition."""

    posted: dict[str, Account] = {}
    experiences: dict[str, Experience] = {}
    """By ``model/…`` and ``tool/…``."""
    wall_us: int = 0
    """The latest time at which something was held: windows never move back behind it."""
    purses: dict[str, Purse] = {}
    """By name. An index, as the next ones."""
    tabs: dict[tuple[str, str, str, str, str], Tab] = {}
    """By what ``names_of`` looks at."""
    unposted: list[Tab] = []
    plans: InForce | None = None
    bounded: bool = False
    """Some account has a limit."""

    @property
    def by_name(self) -> dict[str, Account]:
        """Every account, as of now."""
        self.post()
        return self.posted

    def get(self, name: str) -> Account:
        """An account, as of now."""
        self.post()
        return self._account(name)

    def _account(self, name: str) -> Account:
        account = self.posted.get(name)
        if account is None:
            account = self.posted[name] = Account(name)
        return account

    def replan(self, force: InForce) -> None:
        """Other limits are in force."""
        self.post()
        self.plans, self.purses, self.tabs = force, {}, {}
        self.bounded = force.limits_accounts

    def of(self, root: Run, pool: str, subject: str) -> list[Purse]:
        """What an attempt in a pool, of a model or tool, is charged to, as of now."""
        self.post()
        return self._tab(root, pool, subject).purses

    def _tab(self, root: Run, pool: str, subject: str) -> Tab:
        key = (root.team, root.agent, root.graph_name, pool, subject)
        tab = self.tabs.get(key)
        if tab is None:
            tab = self.tabs[key] = Tab([self._purse(name) for name in names_of(root, pool, subject)])
        return tab

    def _purse(self, name: str) -> Purse:
        purse = self.purses.get(name)
        if purse is None:
            plan = self.plans.account(name) if self.plans is not None else None
            purse = self.purses[name] = Purse(self._account(name), plan)
        return purse

    # --- posting -----------------------------------------------------------------------------------

    def post(self) -> None:
        """Bring every account up to date; no tab has credit after it."""
        tabs, self.unposted = self.unposted, []
        for tab in tabs:
            self._post(tab)

    def _post(self, tab: Tab) -> None:
        for purse in tab.purses:
            purse.aside_nanousd -= tab.aside_nanousd
            purse.aside_tokens -= tab.aside_tokens
            if tab.held_nanousd or tab.held_tokens or tab.spent_nanousd or tab.spent_tokens:
                ledger = purse.account.at(tab.window_us)
                ledger.held_nanousd += tab.held_nanousd
                ledger.held_tokens += tab.held_tokens
                ledger.spent_nanousd += tab.spent_nanousd
                ledger.spent_tokens += tab.spent_tokens
        tab.held_nanousd = tab.held_tokens = tab.spent_nanousd = tab.spent_tokens = 0
        tab.credit_nanousd = tab.credit_tokens = tab.aside_nanousd = tab.aside_tokens = 0
        tab.open = tab.lent = False

    def _open(self, tab: Tab) -> None:
        if not tab.open:
            tab.open = True
            self.unposted.append(tab)

    def _turn(self, tab: Tab, at_us: int) -> None:
        """A window has begun: what was noted belongs to the ones before."""
        self.post()
        bounds = [window(purse.name, at_us) for purse in tab.purses]
        tab.window_us = max(begin for begin, _ in bounds)
        tab.until_us = min(end for _, end in bounds)

    # --- holding and settling ------------------------------------------------------------------------

    def fits(self, root: Run, hold: Hold) -> bool:
        """Whether every account above a run has room for a hold, no allowance counted."""
        tab = self._tab(root, hold.pool, hold.subject)
        nanousd, tokens = hold.nanousd, hold.tokens
        if (
            nanousd <= tab.credit_nanousd
            and tokens <= tab.credit_tokens
            and tab.window_us <= hold.at_us < tab.until_us
        ):
            tab.credit_nanousd -= nanousd
            tab.credit_tokens -= tokens
            return True
        if self._has_room(tab, hold):
            return True
        # What others have set aside may be enough.
        self.post()
        return self._has_room(tab, hold)

    def _has_room(self, tab: Tab, hold: Hold) -> bool:
        """Ask every account, and take credit for the next ones if there is plenty."""
        if tab.open:
            self.unposted.remove(tab)
            self._post(tab)
        nanousd = tokens = NO_LIMIT
        for purse in tab.purses:
            free, free_tokens, plenty, plenty_tokens = purse.room(hold)
            if free < 0 or free_tokens < 0:
                return False
            nanousd, tokens = min(nanousd, plenty), min(tokens, plenty_tokens)
        if tab.simple and tab.window_us <= hold.at_us < tab.until_us:
            self._give(tab, hold, nanousd // SHARE_OF_CREDIT, tokens // SHARE_OF_CREDIT)
        return True

    def _give(self, tab: Tab, hold: Hold, nanousd: int, tokens: int) -> None:
        """Set a hold aside, and credit for others after it."""
        if nanousd <= 0 or tokens < 0:
            return
        tab.credit_nanousd, tab.credit_tokens = nanousd, tokens
        tab.aside_nanousd, tab.aside_tokens = nanousd + hold.nanousd, tokens + hold.tokens
        for purse in tab.purses:
            purse.aside_nanousd += tab.aside_nanousd
            purse.aside_tokens += tab.aside_tokens
        tab.lent = True
        self._open(tab)

    def hold(self, root: Run, hold: Hold) -> None:
        """An attempt began."""
        at_us = hold.at_us
        if at_us > self.wall_us:
            self.wall_us = at_us
        tab = self._tab(root, hold.pool, hold.subject)
        if at_us >= tab.until_us:
            self._turn(tab, at_us)
        if tab.simple and at_us >= tab.window_us and (tab.lent or not self.bounded):
            tab.held_nanousd += hold.nanousd
            tab.held_tokens += hold.tokens
            if not tab.open:
                self._open(tab)
        else:
            self._note(tab, hold, 1, 0, 0)

    def settle(self, root: Run, hold: Hold, nanousd: int, tokens: int) -> None:
        """An attempt is over, or never ran: what it held is free, and what it cost is spent."""
        tab = self._tab(root, hold.pool, hold.subject)
        within = tab.simple and tab.window_us <= hold.at_us < tab.until_us
        if within and nanousd <= hold.nanousd and tokens <= hold.tokens:
            tab.held_nanousd -= hold.nanousd
            tab.held_tokens -= hold.tokens
            tab.spent_nanousd += nanousd
            tab.spent_tokens += tokens
            if not tab.open:
                self._open(tab)
        else:
            self._note(tab, hold, -1, nanousd, tokens)

    def _note(self, tab: Tab, hold: Hold, sign: int, nanousd: int, tokens: int) -> None:
        """Post at once."""
        self.post()
        for purse in tab.purses:
            ledger = purse.account.at(hold.at_us)
            ledger.held_nanousd += sign * hold.nanousd
            ledger.held_tokens += sign * hold.tokens
            ledger.spent_nanousd += nanousd
            ledger.spent_tokens += tokens
            if not purse.strict:
                ledger.likely_nanousd += sign * hold.likely_nanousd
                ledger.likely_tokens += sign * hold.likely_tokens

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
        self.post()
        for account in self.posted.values():
            for ledger in (account.present, *account.past.values()):
                ledger.held_nanousd = ledger.held_tokens = 0
                ledger.likely_nanousd = ledger.likely_tokens = 0
        for root, hold in held:
            self.hold(root, hold)

    def due_for_warning(self, root: Run, hold: Hold) -> list[Purse]:
        """Those that have spent most of their limit in the present window, and nobody was told."""
        tab = self._tab(root, hold.pool, hold.subject)
        if tab.credit_nanousd:
            return []  # a warning is further away than that
        return [purse for purse in self.of(root, hold.pool, hold.subject) if purse.is_due]

    def facts(self) -> Accounts:
        """What a snapshot keeps."""
        return Accounts(self.by_name, self.experiences, self.wall_us)


def tokens_of(usage: Usage | None) -> int:
    """Tokens that a call was billed for."""
    return usage.input_tokens + usage.output_tokens if usage is not None else 0
