"""What steps leave behind besides their outputs, artifacts and long-term memory, and what they find there.

The shelves of agents and teams are kept here; a run's own shelf and its artifacts stand in the root run.
"""

from __future__ import annotations

import msgspec

from hive_ray.core import artifacts, features, longterm, remembering
from hive_ray.core import events as ev
from hive_ray.core.commands import Refused
from hive_ray.core.events import Draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import MemoryGiven, Outcome, StepContent
from hive_ray.core.remembering import Denied
from hive_ray.core.run import Run, Step, attempt_key
from hive_ray.core.standing_in import tool_of
from hive_ray.core.values import Value
from hive_ray.graph.compiled import NodePlan

LEVEL = 2
"""Feature level from which a state may hold artifacts and long-term memory."""


class Keeping:
    """The shelves of agents and teams, and the bounds of all that is kept."""

    def __init__(self) -> None:
        self.shelves = longterm.Shelves()
        self.memory = longterm.Bounds()
        self.artifacts = artifacts.ArtifactBounds()

    def find(self, scope: str, owner: str, root: Run | None) -> longterm.Shelf | None:
        """The shelf of an owner; that of a run is in the (root) run itself."""
        return root.shelf if root is not None else self.shelves.find(scope, owner)

    def _finder(self, root: Run) -> remembering.Find:
        """How the steps of a run and of its children find the shelves that they use."""

        def find(scope: str) -> tuple[str, longterm.Shelf | None]:
            owner = longterm.owner_of(scope, root.id, root.team, root.agent)
            return owner, self.find(scope, owner, root if scope == "run" else None)

        return find

    def given(
        self, root: Run, node: NodePlan, step: Step, inputs: dict[str, Value]
    ) -> MemoryGiven | Denied | None:
        """What a step declared that it reads; None if it declared nothing."""
        plans = node.memory
        if step.turn >= 0:
            tool = tool_of(node, step)
            plans += tool.memory if tool is not None else ()
        return remembering.given(plans, inputs, self._finder(root), self.memory) if plans else None

    def bounded(
        self, root: Run, outcome: Outcome, content: StepContent, level: int
    ) -> tuple[Outcome, StepContent]:
        """The outcome of a step, or a failure in its place if what it leaves behind may not stand."""
        denied = self._denied(root, outcome, content, level) if not outcome.failure else None
        if denied is None:
            return outcome, content
        failed = msgspec.structs.replace(outcome, failure=str(denied.kind), content=b"", memory=())
        return failed, StepContent(message=denied.message)

    def _denied(self, root: Run, outcome: Outcome, content: StepContent, level: int) -> Denied | None:
        refused = features.needs(LEVEL, level, "what the step leaves behind (memory or artifacts)")
        if refused is not None:
            return Denied(FailureKind.POLICY_DENIED, refused.message)
        why = artifacts.excess(root.artifacts, content.artifacts, self.artifacts)
        if why:
            return Denied(FailureKind.RESOURCE_LIMIT, why)
        return remembering.denied(outcome.memory, self._finder(root), self.memory)

    def remembered(self, root: Run, outcome: Outcome, decided: list[Draft]) -> list[Draft]:
        """What was decided, with the step's writes right behind its success if it succeeds."""
        drafts: list[Draft] = []
        for drafted in decided:
            drafts.append(drafted)
            if isinstance(drafted.event, ev.StepSucceeded):
                attempt = attempt_key(outcome.serial, outcome.call, outcome.attempt)
                writer = f"{outcome.run}:{attempt}"
                drafts += remembering.remembered(root.id, outcome.memory, self._finder(root), writer)
        return drafts


def unwritable(root: Run | None, level: int) -> Refused | None:
    """Why long-term memory (of a run, if one is given) may not be changed from outside."""
    if root is not None and root.terminal:
        return Refused("conflict", f"run {root.id} has ended already: its memory stays as it is")
    return features.needs(LEVEL, level, "long-term memory")
