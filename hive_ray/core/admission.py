"""Admission of a step: one atomic decision. All that it needs is taken, or nothing is.

The answer is ``Granted``, ``Wait`` (something that others hold must be released first, or time must pass),
``Refusal`` (nothing can help), or ``Ask`` (a person can).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hive_ray.core import bounds
from hive_ray.core.accounts import Account, Accounts, Ledger
from hive_ray.core.failures import FailureKind
from hive_ray.core.holds import Hold
from hive_ray.core.messages import StepKind
from hive_ray.core.plan import AccountPlan, Action
from hive_ray.core.run import Allowance, Run, Step, Visit
from hive_ray.core.standing_in import tool_of
from hive_ray.core.terms import Terms
from hive_ray.core.values import Value, inline
from hive_ray.graph.asking import AskPlan
from hive_ray.graph.compiled import ModelPlan, NodePlan

MTOK = 1_000_000
_NO_ALLOWANCE = Allowance()
# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_ASKS_MODEL = (StepKind.LLM, StepKind.DECIDE)


class Granted(msgspec.Struct, frozen=True):
    reserved_nanousd: int
    hold: Hold | None = None


class Wait(msgspec.Struct, frozen=True):
    resource: str
    due_us: int = 0
    """Monotonic time at which it may be there; 0: when somebody releases it."""


class Refusal(msgspec.Struct, frozen=True):
    """The step may never start."""

    kind: str
    """A ``FailureKind``."""
    message: str


class Ask(msgspec.Struct, frozen=True):
    """The step may start if a person allows it."""

    reason: str
    message: str
    owner: str = ""
    """In the place of the first one that is asked by default."""
    form: bytes = b""
    shown: dict[str, Value] = {}
    asks: AskPlan | None = None
    """Who is asked; None: whoever is by default."""


Verdict = Wait | Refusal | Ask


class Worst(msgspec.Struct, frozen=True, gc=False):
    """Strict upper bound on what an attempt can use."""

    nanousd: int
    tokens: int


def worst_case(
    run: Run, node: NodePlan, visit: Visit, step: Step, inputs: dict[str, Value], terms: Terms
) -> Worst:
    """Strict upper bound on what an attempt can cost, in nano-dollars, and on its tokens."""
    if step.kind in _ASKS_MODEL:
        model = terms.model
        if model is None:
            return Worst(0, 0)
        tokens = bounds.prompt_tokens(run, node, visit, step, inputs, terms)
        return Worst(price(model, tokens), tokens + model.max_tokens)
    tool = tool_of(node, step)
    if step.turn >= 0 or tool is not None:
        return Worst(tool.cost_nanousd if tool is not None else 0, 0)
    return Worst(node.cost_nanousd, 0)


def price(model: ModelPlan, tokens: int) -> int:
    """Nano-dollars of a call with so many tokens of input and as many of output as it may have."""
    nanousd = tokens * model.input_nanousd_per_mtok + model.max_tokens * model.output_nanousd_per_mtok
    return -(-nanousd // MTOK)


def stopped(stops: dict[str, str], names: Sequence[str]) -> Wait | None:
    """Whether the spending of somebody that a step counts for was stopped."""
    for name in names:
        if name in stops:
            return Wait(f"stopped/{name}")
    return None


def admit_to_run(root: Run, worst: int) -> Verdict | None:
    """Decide over one step's worst case against the ceiling of the run that pays."""
    if root.budget_nanousd < 0 or worst == 0:
        return None
    allowed = root.budget_nanousd + root.allowances.get(f"run/{root.id}", _NO_ALLOWANCE).nanousd
    # A sum below 0, where a late outcome came after a correction of the whole run, is no money to spend.
    free = allowed - max(root.spent_nanousd, 0)
    if worst > free:
        message = (
            f"the run's budget is {dollars(allowed)}, {dollars(root.spent_nanousd)} is spent, and "
            f"this step can cost up to {dollars(worst)}; raise budget_usd or lower max_tokens"
        )
        return Refusal(FailureKind.BUDGET_EXCEEDED, message)
    if worst > free - root.reserved_nanousd:
        return Wait(f"run/{root.id}")
    return None


def admit_to_accounts(accounts: Accounts, root: Run, hold: Hold) -> Verdict | None:
    """Decide over a hold against every account above a run; a wait only where none is exhausted."""
    if accounts.fits(root, hold):
        return None
    wait: Wait | None = None
    for purse in accounts.of(root, hold.pool, hold.subject):
        plan = purse.plan
        if plan is None or plan.action == Action.DEGRADE:
            continue
        verdict = _fits(purse.account, plan, purse.account.seen_at(hold.at_us), root, hold)
        if isinstance(verdict, Wait):
            wait = wait or verdict
        elif verdict is not None:
            return verdict
    return wait


def _fits(account: Account, plan: AccountPlan, ledger: Ledger, root: Run, hold: Hold) -> Verdict | None:
    more = root.allowances.get(account.name, _NO_ALLOWANCE)
    strict = plan.action == Action.STOP
    waits = False
    if plan.nanousd >= 0:
        wanted = hold.nanousd if strict else hold.likely_nanousd
        held = ledger.held_nanousd if strict else ledger.likely_nanousd
        free = plan.nanousd + more.nanousd - max(ledger.spent_nanousd, 0)
        if wanted > free:
            spent = f"{dollars(ledger.spent_nanousd)} of {dollars(plan.nanousd + more.nanousd)}"
            return _exhausted(account, plan, spent, dollars(wanted), (wanted - free, 0))
        waits = wanted > free - held
    if plan.tokens >= 0:
        wanted = hold.tokens if strict else hold.likely_tokens
        held = ledger.held_tokens if strict else ledger.likely_tokens
        free = plan.tokens + more.tokens - max(ledger.spent_tokens, 0)
        if wanted > free:
            spent = f"{ledger.spent_tokens} of {plan.tokens + more.tokens} tokens"
            return _exhausted(account, plan, spent, f"{wanted} tokens", (0, wanted - free))
        waits = waits or wanted > free - held
    return Wait(account.name) if waits else None


def _exhausted(
    account: Account, plan: AccountPlan, spent: str, wanted: str, needed: tuple[int, int]
) -> Verdict:
    message = f"the budget {account.name} has spent {spent} in its window, and this step can take {wanted}"
    if plan.action == Action.PAUSE:
        shown = {"account": account.name, "needed_nanousd": needed[0], "needed_tokens": needed[1]}
        values = {key: inline(value) for key, value in shown.items()}
        return Ask("budget", f"{message}. May this run go beyond it?", plan.owner, _RAISE_FORM, values)
    return Refusal(FailureKind.BUDGET_EXCEEDED, f"{message}; raise its limit or wait for its next window")


_RAISE_FORM = msgspec.json.encode(
    {
        "type": "object",
        "properties": {
            "usd": {"type": "number", "exclusiveMinimum": 0, "description": "US dollars beyond the limit"},
            "tokens": {"type": "integer", "minimum": 1, "description": "tokens beyond the limit"},
        },
        "additionalProperties": False,
    }
)


def dollars(nanousd: int) -> str:
    """Exact text of an amount: ``0.25 USD``."""
    whole, rest = divmod(nanousd, 1_000_000_000)
    digits = f"{rest:09d}".rstrip("0")
    return f"{whole}.{digits or '0'} USD"
