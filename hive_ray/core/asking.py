"""Questions to people: put to a chain of owners one after the other, and answered by those who may.

Whoever comes on has his whole time from the moment he is asked, however late that is: after a downtime the
chain goes on where it stood, and passes over nobody.
"""

from __future__ import annotations

from hive_ray.core import events as ev
from hive_ray.core import features
from hive_ray.core.commands import Moment, Refused, Resolve
from hive_ray.core.events import Draft
from hive_ray.core.run import Run, Visit, Wait
from hive_ray.graph.asking import AskPlan, Final
from hive_ray.graph.compiled import CompiledGraph

NAMELESS = ("", "operator")
"""What principals are called where nobody has a key: they cannot be told apart."""
BY_DEADLINE = "deadline"
"""Principal, and digest, of an answer that nobody gave in time."""
ROLE = "role:"
PRINCIPALS = ("key:", "user:")


def request(
    run: Run, visit: Visit, reason: str, asks: AskPlan, now: Moment, call: int = 0
) -> ev.ApprovalRequested:
    """The question, put to the first of its owners."""
    first = asks.chain[0]
    return ev.ApprovalRequested(
        run.id,
        visit.serial,
        f"{run.id}.{run.approvals + 1}",
        reason,
        now.wall_us + first.us,
        first.owner,
        call,
        asks.chain if len(asks.chain) > 1 else (),
        asks.final,
        asks.four_eyes,
    )


def too_early(graph: CompiledGraph, level: int) -> Refused | None:
    """The refusal of a graph whose questions need what a state of this level cannot hold."""
    if level >= features.CONTROLLED:
        return None
    plans = [node.human.asking for node in graph.nodes if node.human is not None]
    if any(len(plan.chain) > 1 or plan.final is not Final.FAIL or plan.four_eyes for plan in plans):
        return features.needs(
            features.CONTROLLED, level, "an approval that escalates, ends or needs four eyes"
        )
    refusals = (too_early(body, level) for body in graph.subgraphs)
    return next((refused for refused in refusals if refused is not None), None)


def escalate(run: Run, visit: Visit, wait: Wait, now: Moment) -> Draft | None:
    """Put the question to the next owner; None if the last one has had his time."""
    level = wait.level + 1
    if level >= len(wait.chain):
        return None
    following = wait.chain[level]
    deadline_us = now.wall_us + following.us
    event = ev.ApprovalEscalated(
        run.id, visit.serial, wait.approval, level, following.owner, deadline_us, wait.reason, BY_DEADLINE
    )
    return Draft(event)


def owners(wait: Wait) -> tuple[str, ...]:
    """Who has been asked so far, in order."""
    return tuple(asked.owner for asked in wait.chain[: wait.level + 1]) or (wait.owner,)


def may_answer(wait: Wait, command: Resolve) -> bool:
    """Whether somebody is, or was, asked, himself or by a role; an admin may always."""
    return command.as_admin or any(_is(owner, command) for owner in owners(wait))


def _is(owner: str, command: Resolve) -> bool:
    if not owner or owner == command.principal:
        return True
    # Whatever roles are called, none of them is somebody.
    return not owner.startswith(PRINCIPALS) and owner.removeprefix(ROLE) in command.roles


def not_asked(wait: Wait, command: Resolve) -> Refused:
    asked = " or ".join(owners(wait))
    who = command.principal or "the caller"
    return Refused("forbidden", f"approval {wait.approval} is asked of {asked}, and {who} is neither of them")


def blind_eye(wait: Wait, command: Resolve, submitter: str) -> Refused | None:
    """The refusal of an approval, or of an edit, for which two people are needed and one acts."""
    needs = f"approval {wait.approval} needs a second person (four_eyes), and"
    if command.principal in NAMELESS:
        remedy = "create keys (hive-ray keys create), or set approvals.single_user in hive.yaml"
        return Refused("forbidden", f"{needs} without API keys everybody is the same one: {remedy}")
    did = _has_done(wait, command.principal, submitter) if command.decision == "approve" else ""
    if not did:
        return None
    return Refused("forbidden", f"{needs} {command.principal} {did}: somebody else must approve")


def _has_done(wait: Wait, principal: str, submitter: str) -> str:
    if principal == submitter:
        return "submitted the run"
    edited = wait.edit is not None and wait.edit.principal == principal
    return "edited the answer" if edited else ""


def stale(wait: Wait, command: Resolve) -> Refused | None:
    """The refusal of an approval of something else than what stands there by now."""
    standing = wait.edit.edition if wait.edit is not None else 0
    if command.edition == standing or (command.edition < 0 and not standing):
        return None
    if wait.edit is None:
        return Refused("stale", f"approval {wait.approval} was not edited: there is no edition")
    why = f"was edited by {wait.edit.principal} since it was asked"
    return Refused(
        "stale", f"approval {wait.approval} {why}: look at it, then approve it with edition {standing}"
    )


def refusal(run: Run, command: Resolve, refused: Refused) -> list[Draft]:
    """An answer that did not count, for the audit; requests that were mistaken are not told."""
    if refused.problem not in ("conflict", "forbidden", "stale"):
        return []
    event = ev.AnswerRefused(run.id, command.approval, command.decision, refused.problem, command.principal)
    return [Draft(event)]
