"""What an installation says about control: limits, shares, and whatever else decisions rest on.

``control.planning`` makes it from ``hive.yaml``. The plan in force stands in the journal, and what people
changed since stands beside it, so that a decision can be explained later by what was in force then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from hive_ray.core.breakers import BreakerPlan
from hive_ray.core.hooks import HooksPlan
from hive_ray.core.ladder import LadderPlan
from hive_ray.core.policies import Policies
from hive_ray.graph.asking import ApprovalsPlan
from hive_ray.graph.compiled import ModelPlan
from hive_ray.graph.policies import RulePlan

CLASSES = ("interactive", "normal", "batch")
"""Priority classes, the first is served first."""
NORMAL = 1


LONGEST_WAIT_US = 300_000_000
"""A retry waits no longer, whatever a server asks for, where nothing else is configured."""


class Action:
    """What happens at an account's limit."""

    STOP = "stop"
    """The step fails. What is held is the strict worst case: the limit is never passed."""
    PAUSE = "pause_for_approval"
    """A person may raise the limit for this run. What is held is what such a call has cost so far."""
    DEGRADE = "degrade"
    """Spending goes on, at the bottom of the ladder."""


class AccountPlan(msgspec.Struct, frozen=True, array_like=True):
    """The limits of an account in one window. -1: none."""

    nanousd: int = -1
    tokens: int = -1
    action: str = Action.STOP
    warn_percent: int = 80
    owner: str = ""
    """Whom ``pause_for_approval`` asks."""


class RatePlan(msgspec.Struct, frozen=True, array_like=True):
    """How much may begin in a minute. 0: no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0


class ControlPlan(msgspec.Struct, frozen=True):
    """Everything is by name: ``team/acme``, ``agent/acme/support``, ``workflow/acme/refunds``, ``pool/llm``,
    ``model/small``, ``tool/send_mail``; ``team/*`` and ``agent/acme/*`` stand for those that are not named.
    """

    accounts: dict[str, AccountPlan] = {}
    rates: dict[str, RatePlan] = {}
    """Of pools, models and tools."""
    runs: dict[str, int] = {}
    """Runs under way at a time, of teams and agents."""
    spare_slots: dict[str, int] = {}
    """Of a pool: slots that no team fills which has its share already, while there are other teams."""
    weights: dict[str, int] = {}
    """Shares of teams within a priority class; 1 of those that are not named."""
    priorities: dict[str, int] = {}
    """Class of the runs of an agent or a team that name none, as an index into ``CLASSES``."""
    breakers: dict[str, BreakerPlan] = {}
    """Of models and tools; those that no name or pattern fits have none."""
    ladders: dict[str, LadderPlan] = {}
    """Of models."""
    models: dict[str, ModelPlan] = {}
    """Prices and output tokens of the models that ladders step down to."""
    longest_wait_us: int = LONGEST_WAIT_US
    """A step that is asked to come back later than this is not tried again."""
    policies: tuple[RulePlan, ...] = ()
    """Rules about steps, in order."""
    approvals: ApprovalsPlan = ApprovalsPlan()
    """Questions to people."""
    hooks: HooksPlan = HooksPlan()
    """Who outside is told of what."""

    @property
    def restricts(self) -> bool:
        """Whether anything is forbidden or bounded by it: it must not be left out in silence."""
        return bool(self.accounts or self.rates or self.runs or self.policies)


class Change(msgspec.Struct, frozen=True, array_like=True):
    """Who changed something, and when."""

    principal: str
    at_us: int


class Changes(msgspec.Struct):
    """What people changed since the plan was applied, by name."""

    accounts: dict[str, AccountPlan] = {}
    rates: dict[str, RatePlan] = {}
    runs: dict[str, int] = {}
    by: dict[str, Change] = {}
    """Who it was, by field and name: ``accounts:team/acme``."""


encode_plan = msgspec.msgpack.Encoder(order="deterministic").encode
decode_plan = msgspec.msgpack.Decoder(ControlPlan).decode


def patterns(name: str) -> tuple[str, ...]:
    """What a name is looked up by, the most particular first."""
    kind, _, rest = name.partition("/")
    owner, slash, _ = rest.partition("/")
    return (name, f"{kind}/{owner}/*", f"{kind}/*") if slash else (name, f"{kind}/*")


class InForce:
    """What holds now: the plan and what people changed since, looked up once by name."""

    def __init__(self, plan: ControlPlan, changes: Changes) -> None:
        self.plan = plan
        self._changes = changes
        self._accounts: dict[str, AccountPlan | None] = {}
        self._rates: dict[str, RatePlan | None] = {}
        self._runs: dict[str, int] = {}
        self._breakers: dict[str, BreakerPlan | None] = {}
        self._priorities: dict[tuple[str, str], int] = {}
        self.limits_accounts = bool(plan.accounts or changes.accounts)
        self.limits_rates = bool(plan.rates or changes.rates)
        self.has_ladders = bool(plan.ladders)
        self.limits_runs = bool(plan.runs or changes.runs)
        self.policies = Policies(plan.policies)

    def changed(self, field: str, name: str) -> Change | None:
        """Who changed what holds for a name, itself or by a pattern; None: the plan says so."""
        made: dict[str, object] = getattr(self._changes, field)
        said: dict[str, object] = getattr(self.plan, field)
        for pattern in patterns(name):
            if pattern in made:
                return self._changes.by.get(f"{field}:{pattern}", Change("", 0))
            if pattern in said:
                return None
        return None

    def account(self, name: str) -> AccountPlan | None:
        """The limits of an account; None: it has none."""
        if name not in self._accounts:
            self._accounts[name] = _find(name, self._changes.accounts, self.plan.accounts)
        return self._accounts[name]

    def rate(self, name: str) -> RatePlan | None:
        """The rates of a pool, a model or a tool; None: they are not limited."""
        if name not in self._rates:
            self._rates[name] = _find(name, self._changes.rates, self.plan.rates)
        return self._rates[name]

    def breaker(self, name: str) -> BreakerPlan | None:
        """The breaker of a model or tool; None: it has none."""
        if name not in self._breakers:
            self._breakers[name] = _find(name, {}, self.plan.breakers)
        return self._breakers[name]

    def runs(self, name: str) -> int:
        """How many runs a team or an agent may have under way; 0: any number."""
        if name not in self._runs:
            self._runs[name] = _find(name, self._changes.runs, self.plan.runs) or 0
        return self._runs[name]

    def priority(self, named: int, team: str, agent: str) -> int:
        """The class of a run: as it was named, or as the plan has it for its agent or team."""
        if named >= 0:
            return named
        if (team, agent) not in self._priorities:
            plan = self.plan.priorities
            own = _find(f"agent/{team}/{agent}", {}, plan) if agent else None
            found = own if own is not None else _find(f"team/{team}", {}, plan)
            self._priorities[team, agent] = NORMAL if found is None else found
        return self._priorities[team, agent]


Limit = TypeVar("Limit")


def _find(name: str, changes: Mapping[str, Limit], plan: Mapping[str, Limit]) -> Limit | None:
    """What a person changed goes before the plan, and a name before a pattern."""
    for pattern in patterns(name):
        for named in (changes, plan):
            if pattern in named:
                return named[pattern]
    return None
