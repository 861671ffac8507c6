"""What every account was charged, by window, counted from durable events without the core's accounts.

Windows are those of the standard library's calendar. An account that nobody changed is never above its limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from hive_ray.core import events as ev
from hive_ray.core.accounts import Account, Ledger
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import AttemptRef
from hive_ray.core.holds import Hold
from hive_ray.core.plan import Action, ControlPlan
from hive_ray.core.plan import patterns as plan_patterns

Window = tuple[str, datetime]


class Purses:
    """Held and spent by account and window."""

    def __init__(self, plan: ControlPlan) -> None:
        self._plan = plan
        self._owners: dict[str, tuple[str, str, str]] = {}
        """Root run to team, agent and workflow."""
        self._roots: dict[str, str] = {}
        self._holds: dict[AttemptRef, Hold] = {}
        self.spent: dict[Window, int] = {}
        self.held: dict[Window, int] = {}
        self.changed: dict[str, None] = {}
        """Accounts whose limits somebody changed."""

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

    def change(self, account: str) -> None:
        """Somebody changed its limits, or those of all that a pattern stands for."""
        self.changed[account] = None

    def _free(self, key: AttemptRef) -> None:
        hold = self._holds.get(key)
        if hold is not None:
            for window in self._windows(key[0], hold):
                self.held[window] -= hold.nanousd

    def _windows(self, run: str, hold: Hold) -> list[Window]:
        team, agent, workflow = self._owners[self._roots[run]]
        names = [f"team/{team}", f"agent/{team}/{agent}", f"workflow/{team}/{workflow}"]
        names += [f"pool/{hold.pool}"] if hold.pool else []
        names += [hold.subject] if hold.subject else []
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=hold.at_us)
        return [(name, _begin(name, time)) for name in names]

    def _check(self, window: Window) -> None:
        name = window[0]
        patterns = plan_patterns(name)
        plan = next((self._plan.accounts[one] for one in patterns if one in self._plan.accounts), None)
        if plan is None or plan.nanousd < 0 or plan.action != Action.STOP:
            return
        if any(one in self.changed for one in patterns):
            return
        used = self.spent.get(window, 0) + self.held.get(window, 0)
        assert used <= plan.nanousd, f"{name} has spent and holds {used}, its limit is {plan.nanousd}"

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
