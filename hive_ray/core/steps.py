"""What follows the end of an attempt: the step's success, a retry, a failure, or a question to a human.

Only work that is declared idempotent is tried again by itself. An attempt of other work that began and
whose end nobody saw (timeout, lost worker) may have happened: it waits for a person.
"""

from __future__ import annotations

from hive_ray.core import agent_loop, asking, fallbacks
from hive_ray.core import events as ev
from hive_ray.core.commands import Moment
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Outcome, StepContent, StepKind, subject_of
from hive_ray.core.retries import Bounds, retry
from hive_ray.core.routing import losing_keys
from hive_ray.core.run import Run, Step, StepStatus, Visit, attempt_key
from hive_ray.core.standing_in import model_name, tool_of
from hive_ray.graph.compiled import CompiledGraph, NodePlan

UNSEEN_END = frozenset(
    {FailureKind.TIMEOUT, FailureKind.WORKER_LOST, FailureKind.CANCELLED, FailureKind.OUTCOME_UNKNOWN}
)
"""Failures after which nobody knows whether the effect took place, nor what it cost."""


# Plain names for members of enumerations: by the name of its class each costs 70 ns (CPython 3.11).
_LEASED, _UNKNOWN = StepStatus.LEASED, StepStatus.UNKNOWN
_DECIDE = StepKind.DECIDE


def report(
    run: Run,
    graph: CompiledGraph,
    outcome: Outcome,
    content: StepContent,
    bounds: Bounds,
) -> list[Draft]:
    """The events that one outcome makes; routing follows separately.

    An outcome of an attempt that is not under way is late: it changes nothing but the cost, except
    where it answers the very question that a human has not answered yet.
    """
    visit = run.visits.get(outcome.serial)
    step = visit.steps.get(outcome.call) if visit is not None else None
    if visit is None or step is None or step.attempt != outcome.attempt:
        return _late(run, outcome)
    if step.status is _UNKNOWN and not _is_unseen(outcome):
        return _answer_by_outcome(run, graph, visit, step, outcome, content, bounds)
    if step.status is not _LEASED:
        return _late(run, outcome)
    if outcome.failure:
        return failed(run, graph, visit, step, outcome, content.message, bounds)
    return succeeded(run, graph, visit, step, outcome, content)


def is_open(run: Run, outcome: Outcome) -> bool:
    """Whether an outcome ends its attempt, or answers what a person is asked; any other one is late."""
    visit = run.visits.get(outcome.serial)
    step = visit.steps.get(outcome.call) if visit is not None else None
    if step is None or step.attempt != outcome.attempt:
        return False
    return step.status is StepStatus.LEASED or step.status is StepStatus.UNKNOWN


def subject_under_way(run: Run, outcome: Outcome) -> str:
    """The model or tool of an attempt that is under way; empty if it is not, or of a function."""
    visit = run.visits.get(outcome.serial)
    step = visit.steps.get(outcome.call) if visit is not None else None
    if step is None or step.attempt != outcome.attempt or step.status is not _LEASED:
        return ""
    return subject_of(step.kind, outcome.name or step.name)


def _is_unseen(outcome: Outcome) -> bool:
    return outcome.started and outcome.failure in UNSEEN_END


def _late(run: Run, outcome: Outcome) -> list[Draft]:
    """What is still open about an attempt is settled once; any other outcome is a repeat."""
    key = attempt_key(outcome.serial, outcome.call, outcome.attempt)
    orphan = run.orphans.get(key)
    unseen = _is_unseen(outcome)
    if orphan is None and (unseen or key not in run.unseen):
        return []
    said = run.resolved_unknown.get(key, "")
    contradicts = said == "happened" if outcome.failure else said == "did_not_happen"
    event = ev.LateOutcome(
        run.id,
        outcome.serial,
        outcome.call,
        outcome.attempt,
        outcome.failure,
        _cost(run, outcome, orphan.reserved_nanousd if orphan else 0),
        contradicts,
        unseen,
        _overrun(run, outcome, orphan.reserved_nanousd if orphan else 0),
        outcome.usage,
    )
    return [Draft(event)]


def _cost(run: Run, outcome: Outcome, reserved_nanousd: int) -> int:
    """What an outcome adds to the cost of its attempt.

    An attempt whose end was not seen was probably billed: it costs its reservation until corrected.
    """
    if _is_unseen(outcome):
        return max(outcome.cost_nanousd, reserved_nanousd)
    if not run.unseen:
        return outcome.cost_nanousd
    key = attempt_key(outcome.serial, outcome.call, outcome.attempt)
    return outcome.cost_nanousd - run.unseen.get(key, 0)


def _overrun(run: Run, outcome: Outcome, reserved_nanousd: int) -> int:
    """What an outcome costs beyond what was held, or charged, for its attempt."""
    over = outcome.cost_nanousd - reserved_nanousd
    if over <= 0 or not run.unseen:
        return max(over, 0)
    key = attempt_key(outcome.serial, outcome.call, outcome.attempt)
    return max(0, outcome.cost_nanousd - max(reserved_nanousd, run.unseen.get(key, 0)))


