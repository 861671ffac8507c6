"""``hive.yaml`` made into the plan that the core decides by."""

from __future__ import annotations

import hashlib
from decimal import Decimal

from hive_ray.config import ModelSettings, Settings
from hive_ray.config_approvals import ApprovalsSettings
from hive_ray.config_breakers import BreakerSettings
from hive_ray.config_budgets import BudgetSettings
from hive_ray.config_hooks import HooksSettings
from hive_ray.config_ladders import LadderSettings
from hive_ray.core.breakers import BreakerPlan
from hive_ray.core.commands import ApplyPlan
from hive_ray.core.hooks import HookPlan, HooksPlan
from hive_ray.core.ladder import LadderPlan, Rung
from hive_ray.core.plan import CLASSES, AccountPlan, ControlPlan, RatePlan, encode_plan
from hive_ray.errors import ConfigError, Fault
from hive_ray.graph.asking import ApprovalsPlan, Asked, AskPlan, Final, chain_of
from hive_ray.graph.compiled import ModelPlan
from hive_ray.graph.rules import plan_rules
from hive_ray.prices import price_of

_OF_POOLS = ("usd_per_hour", "requests_per_minute", "tokens_per_minute", "spare_slots")
_OF_MODELS = ("usd_per_hour", "requests_per_minute", "tokens_per_minute")
LIVE = (
    *("budgets", "rates", "parallel_runs", "shares"),
    *("breakers", "ladders", "policies", "retries.longest_wait_s"),
    *(f"pools.*.{key}" for key in _OF_POOLS),
    *(f"models.*.{key}" for key in _OF_MODELS),
)
"""The keys that nobody but ``plan_of`` reads: a change of them holds at once. ``*`` stands for any name."""


def plan_of(settings: Settings) -> ControlPlan:
    """Everything that the settings say about control.

    Raises:
        ConfigError: every fault of every policy.
    """
    approvals = _approvals(settings.approvals)
    return ControlPlan(
        accounts=_hourly(settings) | {name: _account(one) for name, one in settings.budgets.items()},
        rates=_rates(settings),
        runs=dict(settings.parallel_runs),
        spare_slots={name: pool.spare_slots for name, pool in settings.pools.items() if pool.spare_slots},
        weights=dict(settings.shares.weights),
        priorities={name: CLASSES.index(one) for name, one in settings.shares.priorities.items()},
        ladders={name: _ladder(one) for name, one in settings.ladders.items()},
        models=_models(settings),
        breakers={name: _breaker(one) for name, one in settings.breakers.items()},
        longest_wait_us=round(settings.retries.longest_wait_s * 1e6),
        approvals=approvals,
        policies=plan_rules(settings.policies.rules, _kinds_of_pools(settings), approvals.asks),
        hooks=_hooks(settings.hooks),
    )


def _kinds_of_pools(settings: Settings) -> dict[str, str]:
    return {name: pool.kind for name, pool in settings.pools.items()}


def apply_plan(settings: Settings, principal: str) -> ApplyPlan:
    """The command that puts the settings' plan in force; the same settings give the same digest."""
    data = encode_plan(plan_of(settings))
    return ApplyPlan(data, hashlib.sha256(data).hexdigest(), principal)


def _approvals(settings: ApprovalsSettings) -> ApprovalsPlan:
    chain = chain_of(
        settings.owner,
        round(settings.default_deadline_s * 1e6),
        [Asked(step.owner, round(step.after_s * 1e6)) for step in settings.escalate],
    )
    return ApprovalsPlan(AskPlan(chain, Final(settings.final), settings.four_eyes), settings.single_user)


def _hooks(settings: HooksSettings) -> HooksPlan:
    """Secrets stay with whoever sends."""
    to = tuple(HookPlan(hook.name, hook.url, hook.events, hook.teams) for hook in settings.to)
    return HooksPlan(to, settings.attempts, round(settings.first_retry_s * 1e6))


def _account(settings: BudgetSettings) -> AccountPlan:
    return AccountPlan(
        -1 if settings.usd is None else _nanousd(settings.usd),
        -1 if settings.tokens is None else settings.tokens,
        settings.at_limit,
        settings.warn_percent,
        settings.owner,
    )


def _hourly(settings: Settings) -> dict[str, AccountPlan]:
    """``usd_per_hour`` of pools and models are budgets whose window is an hour."""
    found = {f"pool/{name}": pool.usd_per_hour for name, pool in settings.pools.items()}
    found |= {f"model/{name}": model.usd_per_hour for name, model in settings.models.items()}
    return {name: AccountPlan(_nanousd(usd)) for name, usd in found.items() if usd is not None}


def _rates(settings: Settings) -> dict[str, RatePlan]:
    """What pools and models say of themselves, unless ``rates`` names them."""
    own = [(f"pool/{name}", pool) for name, pool in settings.pools.items()]
    own += [(f"model/{name}", model) for name, model in settings.models.items()]
    named = [*own, *settings.rates.items()]
    rates = {name: RatePlan(one.requests_per_minute, one.tokens_per_minute) for name, one in named}
    return {name: rate for name, rate in rates.items() if rate != RatePlan()}


def _ladder(settings: LadderSettings) -> LadderPlan:
    return LadderPlan(
        tuple(
            Rung(one.model, one.max_tokens, one.context_bytes, one.budget_percent) for one in settings.rungs
        ),
        round(settings.window_s * 1e6),
        settings.min_calls,
        round(settings.latency_p95_s * 1e6),
        settings.error_percent,
        settings.recover_percent,
        round(settings.calm_s * 1e6),
    )


def _models(settings: Settings) -> dict[str, ModelPlan]:
    """The models that ladders step down to.

    Raises:
        ConfigError: a ladder of, or a step down to, a model that is not there, or one without a price.
    """
    found: dict[str, ModelPlan] = {}
    faults: list[Fault] = []
    for name, ladder in settings.ladders.items():
        known = ", ".join(settings.models) or "none is configured"
        if name not in settings.models:
            faults.append(Fault(f"ladders.{name}", "no model has this name", f"models: {known}"))
        for index, rung in enumerate(ladder.rungs):
            place = f"ladders.{name}.rungs.{index}.model"
            if rung.model and rung.model not in settings.models:
                faults.append(Fault(place, f"no model {rung.model!r}", f"models: {known}"))
            elif rung.model and rung.model not in found:
                found |= _model(rung.model, settings.models[rung.model], place, faults)
    if faults:
        raise ConfigError("ladders", faults)
    return found


def _model(name: str, model: ModelSettings, place: str, faults: list[Fault]) -> dict[str, ModelPlan]:
    prices = price_of(model)
    if prices is None:
        remedy = f"give models.{name} a price; an explicit 0 is a price"
        faults.append(Fault(place, f"the model {name!r} has no price", remedy))
        return {}
    return {name: ModelPlan(name, model.max_tokens, 0, prices.dearest_input, prices.dearest_output)}


def _breaker(settings: BreakerSettings) -> BreakerPlan:
    return BreakerPlan(
        round(settings.window_s * 1e6),
        settings.min_calls,
        settings.failure_percent,
        round(settings.slow_s * 1e6),
        settings.slow_percent,
        round(settings.open_s * 1e6),
        settings.failures,
    )


def _nanousd(usd: Decimal) -> int:
    # Nine decimal places at most, so the product is a whole number.
    return int(usd * 1_000_000_000)
