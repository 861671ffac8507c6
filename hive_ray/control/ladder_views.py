"""What the outside sees of degrade ladders."""

from __future__ import annotations

import msgspec

from hive_ray.control.views import Answer
from hive_ray.core.commands import Refused
from hive_ray.core.engine import Engine
from hive_ray.core.ladder import LadderPlan, Rung, Tally, lowered


class LadderView(msgspec.Struct, frozen=True):
    """Where a model stands on its ladder. Times in microseconds."""

    model: str
    level: int
    """Rungs down; 0: what graphs ask for is asked."""
    since_us: int
    """Epoch; 0: it never moved."""
    reason: str
    """Of the last step, down or up."""
    asked: Rung
    """What is different at this level."""
    window: Tally
    """Calls of this level in the ladder's window."""
    trials: Tally
    """The last calls that were made as if one rung higher."""
    plan: LadderPlan


class GetLadder(msgspec.Struct, frozen=True, tag=True):
    """The ladder of a model."""

    model: str

    def look(self, engine: Engine) -> Answer:
        plan = engine.force.plan.ladders.get(self.model)
        if plan is None:
            known = ", ".join(sorted(engine.force.plan.ladders)) or "none"
            message = f"model {self.model} has no ladder; these do: {known}"
            return Answer(refused=Refused("not_found", message))
        return Answer(_ladder_view(engine, self.model, plan))


class ListLadders(msgspec.Struct, frozen=True, tag=True):
    """All ladders, by the name of the model that graphs ask for."""

    def look(self, engine: Engine) -> Answer:
        return Answer([_ladder_view(engine, *item) for item in sorted(engine.force.plan.ladders.items())])


LadderQuery = GetLadder | ListLadders


def _ladder_view(engine: Engine, model: str, plan: LadderPlan) -> LadderView:
    stands = engine.lowering.level(model)
    # Until it moves again, a model may stand lower than a ladder that has been made shorter reaches.
    level = min(stands.level, len(plan.rungs))
    window, trials = engine.lowering.seen(model, plan.window_us)
    asked = lowered(plan.rungs[:level])
    return LadderView(model, level, stands.since_us, stands.reason, asked, window, trials, plan)
