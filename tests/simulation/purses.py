"""What every account was charged, by window, counted from durable events without the core's accounts.

Windows are those of the standard library's calendar. An account that stops at its limit is never above the
highest that it ever had.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hive_ray.core import events as ev
from hive_ray.core.accounts import Account, Ledger
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.holds import Hold
from hive_ray.core.plan import AccountPlan, Action, ControlPlan
from hive_ray.core.plan import patterns as plan_patterns

Window = tuple[str, datetime]
HOUR_US = 3_600_000_000
"""The shortest window; the others begin with one."""
NO_LIMIT = 1 << 62


class Purses:
    """Held and spent by account and window."""

    def __init__(self, plan: ControlPlan) -> None:
        self._plan = plan
        self._owners: dict[str, tuple[str, str, str]] = {}
        """Root run to team, agent and workflow."""
        self._roots: dict[str, str] = {}
        self._holds: dict[AttemptRef, Hold] = {}
        self._found: dict[tuple[str, str, str, int], list[Window]] = {}
        """Windows by root run, pool, subject and hour."""
        self._made: dict[str, AccountPlan] = {}
        """Limits that somebody changed, by account or pattern."""
        self._limits: dict[str, int] = {}
        """The most that each account was ever allowed."""
        self.spent: dict[Window, int] = {}
        self.held: dict[Window, int] = {}
        self.changed: dict[str, None] = {}
        """Accounts that somebody let pass their limits."""

    def submitted(self, event: ev.RunSubmitted | ev.RunForked) -> None:
        parent = event.parent if isinstance(event, ev.RunSubmitted) else ""
        self._roots[event.run] = self._roots.get(parent, event.run)
        if not parent:
            self._owners[event.run] = (event.team, event.agent, event.graph_name)

    def started(self, key: AttemptRef, hold: Hold | None) -> None:
        if hold is None:
            return
        self._holds[key] = hold
        for window in self._windows(key[0], hold):
            self.held[window] = self.held.get(window, 0) + hold.nanousd
            self._check(window)

    def returned(self, key: AttemptRef) -> None:
        self._free(key)
        self._holds.pop(key, None)

    def settled(self, key: AttemptRef, first: bool, nanousd: int) -> None:
        """An end of an attempt became durable; ``first``: until now it was under way."""
        if first:
            self._free(key)
        hold = self._holds.get(key)
        if hold is None:
            assert not nanousd, f"{key} held nothing and cost {nanousd}"
            return
        for window in self._windows(key[0], hold):
            self.spent[window] = self.spent.get(window, 0) + nanousd
            self._check(window)

    def corrected(self, key: AttemptRef, unseen: bool, nanousd: int, at_us: int) -> None:
        """Somebody says what an attempt, or a run as a whole, did cost; people may pass a limit so."""
        hold = self._holds.get(key) if unseen else None
        for window in self._windows(key[0], hold or Hold(at_us=at_us)):
            self.spent[window] = self.spent.get(window, 0) + nanousd
            self.changed[window[0]] = None

    def let_beyond(self, account: str) -> None:
        """Somebody lets a run spend more than the limit."""
        self.changed[account] = None

    def limit(self, account: str, plan: AccountPlan | None) -> None:
        """Somebody changed its limits, or those that a pattern stands for; None: back to the plan."""
        if plan is None:
            self._made.pop(account, None)
        else:
            self._made[account] = plan
        for name, most in self._limits.items():
            self._limits[name] = max(most, self._limit(name))

    def _free(self, key: AttemptRef) -> None:
        hold = self._holds.get(key)
        if hold is not None:
            for window in self._windows(key[0], hold):
                self.held[window] -= hold.nanousd

    def _windows(self, run: str, hold: Hold) -> list[Window]:
        root = self._roots[run]
        key = (root, hold.pool, hold.subject, hold.at_us // HOUR_US)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._find(root, hold)
        return found

    def _find(self, root: str, hold: Hold) -> list[Window]:
        team, agent, workflow = self._owners[root]
        names = [f"team/{team}", f"agent/{team}/{agent}", f"workflow/{team}/{workflow}"]
        names += [f"pool/{hold.pool}"] if hold.pool else []
        names += [hold.subject] if hold.subject else []
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=hold.at_us)
        return [(name, _begin(name, time)) for name in names]

    def _check(self, window: Window) -> None:
        name = window[0]
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = self._limit(name)
        used = self.spent.get(window, 0) + self.held.get(window, 0)
        assert used <= limit or name in self.changed, (
            f"{name} has spent and holds {used}, its limit is {limit}"
        )

    def _limit(self, name: str) -> int:
        """What an account may spend now."""
        for pattern in plan_patterns(name):
            plan = self._made.get(pattern) or self._plan.accounts.get(pattern)
            if plan is not None:
                return plan.nanousd if plan.nanousd >= 0 and plan.action == Action.STOP else NO_LIMIT
        return NO_LIMIT

    def compare(self, engine: Engine) -> None:
        """The core's accounts, which remember some windows, say the same."""
        for name, account in engine.fleet.accounts.by_name.items():
            for begin, ledger in _ledgers(account):
                window = (name, begin)
                told = (ledger.spent_nanousd, ledger.held_nanousd)
                counted = (self.spent.get(window, 0), self.held.get(window, 0))
                assert told == counted, f"{name} from {begin}: {told} in the state, {counted} in the journal"


def _ledgers(account: Account) -> Iterator[tuple[datetime, Ledger]]:
    for begin_us, ledger in ((account.window_us, account.present), *account.past.items()):
        yield datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=begin_us), ledger


def _begin(name: str, time: datetime) -> datetime:
    hour = time.replace(minute=0, second=0, microsecond=0)
    kind = name.partition("/")[0]
    if kind in ("team", "workflow"):
        return hour.replace(day=1, hour=0)
    return hour.replace(hour=0) if kind == "agent" else hour
