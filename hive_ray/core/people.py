"""People in a run: what they are asked, what they may answer, and what follows.

An approval is resolved exactly once. The same answer again is answered as the first time; a different
one is a conflict. A wait that nobody ends in time goes to the next owner, and after the last one it ends as
its plan has it. Who is asked, and who may answer, is in ``asking``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from hive_ray.core import agent_loop, asking, fallbacks, held, steps
from hive_ray.core import events as ev
from hive_ray.core.commands import Moment, Refused, Resolve
from hive_ray.core.events import Draft, draft
from hive_ray.core.evolving_people import HOLDING
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Outcome, StepContent, StepKind, encode
from hive_ray.core.routing import first_step, inputs_of, losing_keys
from hive_ray.core.run import Run, Visit, Wait
from hive_ray.core.standing_in import human_of
from hive_ray.core.values import NULL, Value, decode, inline
from hive_ray.graph.asking import Final
from hive_ray.graph.compiled import CompiledGraph, NodeKind, NodePlan, extract_facts

ANSWERS = {
    "approval": ("approve", "reject", "edit"),
    "client": ("answer", "complete"),
    "outcome_unknown": ("happened", "did_not_happen", "abort"),
    "pause": ("resume",),
    "budget": ("approve", "reject"),
    "policy": ("approve", "reject", "edit"),
    "fallback": ("approve", "reject", "edit", "retry"),
}


def answers(wait: Wait) -> tuple[str, ...]:
    """The decisions that an open question takes."""
    if wait.reason == "policy" and not wait.form:
        # What a model is given is more than its inputs: there is nothing to put in their place.
        return tuple(answer for answer in ANSWERS["policy"] if answer != "edit")
    return ANSWERS[wait.reason]


def ask(run: Run, graph: CompiledGraph, visit: Visit, now: Moment) -> list[Draft]:
    """The question with which a human node, or a node marked as a pause, begins."""
    node = graph.nodes[visit.node]
    if node.kind is NodeKind.HUMAN_INPUT:
        human = node.human
        assert human is not None
        event = asking.request(run, visit, "approval", human.asking, now)
        shown = inputs_of(run, graph, visit)
        return [draft(event, StepContent(message=human.reason, form=human.form, outputs=shown))]
    if node.pause:
        event = asking.request(run, visit, "pause", now.asks, now)
        need = f"the graph pauses before node {node.id}: resume the run to go on"
        return [draft(event, StepContent(message=need))]
    return []


def find_wait(run: Run, approval: str) -> tuple[Visit, Wait] | None:
    for visit in run.visits.values():
        if visit.wait is not None and visit.wait.approval == approval:
            return visit, visit.wait
    return None


def resolve(
    run: Run, graph: CompiledGraph, command: Resolve, submitter: str | None, now: Moment
) -> list[Draft] | Refused:
    """A person's answer.

    Args:
        submitter: who, where four eyes are asked for, may not approve; None: one pair will do.
    """
    found = find_wait(run, command.approval)
    if found is None:
        return Refused("not_found", f"run {run.id} has no open approval {command.approval}")
    visit, wait = found
    refused = _refused(wait, command, submitter)
    if refused is not None:
        return refused
    if wait.four_eyes and submitter is not None and command.decision == "edit":
        return _edited(run, graph, visit, wait, command)
    content = command.content
    if wait.edit is not None and command.decision == "approve":
        content = wait.edit.answer
    answer = Answer(command.decision, content, command.principal, command.digest)
    return _resolved(run, graph, visit, wait, answer, now)


def _refused(wait: Wait, command: Resolve, submitter: str | None) -> Refused | None:
    allowed = answers(wait)
    if command.decision not in allowed:
        return Refused(
            "invalid", f"approval {wait.approval} takes {' | '.join(allowed)}, not {command.decision}"
        )
    if not asking.may_answer(wait, command):
        return asking.not_asked(wait, command)
    if command.decision not in ("approve", "edit"):
        return None
    refused = asking.stale(wait, command) if command.decision == "approve" else None
    if refused is None and wait.four_eyes and submitter is not None:
        refused = asking.blind_eye(wait, command, submitter)
    return refused


def _edited(
    run: Run, graph: CompiledGraph, visit: Visit, wait: Wait, command: Resolve
) -> list[Draft] | Refused:
    """What would be approved is changed, and waits for somebody else."""
    edition = wait.edit.edition if wait.edit is not None else 0
    if wait.edit is not None and (wait.edit.principal, wait.edit.digest) == (
        command.principal,
        command.digest,
    ):
        return []
    event = ev.ApprovalEdited(
        run.id, visit.serial, wait.approval, edition + 1, command.principal, command.digest
    )
    said = agent_loop.is_conversation(graph.nodes[visit.node], visit)
    return [draft(event, command.content, said)]


class Answer(NamedTuple):
    """What was decided about a question, and by whom."""

    decision: str
    content: StepContent
    principal: str
    digest: str


def _resolved(
    run: Run, graph: CompiledGraph, visit: Visit, wait: Wait, answer: Answer, now: Moment
) -> list[Draft]:
    decision, content, principal, digest = answer
    node = graph.nodes[visit.node]
    event = ev.ApprovalResolved(run.id, visit.serial, wait.approval, decision, principal, digest)
    resolved = draft(event, content, agent_loop.is_conversation(node, visit))
    if wait.reason in HOLDING:
        return [resolved, *held.answered(run, node, visit, wait, decision, content, principal)]
    return [resolved, *_after_answer(run, graph, visit, wait, decision, content, now)]


def _after_answer(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    wait: Wait,
    decision: str,
    content: StepContent,
    now: Moment,
) -> list[Draft]:
    node = graph.nodes[visit.node]
    match wait.reason:
        case "approval":
            return _decided(run, graph, visit, decision, content)
        case "outcome_unknown":
            return _unknown_resolved(run, graph, visit, wait, decision, content, now)
        case "client" if decision == "complete":
            return _completed(run, graph, visit, content)
        case "pause":
            return _unpaused(run, node, visit)
        case "fallback":
            return _stood_in(run, graph, visit, decision, content)
        case _:
            return []


def _unpaused(run: Run, node: NodePlan, visit: Visit) -> list[Draft]:
    kind, name, pool = first_step(node, paused=True)
    if not kind:
        return []
    return [Draft(ev.StepQueued(run.id, visit.serial, 0, StepKind(kind), name, pool))]


def _decided(
    run: Run, graph: CompiledGraph, visit: Visit, decision: str, content: StepContent
) -> list[Draft]:
    node = graph.nodes[visit.node]
    assert node.human is not None
    if decision == "reject" and not node.human.has_approved:
        feedback = content.message or "a human rejected it"
        return [steps.fail_node(run, node, visit, FailureKind.REJECTED, feedback)]
    outputs = {key: content.outputs.get(key, NULL) for key in node.output_keys}
    if "approved" in outputs and "approved" not in content.outputs:
        outputs["approved"] = inline(decision != "reject")
    return agent_loop.end_well(run, node, visit, _with_facts(graph, outputs, content))


def _stood_in(
    run: Run, graph: CompiledGraph, visit: Visit, decision: str, content: StepContent
) -> list[Draft]:
    """A person in the place of a step: gives its outputs, lets it begin again, or rejects."""
    node = graph.nodes[visit.node]
    if decision == "retry":
        kind, name, pool = first_step(node, paused=True)
        return [Draft(ev.StepQueued(run.id, visit.serial, visit.calls, StepKind(kind), name, pool))]
    if decision == "reject":
        feedback = content.message or "a human rejected it"
        return [steps.fail_node(run, node, visit, FailureKind.REJECTED, feedback)]
    route = content.outputs.get(fallbacks.ROUTE) if node.routes else None
    given = {key: content.outputs.get(key, NULL) for key in node.output_keys}
    ended = _with_facts(graph, given, content)
    if visit.loop is not None:
        outputs = visit.loop.outputs | {key: one for key, one in ended.outputs.items() if one != NULL}
        missing = {key: NULL for key in node.output_keys if key not in outputs}
        ended = StepContent(outputs=outputs | missing, facts=visit.loop.facts | ended.facts)
    if route is not None:
        ended = msgspec.structs.replace(ended, route=str(decode(route)))
    return agent_loop.end_well(run, node, visit, ended)


def _with_facts(graph: CompiledGraph, outputs: dict[str, Value], content: StepContent) -> StepContent:
    """A person's outputs with their facts; those of large values must have come with the answer."""
    small = {key: decode(value) for key, value in outputs.items() if not value.blob}
    facts = extract_facts(graph, small)
    for name, fact in content.facts.items():
        key = name.partition(".")[0]
        if key in outputs and key not in small:
            facts[name] = fact
    return StepContent(outputs=outputs, facts=facts, route=content.route)


