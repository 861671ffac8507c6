"""Which model or tool a visit works with: its node's own, or what took its place."""

from __future__ import annotations

from hive_ray.core.run import Step, Visit
from hive_ray.graph.compiled import HumanPlan, ModelPlan, NodePlan, ToolPlan


def model_of(node: NodePlan, visit: Visit) -> ModelPlan | None:
    """The model that a visit asks."""
    if visit.taken:
        model = node.fallbacks[visit.taken - 1].model
        if model is not None:
            return model
    return node.model


def model_name(node: NodePlan, visit: Visit) -> str:
    model = model_of(node, visit)
    return model.model if model is not None else ""


def tool_of(node: NodePlan, step: Step) -> ToolPlan | None:
    """The tool that a step calls, if it is one of an agent loop or took the place of a node's own."""
    if step.turn >= 0:
        return node.called(step.name)
    return node.stand_in(step.name) if node.fallbacks else None


def human_of(node: NodePlan, visit: Visit) -> HumanPlan | None:
    """What the person is asked that took a step's place, or that the node itself asks."""
    return node.fallbacks[visit.taken - 1].human if visit.taken else node.human
