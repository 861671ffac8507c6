"""The ladders at work: on what terms a model's steps start, and which rung a model is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hive_ray.core import bounds
from hive_ray.core import events as ev
from hive_ray.core.accounts import Ledger
from hive_ray.core.commands import Moment
from hive_ray.core.context import recent
from hive_ray.core.events import Draft
from hive_ray.core.ladder import (
    BAD,
    LadderPlan,
    Level,
    Lowered,
    Sample,
    Samples,
    Tally,
    is_calm,
    leads_down,
    leads_up,
    level_by_budget,
    lowered,
    tally,
)
from hive_ray.core.messages import ASKS_MODEL, Outcome, StepKind, subject_of
from hive_ray.core.plan import AccountPlan, Action
from hive_ray.core.run import Run, Step, StepStatus, Visit
from hive_ray.core.terms import Terms, priced, terms_of
from hive_ray.graph.compiled import NodePlan

if TYPE_CHECKING:
    from hive_ray.core.engine import Engine

_AT_FIRST = Level()
_NOTHING = Lowered(0)


class Asked(NamedTuple):
    """A step that wants to start."""

    run: Run
    root: Run
    """The run that pays."""
    node: NodePlan
    visit: Visit
    step: Step


class Share(NamedTuple):
    """How much of a budget is spent."""

    account: str = ""
    percent: float = 0.0
    exhausted: bool = False
    """An account that goes on at the bottom of the ladder has nothing left."""


def _percent_spent(plan: AccountPlan, ledger: Ledger) -> float:
    """Of money or of tokens, whichever is more."""
    found = 0.0
    for spent, limit in ((ledger.spent_nanousd, plan.nanousd), (ledger.spent_tokens, plan.tokens)):
        if limit >= 0:
            found = max(found, spent * 100 / limit if limit else 100.0)
    return found


class Attempt(NamedTuple):
    """What is known of an attempt when it ends."""

    model: str
    """The model whose ladder it is about."""
    level: int
    trial: bool


class Lowering:
    """The part of the engine that minds ladders, by the name of the model that a graph asks for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples: dict[str, Samples] = {}
        self._mono_us = 0

    # --- before a step ---------------------------------------------------------------------------

    def terms(self, asked: Asked, least: int, now: Moment) -> Terms:
        """On what terms a step starts now.

        Args:
            least: the level that a policy asks for.
        """
        run, root, node, visit, step = asked
        terms = terms_of(node, visit, step)
        plan = self._engine.force.plan.ladders.get(terms.name) if terms.model is not None else None
        if plan is None:
            return terms
        fleet_level = min(self.level(terms.name).level, len(plan.rungs))
        by_budget, _ = self.own_level(root, step.pool, terms.subject, plan, now)
        own = max(least, run.degraded, root.degraded, by_budget)
        level, trial = max(fleet_level, min(own, len(plan.rungs))), False
        if fleet_level and level == fleet_level and own < fleet_level:
            trial = self._samples_of(terms.name, fleet_level).wants_trial(plan, now.mono_us)
        return self._lower(node, terms, plan, level - trial, trial)

    def own_level(
        self, root: Run, pool: str, subject: str, plan: LadderPlan, now: Moment
    ) -> tuple[int, Share]:
        """The level to which a run's budgets lead, and the budget that does."""
        share = self.share(root, pool, subject, now)
        if share.exhausted:
            return len(plan.rungs), share
        return level_by_budget(plan.rungs, share.percent), share

    def share(self, root: Run, pool: str, subject: str, now: Moment) -> Share:
        """The budget of a run, or of an account above it, of which most is spent."""
        found = Share()
        if root.budget_nanousd > 0:
            found = Share(f"run/{root.id}", root.spent_nanousd * 100 / root.budget_nanousd)
        if not self._engine.force.limits_accounts:
            return found
        accounts = self._engine.fleet.accounts
        at_us = max(now.wall_us, accounts.wall_us)
        for purse in accounts.of(root, pool, subject):
            if purse.plan is None:
                continue
            percent = _percent_spent(purse.plan, purse.account.seen_at(at_us))
            if percent > found.percent:
                exhausted = purse.plan.action == Action.DEGRADE and percent >= 100
                found = Share(purse.name, percent, found.exhausted or exhausted)
        return found

    def _lower(self, node: NodePlan, terms: Terms, plan: LadderPlan, level: int, trial: bool) -> Terms:
        assert terms.model is not None
        rung = lowered(plan.rungs[:level])
        model = priced(terms.model, terms.model, rung.max_tokens)
        name = terms.name
        if rung.model:
            other = self._engine.force.plan.models[rung.model]
            model, name = priced(terms.model, other, rung.max_tokens), rung.model
        shown = recent(terms.said, rung.context_bytes, lambda turn: bounds.turn_bytes(node, turn))
        what = Lowered(level, trial, name if rung.model else "", shown.dropped) if level or trial else None
        subject = subject_of(StepKind.LLM, name)
        return Terms(name, subject, model, shown.turns, what, bool(rung.context_bytes))

    def told(self, root: Run, step: Step, now: Moment) -> list[Draft]:
        """That a run is degraded for its budgets, or no longer: told when a step of it starts."""
        plan = self._engine.force.plan.ladders.get(step.name)
        if plan is None:
            return []
        level, share = self.own_level(root, step.pool, subject_of(step.kind, step.name), plan, now)
        if level == root.lowered.get(step.name, 0):
            return []
        reason = "its budgets have room again"
        if level:
            reason = f"{share.percent:.0f} % of {share.account} is spent"
        return [Draft(ev.RunDegraded(root.id, step.name, level, reason))]

    def begins(self, name: str, terms: Terms, now: Moment) -> None:
        """An attempt is being leased."""
        samples = self._samples.get(name)
        if samples is not None:
            samples.begins(terms.lowered is not None and terms.lowered.trial, now.mono_us)

    # --- after it --------------------------------------------------------------------------------

    def attempt(self, run: Run, outcome: Outcome) -> Attempt | None:
        """An attempt that is about to end, if a ladder is about it."""
        visit = run.visits.get(outcome.serial)
        step = visit.steps.get(outcome.call) if visit is not None else None
        if step is None or step.attempt != outcome.attempt or step.status is not StepStatus.LEASED:
            return None
        if step.kind not in ASKS_MODEL or step.name not in self._engine.force.plan.ladders:
            return None
        made = step.lowered or _NOTHING
        return Attempt(step.name, made.level, made.trial)

    def ended(self, attempt: Attempt, outcome: Outcome, now: Moment) -> None:
        """An attempt has ended: what it took, and whether it speaks against its model."""
        bad = outcome.failure in BAD
        if outcome.failure and not bad:
            return
        level = self.level(attempt.model).level
        if attempt.level != level - attempt.trial:
            return  # It began on another rung: a run's own level, or the one before the last change.
        duration_us = outcome.usage.latency_us if outcome.usage is not None else 0
        self._mono_us = max(self._mono_us, now.mono_us)
        sample = Sample(now.mono_us, duration_us or outcome.duration_us, bad)
        self._samples_of(attempt.model, level).add(sample, attempt.trial)

    def sweep(self, now: Moment) -> None:
        """Go a rung down or up where the last calls say so."""
        self._mono_us = now.mono_us
        for name, plan in self._engine.force.plan.ladders.items():
            self._consider(name, plan, now)
        for name in [name for name, one in self._engine.fleet.ladders.items() if one.level]:
            if name not in self._engine.force.plan.ladders:
                self._engine.record([Draft(ev.ModelRestored("", name, 0, "it has no ladder any more"))], now)

    def _consider(self, name: str, plan: LadderPlan, now: Moment) -> None:
        state = self.level(name)
        level = min(state.level, len(plan.rungs))
        samples = self._samples_of(name, state.level)
        why = leads_down(plan, samples.calls(now.mono_us - plan.window_us)) if level < len(plan.rungs) else ""
        if why:
            asked = lowered(plan.rungs[: level + 1])
            event = ev.ModelDegraded(
                "", name, level + 1, why, asked.model, asked.max_tokens, asked.context_bytes
            )
            self._engine.record([Draft(event)], now)
            return
        up = leads_up(plan, samples.trials) if level else ""
        if up and is_calm(plan, state, now.wall_us):
            self._engine.record([Draft(ev.ModelRestored("", name, level - 1, up))], now)

    def level(self, name: str) -> Level:
        """Where a model stands."""
        return self._engine.fleet.ladders.get(name, _AT_FIRST)

    def seen(self, name: str, window_us: int) -> tuple[Tally, Tally]:
        """What the calls of a model's level came to over a window, and its last trials.

        The window ends when time was looked at last.
        """
        known = self._samples.get(name)
        if known is None or known.level != self.level(name).level:
            return Tally(), Tally()
        return tally(known.calls(self._mono_us - window_us)), tally(known.trials)

    def _samples_of(self, name: str, level: int) -> Samples:
        known = self._samples.get(name)
        if known is None:
            known = self._samples[name] = Samples()
        return known.at(level)
