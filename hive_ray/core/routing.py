"""From a node that ended to the nodes that start: edges, joins, and the end of a run.

Among the edges that match, all of the highest priority are taken. A taken edge leaves a token at its
target. A target starts when nothing under way can still reach it; in cycles, "still" means this round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hive_ray.core import events as ev
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent, StepKind
from hive_ray.core.policies import Matcher
from hive_ray.core.run import Ended, Run, Token, Visit
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, EdgePlan, NodeKind, NodePlan


class Evaluator(Matcher, Protocol):
    """Evaluates conditions of graphs and of policies; ``graph.expressions.Evaluator`` is the real one."""

    def evaluate(self, graph: CompiledGraph, expression: int, facts: Mapping[str, Any]) -> bool:
        """Raises ``ExpressionError``, a ``ValueError``, when the condition has no truth value."""
        ...


# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_FUNCTION, _FUNCTION_STEP = NodeKind.FUNCTION, StepKind.FUNCTION
_ON_SUCCESS = EdgeCondition.ON_SUCCESS
_WITHOUT_STEP = (NodeKind.HUMAN_INPUT, NodeKind.MAP, NodeKind.SUBGRAPH)


def leave(run: Run, graph: CompiledGraph, ended: Ended, evaluator: Evaluator) -> list[Draft]:
    """The edges that a finished visit takes, or the failure of the run."""
    node = graph.nodes[ended.visit.node]
    try:
        edges = _edges_to_take(run, graph, node, ended, evaluator)
    except _BadCondition as bad:
        return [fail_run(run, FailureKind.INVALID_OUTPUT, bad.edge, bad.why)]
    if ended.failure and not edges:
        return [_fail_by_node(run, node, ended)]
    if len(edges) == 1:
        return [_one_edge(run, node, ended, edges[0])]
    return [
        Draft(
            ev.EdgesTaken(
                run.id,
                ended.visit.serial,
                node.id,
                tuple(edge.index for edge in edges),
                tuple(edge.target for edge in edges),
                tuple(edge.id for edge in edges),
                tuple(path_over(ended.visit.path, edge, len(edges)) for edge in edges),
                node.terminal and not edges,
            )
        )
    ]


def _one_edge(run: Run, node: NodePlan, ended: Ended, edge: EdgePlan) -> Draft:
    visit = ended.visit
    path = path_over(visit.path, edge, 1)
    return Draft(
        ev.EdgesTaken(run.id, visit.serial, node.id, (edge.index,), (edge.target,), (edge.id,), (path,))
    )


def path_over(path: tuple[int, ...], edge: EdgePlan, taken: int) -> tuple[int, ...]:
    """Place of the visit behind an edge, given the place of the visit before it.

    A place is the way there: numbers of nodes passed in a row, and between them the edges chosen where
    the run divided. In the order of tuples a visit stands behind those it follows from, and parallel
    visits stand in the order in which the dividing edges are declared.
    """
    if taken > 1:
        return (*path, edge.index, 0)
    return (*path[:-1], path[-1] + 1) if path else ()


class _BadCondition(Exception):
    def __init__(self, edge: str, why: str) -> None:
        super().__init__(why)
        self.edge = edge
        self.why = why


def _edges_to_take(
    run: Run, graph: CompiledGraph, node: NodePlan, ended: Ended, evaluator: Evaluator
) -> list[EdgePlan]:
    if ended.completed or (node.terminal and not ended.failure):
        return []
    if len(node.out_edges) == 1:
        # The common case, without its calls: this is the hot path.
        only = graph.edges[node.out_edges[0]]
        if only.condition is _ON_SUCCESS and only.expression < 0:
            return [] if ended.failure else [only]
    edges = [graph.edges[index] for index in node.out_edges]
    if len(edges) > 1:
        edges.sort(key=_priority_first)
    best: list[EdgePlan] = []
    for edge in edges:
        if best and edge.priority < best[0].priority:
            break
        if _matches(run, graph, edge, ended, evaluator):
            best.append(edge)
    return best


def _priority_first(edge: EdgePlan) -> int:
    return -edge.priority


def _matches(run: Run, graph: CompiledGraph, edge: EdgePlan, ended: Ended, evaluator: Evaluator) -> bool:
    if not _condition_holds(edge, ended):
        return False
    if edge.expression < 0:
        return True
    try:
        return evaluator.evaluate(graph, edge.expression, run.facts)
    except ValueError as error:
        raise _BadCondition(edge.id, str(error)) from error


def _condition_holds(edge: EdgePlan, ended: Ended) -> bool:
    condition = edge.condition
    if condition is _ON_SUCCESS:
        return not ended.failure
    match condition:
        case EdgeCondition.CONDITIONAL:
            return not ended.failure
        case EdgeCondition.ALWAYS:
            return True
        case EdgeCondition.ON_FAILURE:
            return bool(ended.failure)
        case EdgeCondition.LLM_DECIDE:
            return not ended.failure and edge.id in ended.chosen
        case EdgeCondition.ROUTE:
            return not ended.failure and edge.route == ended.route


def enter(run: Run, graph: CompiledGraph) -> list[Draft]:
    """The nodes whose tokens have waited long enough."""
    if not run.tokens:
        return []
    drafts: list[Draft] = []
    serial = run.serial
    for target in _targets_that_start(run, graph):
        serial += 1
        draft_or_failure = _entered(run, graph, graph.nodes[target], serial)
        drafts.append(draft_or_failure)
        if isinstance(draft_or_failure.event, ev.RunFailed):
            return [draft_or_failure]
    return drafts


def _targets_that_start(run: Run, graph: CompiledGraph) -> list[int]:
    """Targets that no visit under way, and no other token, can still reach.

    A token that came over a back edge begins a new round: it waits for every visit that can still join
    the round. Any other waits only for what stands before it, so the nodes of a cycle do not wait for
    each other, and one of the waiting targets can always start.
    """
    if not run.visits and len(run.tokens) == 1:
        return [run.tokens[0].target]
    active = 0
    for visit in run.visits.values():
        active |= 1 << visit.node
    waiting: dict[int, bool] = {}
    for token in run.tokens:
        waiting[token.target] = waiting.get(token.target, False) or graph.edges[token.edge].back
    tokens = 0
    for target in waiting:
        tokens |= 1 << target
    return [
        target
        for target, is_new_round in sorted(waiting.items())
        if not _can_be_reached(graph.nodes[target], active, tokens, is_new_round)
    ]


def _can_be_reached(node: NodePlan, active: int, tokens: int, is_new_round: bool) -> bool:
    if node.comes_after & (active | tokens):
        return True
    return is_new_round and bool(node.reached_from & active)


def _entered(run: Run, graph: CompiledGraph, node: NodePlan, serial: int) -> Draft:
    if serial - run.serial_base > graph.max_steps:
        why = f"the run has made {graph.max_steps} node visits (max_steps); it stops before another"
        return fail_run(run, FailureKind.LIMIT_EXCEEDED, node.id, why)
    if node.max_visits and _visits(run, node) >= node.max_visits:
        why = f"the node was visited {node.max_visits} times (max_node_visits)"
        return fail_run(run, FailureKind.LIMIT_EXCEEDED, node.id, why)
    tokens = run.tokens
    if len(tokens) != 1 or tokens[0].target != node.index:
        tokens = [token for token in tokens if token.target == node.index]
    floor, path = _place(run, tokens)
    edge = tokens[0].edge if len(tokens) == 1 else min([token.edge for token in tokens], default=-1)
    step, name, pool = first_step(node)
    return Draft(ev.NodeEntered(run.id, serial, node.index, node.id, edge, floor, path, step, name, pool))


def _visits(run: Run, node: NodePlan) -> int:
    """Visits of a node that count against ``max_node_visits``."""
    return run.visit_counts.get(node.index, 0) - run.visit_base.get(node.index, 0)


def _place(run: Run, tokens: list[Token]) -> tuple[int, tuple[int, ...]]:
    """Floor and path of the visit that spends these tokens.

    The floor rises to the present when the visit follows from everything so far: nothing else moves, and
    no branch has come to an end of its own. So it does not depend on which branch ends first.
    """
    if not run.visits and not run.strays and len(tokens) == len(run.tokens):
        return run.serial, ()
    return max((token.floor, token.path) for token in tokens)


def first_step(node: NodePlan, paused: bool = False) -> tuple[str, str, str]:
    """Kind, name and pool of the step with which a node begins; empty if it begins otherwise.

    A node marked as a pause begins with a wait; ``paused`` asks for what follows that wait.
    """
    if (node.pause and not paused) or node.kind in _WITHOUT_STEP:
        return "", "", ""
    if node.kind is _FUNCTION or (node.kind is NodeKind.ROUTER and node.function):
        return _FUNCTION_STEP, node.function, node.pool
    if node.kind is NodeKind.TOOL:
        return StepKind.TOOL, node.function, node.pool
    return StepKind.LLM, node.model.model if node.model else "", node.pool


def enter_first(run: Run, graph: CompiledGraph) -> list[Draft]:
    """The entry node starts."""
    return [_entered(run, graph, graph.nodes[graph.entry], 1)]


def finish(run: Run, graph: CompiledGraph) -> list[Draft]:
    """The end of a run in which nothing is under way and no token is left."""
    if run.visits or run.tokens or run.ended or run.terminal:
        return []
    if run.terminal_reached:
        return [Draft(ev.RunSucceeded(run.id, "terminal"))]
    last = graph.nodes[run.last_ended] if run.last_ended >= 0 else None
    led_on = last is not None and bool(last.out_edges) and not run.completed
    return [Draft(ev.RunSucceeded(run.id, "no_edge" if led_on else "completed"))]


def fail_run(run: Run, kind: FailureKind | str, place: str, why: str, dead: bool = False) -> Draft:
    return draft(ev.RunFailed(run.id, str(kind), place, dead), StepContent(message=why))


def _fail_by_node(run: Run, node: NodePlan, ended: Ended) -> Draft:
    return fail_run(run, ended.failure, node.id, ended.message, ended.failure == FailureKind.WORKER_LOST)


def losing_keys(run: Run, visit: Visit, keys: list[str]) -> tuple[str, ...]:
    """Keys whose value in memory stays, since a visit that stands later has written it already."""
    if visit.serial == visit.floor + 1 and not visit.path:
        return ()
    lost: list[str] = []
    for key in keys:
        writer = run.writers.get(key)
        if writer is not None and (writer.floor, writer.path) > (visit.floor, visit.path):
            lost.append(key)
    return tuple(lost)


def inputs_of(run: Run, graph: CompiledGraph, visit: Visit) -> dict[str, Any]:
    """Memory under the node's input keys, after the mappings of the edges that led here."""
    node = graph.nodes[visit.node]
    memory = run.memory
    inputs = {key: memory[key] for key in node.input_keys if key in memory}
    for index in visit.mapping_edges:
        for name, source in graph.edges[index].input_mapping:
            if source in memory:
                inputs[name] = memory[source]
    return inputs
