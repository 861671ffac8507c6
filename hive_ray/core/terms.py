"""On what terms a step is about to start: which model or tool, with how much of everything."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hive_ray.core.ladder import Lowered
from hive_ray.core.messages import ASKS_MODEL, StepKind, Turn, subject_of
from hive_ray.core.run import Step, Visit
from hive_ray.core.standing_in import model_of
from hive_ray.graph.compiled import ModelPlan, NodePlan

# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_FUNCTION = StepKind.FUNCTION


class Terms(msgspec.Struct, frozen=True, gc=False):
    """Of one attempt."""

    name: str
    """The model, tool or function."""
    subject: str
    """``model/NAME`` or ``tool/NAME``; empty for functions."""
    model: ModelPlan | None = None
    """Of a step that asks one."""
    said: Sequence[Turn] = ()
    """The conversation as far as it is shown."""
    lowered: Lowered | None = None
    """What a ladder made different."""
    scoped: bool = False
    """There is little room: of long-term memory only what the prompts name is shown."""

    @property
    def dropped(self) -> int:
        """Entries of the conversation that are left out."""
        return self.lowered.dropped if self.lowered is not None else 0


def terms_of(node: NodePlan, visit: Visit, step: Step) -> Terms:
    """As the graph has it."""
    kind = step.kind
    if kind is _FUNCTION:
        return Terms(step.name, "")
    subject = subject_of(kind, step.name)
    if kind not in ASKS_MODEL:
        return Terms(step.name, subject)
    said = visit.loop.conversation if visit.loop is not None and step.kind is StepKind.LLM else ()
    return Terms(step.name, subject, model_of(node, visit), said)


def priced(model: ModelPlan, other: ModelPlan, max_tokens: int) -> ModelPlan:
    """A model's plan with another model in its place.

    Args:
        other: name, prices, and the most output tokens of the other one.
        max_tokens: at most so many; 0: no further bound.
    """
    bounds = [one for one in (model.max_tokens, other.max_tokens, max_tokens) if one]
    return msgspec.structs.replace(
        model,
        model=other.model,
        max_tokens=min(bounds),
        input_nanousd_per_mtok=other.input_nanousd_per_mtok,
        output_nanousd_per_mtok=other.output_nanousd_per_mtok,
    )