def _completed(run: Run, graph: CompiledGraph, visit: Visit, content: StepContent) -> list[Draft]:
    node = graph.nodes[visit.node]
    loop = visit.loop
    assert loop is not None
    last = {key: value for key, value in content.outputs.items() if key in node.output_keys}
    given = _with_facts(graph, last, content)
    ended = StepContent(outputs=loop.outputs | given.outputs, facts=loop.facts | given.facts)
    if not _ends_run(graph, node, ended):
        return agent_loop.end_well(run, node, visit, ended)
    dropped = losing_keys(run, visit, list(ended.outputs))
    return [draft(ev.NodeSucceeded(run.id, visit.serial, dropped, node.id, completed=True), ended)]


def _ends_run(graph: CompiledGraph, node: NodePlan, ended: StepContent) -> bool:
    """Whether a completed conversation leads nowhere: results are missing, or the graph has no end."""
    required = [key for key in node.output_keys if key not in node.nullable_keys]
    if required:
        return any(key not in ended.outputs for key in required)
    return not any(other.terminal for other in graph.nodes)


def _unknown_resolved(
    run: Run,
    graph: CompiledGraph,
    visit: Visit,
    wait: Wait,
    decision: str,
    content: StepContent,
    now: Moment,
) -> list[Draft]:
    step = visit.steps[wait.call]
    node = graph.nodes[visit.node]
    if decision == "did_not_happen":
        return [
            Draft(
                ev.RetryScheduled(
                    run.id,
                    visit.serial,
                    step.call,
                    step.attempt + 1,
                    0,
                    "did_not_happen",
                    step.shared_losses,
                    step.lone_losses,
                )
            )
        ]
    if decision == "abort":
        why = f"a human aborted after the unknown outcome of {step.name or node.id}"
        return [steps.fail_node(run, node, visit, FailureKind.OUTCOME_UNKNOWN, why)]
    if step.turn >= 0:
        result = content.outputs.get("result", inline("it happened, as a human confirmed"))
        content = StepContent(outputs={"result": result})
    else:
        outputs = {key: content.outputs.get(key, NULL) for key in node.output_keys}
        content = _with_facts(graph, outputs, content)
    outcome = Outcome(run.id, visit.serial, step.call, step.attempt, "", encode(content), name=step.name)
    return steps.succeeded(run, graph, visit, step, outcome, content, "human")


