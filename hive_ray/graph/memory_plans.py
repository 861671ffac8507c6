"""What a node reads of long-term memory: its own declarations and those of what it runs."""

from __future__ import annotations

from hive_ray.graph.compiled import MemoryPlan, NodeKind
from hive_ray.graph.findings import Findings
from hive_ray.graph.memory_keys import BadAddress, parse_declaration
from hive_ray.graph.spec import NodeSpec

_LLM = (NodeKind.LLM_GENERATE, NodeKind.LLM_TOOL_USE, NodeKind.EVENT_LOOP, NodeKind.ROUTER)
_WITHOUT_STEPS = (NodeKind.HUMAN_INPUT, NodeKind.MAP, NodeKind.SUBGRAPH)


def plan_memory(
    node: NodeSpec, by_work: tuple[MemoryPlan, ...], findings: Findings
) -> tuple[MemoryPlan, ...]:
    """The plans of one node, each once.

    Args:
        by_work: what the node's function or tool declares.
    """
    place = f"nodes.{node.id}.memory"
    if node.memory and node.node_type in _WITHOUT_STEPS:
        problem = f"means nothing on a {node.node_type} node"
        findings.error(place, problem, "it belongs to nodes that run a function, a tool or an LLM")
        return ()
    plans = [plan for text in node.memory if (plan := _parsed(text, place, findings))]
    found = tuple(dict.fromkeys((*plans, *by_work)))
    _check_names(node, found, place, findings)
    _check_inputs(node, found, place, findings)
    return found


def _parsed(text: str, place: str, findings: Findings) -> MemoryPlan | None:
    try:
        return parse_declaration(text)
    except BadAddress as error:
        findings.error(place, error.problem, error.remedy)
        return None


def _check_names(node: NodeSpec, plans: tuple[MemoryPlan, ...], place: str, findings: Findings) -> None:
    """An LLM finds inputs and memory side by side."""
    taken = set(node.input_keys) if node.node_type in _LLM and not node.function else set[str]()
    for plan in plans:
        if plan.prefix:
            continue
        if plan.name in taken:
            problem = f"'{plan.name}' is also the name of something else that the node reads"
            findings.error(place, problem, f"give it another: other={plan.scope}:{plan.key}")
        taken.add(plan.name)


def _check_inputs(node: NodeSpec, plans: tuple[MemoryPlan, ...], place: str, findings: Findings) -> None:
    if not node.input_keys:
        # Edges may map anything to names that the node does not list.
        return
    for plan in plans:
        for name in plan.inputs:
            if name not in node.input_keys:
                problem = f"'{{{name}}}' in '{plan.scope}:{plan.key}' is not an input key"
                findings.error(place, problem, f"add '{name}' to input_keys")
