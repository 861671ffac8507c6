"""How questions to people and their answers change a run: facts applied, nothing decided."""

from __future__ import annotations

from hive_ray.core import events as ev
from hive_ray.core.evolving_nodes import Evolve, wait_more
from hive_ray.core.evolving_steps import begin_turn
from hive_ray.core.messages import ERASED, StepContent, Turn
from hive_ray.core.run import (
    Edit,
    Permit,
    Run,
    RunStatus,
    StepStatus,
    Wait,
    answer_digest,
    attempt_key,
)


def _approval_requested(run: Run, event: ev.ApprovalRequested, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    run.status = RunStatus.RUNNING
    if event.reason in ASKED_OF_STEPS:
        visit.steps[event.call].status = ASKED_OF_STEPS[event.reason]
    wait_more(run, 1, at_us)
    visit.wait = Wait(
        event.approval,
        event.reason,
        event.deadline_us,
        at_us,
        event.owner,
        event.call,
        content.message,
        content.form,
        dict(content.outputs),
        event.chain,
        0,
        event.final,
        event.four_eyes,
    )
    run.approvals += 1


def _approval_escalated(run: Run, event: ev.ApprovalEscalated, content: StepContent, at_us: int) -> None:
    wait = run.visits[event.serial].wait
    assert wait is not None
    wait.level = event.level
    wait.owner = event.owner
    wait.deadline_us = event.deadline_us


def _approval_edited(run: Run, event: ev.ApprovalEdited, content: StepContent, at_us: int) -> None:
    wait = run.visits[event.serial].wait
    assert wait is not None
    wait.edit = Edit(event.edition, event.principal, event.digest, content)


def _answer_refused(run: Run, event: ev.AnswerRefused, content: StepContent, at_us: int) -> None:
    """Told for the audit alone."""


def _approval_resolved(run: Run, event: ev.ApprovalResolved, content: StepContent, at_us: int) -> None:
    visit = run.visits[event.serial]
    wait = visit.wait
    assert wait is not None
    run.answers[wait.approval] = answer_digest(event.decision, event.digest)
    visit.wait = None
    wait_more(run, -1, at_us)
    if wait.reason == "client" and event.decision == "answer" and visit.loop is not None:
        begin_turn(visit.loop)
        visit.loop.turns = 0
        if content is not ERASED:
            said = content.outputs["said"]
            visit.loop.conversation.append(Turn("user", said))
            visit.loop.appended_bytes += said.size
    if wait.reason in HOLDING and event.decision in ("approve", "edit"):
        step = visit.steps[wait.call]
        step.status = StepStatus.READY
        step.cleared = wait.approval
        if wait.reason == "policy" and step.permit is not None:
            step.permit = _permit(step.permit, wait, event, content)
    if wait.reason == "fallback" and event.decision == "retry":
        visit.taken = 0
    if wait.reason == "outcome_unknown":
        step = visit.steps[wait.call]
        run.resolved_unknown[attempt_key(visit.serial, step.call, step.attempt)] = event.decision


HOLDING = ("policy", "budget")
"""Questions about a step that may not start before they are answered."""
ASKED_OF_STEPS = dict.fromkeys(HOLDING, StepStatus.HELD) | {"outcome_unknown": StepStatus.UNKNOWN}
"""What a question makes of the step that it is about."""


def _permit(permit: Permit, wait: Wait, event: ev.ApprovalResolved, content: StepContent) -> Permit:
    """What was shown may run, or what it was edited to."""
    edited = event.decision == "edit" or wait.edit is not None
    return Permit(
        (*permit.rules, permit.asked), dict(content.outputs if edited else wait.shown), permit.asked
    )


PEOPLE: dict[type[ev.Event], Evolve] = {
    ev.ApprovalRequested: _approval_requested,
    ev.ApprovalResolved: _approval_resolved,
    ev.ApprovalEscalated: _approval_escalated,
    ev.ApprovalEdited: _approval_edited,
    ev.AnswerRefused: _answer_refused,
}