def _answer_by_outcome(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    step: Step,
    outcome: Outcome,
    content: StepContent,
    bounds: Bounds,
) -> list[Draft]:
    wait = visit.wait
    if wait is None or wait.reason != "outcome_unknown" or wait.call != step.call:
        return _late(run, outcome)
    resolved = Draft(ev.ApprovalResolved(run.id, visit.serial, wait.approval, "late"))
    if outcome.failure:
        return [resolved, *failed(run, graph, visit, step, outcome, content.message, bounds)]
    return [resolved, *succeeded(run, graph, visit, step, outcome, content)]


def succeeded(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    step: Step,
    outcome: Outcome,
    content: StepContent,
    resolved_by: str = "",
) -> list[Draft]:
    """A step ended well."""
    node = graph.nodes[visit.node]
    single = visit.loop is None and step.kind is not _DECIDE
    ends = single and not node.decides
    dropped = losing_keys(run, visit, list(content.outputs)) if single else ()
    event = ev.StepSucceeded(
        run.id,
        visit.serial,
        step.call,
        step.attempt,
        ends,
        outcome.name or step.name,
        outcome.duration_us,
        0 if resolved_by else _cost(run, outcome, step.reserved_nanousd),
        outcome.usage,
        dropped,
        resolved_by,
        0 if resolved_by else _overrun(run, outcome, step.reserved_nanousd),
    )
    drafts = [Draft(event, outcome.content, content, agent_loop.is_conversation(node, visit, step))]
    if single and node.decides:
        drafts.append(decide_edges(run, node, visit))
    return drafts


def decide_edges(run: Run, node: NodePlan, visit: Visit) -> Draft:
    """An LLM chooses among the edges of a node whose work is done."""
    model = model_name(node, visit)
    return Draft(ev.StepQueued(run.id, visit.serial, visit.calls, StepKind.DECIDE, model, "llm"))


def is_idempotent(node: NodePlan, step: Step) -> bool:
    """LLM calls are; functions and tools only when declared."""
    if step.kind in (StepKind.LLM, StepKind.DECIDE, StepKind.COLLECT):
        return True
    tool = tool_of(node, step)
    if step.turn >= 0 or tool is not None:
        return tool is not None and tool.idempotent
    return node.idempotent


def failed(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    step: Step,
    outcome: Outcome,
    message: str,
    bounds: Bounds,
) -> list[Draft]:
    """A step ended badly: retry, ask, tell the loop's LLM, or fail the node."""
    node = graph.nodes[visit.node]
    kind = FailureKind(outcome.failure)
    idempotent = is_idempotent(node, step)
    if not idempotent and _is_unseen(outcome):
        return [
            _step_failed(run, node, visit, step, outcome, FailureKind.OUTCOME_UNKNOWN, message),
            _ask_what_happened(run, node, visit, step, kind, bounds.now),
        ]
    drafts = [_step_failed(run, node, visit, step, outcome, kind, message)]
    instead: list[Draft] = []
    if idempotent or not outcome.started:
        again = retry(run, node, visit, step, outcome, bounds)
        if isinstance(again, ev.RetryScheduled):
            return [*drafts, Draft(again)]
        message = f"{message}; {again.why}" if again.why else message
        instead = fallbacks.take(run, graph, visit, step, kind, message, bounds.now)
    if instead:
        return [*drafts, *instead]
    if step.turn >= 0:
        return [*drafts, tool_call_failed(run, node, visit, step, kind, message)]
    return [*drafts, fail_node(run, node, visit, kind, message)]


def _step_failed(
    run: Run, node: NodePlan, visit: Visit, step: Step, outcome: Outcome, kind: FailureKind, message: str
) -> Draft:
    event = ev.StepFailed(
        run.id,
        visit.serial,
        step.call,
        step.attempt,
        kind,
        outcome.name or step.name,
        outcome.duration_us,
        _cost(run, outcome, step.reserved_nanousd),
        outcome.usage,
        _is_unseen(outcome),
        _overrun(run, outcome, step.reserved_nanousd),
    )
    # What a loop's tool says of its failure goes to the LLM; why an LLM failed is told to people.
    said = step.turn >= 0 and agent_loop.is_conversation(node, visit, step)
    return draft(event, StepContent(message=message), said)


def tool_call_failed(
    run: Run, node: NodePlan, visit: Visit, step: Step, kind: FailureKind | str, message: str
) -> Draft:
    """A tool call of an agent loop fails for good: its LLM is told."""
    failure = ev.ToolCallFailed(run.id, visit.serial, step.call, str(kind))
    told = StepContent(message=f"{kind}: {message}")
    return draft(failure, told, agent_loop.is_conversation(node, visit, step))


def fail_node(run: Run, node: NodePlan, visit: Visit, kind: FailureKind | str, message: str) -> Draft:
    return draft(ev.NodeFailed(run.id, visit.serial, str(kind), node.id), StepContent(message=message))


def _ask_what_happened(
    run: Run, node: NodePlan, visit: Visit, step: Step, kind: FailureKind, now: Moment
) -> Draft:
    what = (
        f"{step.name or node.id} at node {node.id} was started (attempt {step.attempt}) and its end was "
        f"not seen ({kind}). It is not declared idempotent, so it is not repeated. Find out whether it "
        "took effect, then answer happened (with its outputs), did_not_happen (it runs again) or abort."
    )
    event = asking.request(run, visit, "outcome_unknown", now.asks, now, step.call)
    return draft(event, StepContent(message=what))