def client_wait(run: Run, graph: CompiledGraph, node_id: str) -> str | Refused:
    """Id of the approval that a client's message (or its end of the conversation) answers."""
    open_ids = [
        (graph.nodes[visit.node].id, visit.wait.approval)
        for visit in run.visits.values()
        if visit.wait is not None and visit.wait.reason == "client"
    ]
    fitting = [approval for name, approval in open_ids if not node_id or name == node_id]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(name for name, _ in open_ids)
        return Refused("invalid", f"run {run.id} waits at several client-facing nodes: name one of {names}")
    where = f" at node {node_id}" if node_id else ""
    return Refused("conflict", f"run {run.id} does not wait for its client{where}")


def pass_on(run: Run, graph: CompiledGraph, visit: Visit, wait: Wait, now: Moment) -> list[Draft]:
    """An owner's time is over: the next one is asked, or what holds without an answer comes to pass."""
    escalated = asking.escalate(run, visit, wait, now)
    if escalated is not None:
        return [escalated]
    decision = _FINAL.get(wait.final, "")
    if decision not in ANSWERS[wait.reason]:
        return _expire(run, graph, visit, wait)
    content = _default(graph, visit, wait)
    answer = Answer(decision, content, asking.BY_DEADLINE, asking.BY_DEADLINE)
    return _resolved(run, graph, visit, wait, answer, now)


_FINAL = {Final.APPROVE: "approve", Final.REJECT: "reject", Final.ANSWER: "approve"}


def _default(graph: CompiledGraph, visit: Visit, wait: Wait) -> StepContent:
    """The answer that holds if nobody gives one; an edit that nobody approved does not."""
    human = human_of(graph.nodes[visit.node], visit)
    if wait.final is Final.ANSWER and human is not None:
        answer: dict[str, Any] = msgspec.json.decode(human.default)
        return StepContent(outputs={key: inline(value) for key, value in answer.items()})
    if wait.final is Final.REJECT:
        return StepContent(message=_nobody(wait))
    return StepContent()


def _nobody(wait: Wait) -> str:
    return f"nobody answered {wait.approval} in time; it was needed: {wait.message}"


def _expire(run: Run, graph: CompiledGraph, visit: Visit, wait: Wait) -> list[Draft]:
    node = graph.nodes[visit.node]
    resolved = Draft(ev.ApprovalResolved(run.id, visit.serial, wait.approval, "expired", asking.BY_DEADLINE))
    kind = FailureKind.OUTCOME_UNKNOWN if wait.reason == "outcome_unknown" else FailureKind.EXPIRED
    return [resolved, steps.fail_node(run, node, visit, kind, _nobody(wait))]
