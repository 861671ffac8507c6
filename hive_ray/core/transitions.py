"""Every change of state that a run, a step and an approval can make, and the event that makes it.

``evolve`` makes these changes; this table only says which ones there are. ``docs/states.md`` is generated
from it, and the tests hold everything that random histories do against it.
"""

from __future__ import annotations

from typing import NamedTuple

from hive_ray.core import events as ev


class Transition(NamedTuple):
    """In ``state``, an event of this kind may lead to one of ``to``; others change nothing."""

    state: str
    event: type[ev.Event]
    to: tuple[str, ...]


class Machine(NamedTuple):
    """One kind of thing with a life; ``glossary`` tells what its states mean."""

    name: str
    glossary: dict[str, str]
    transitions: tuple[Transition, ...]

    def allows(self, state: str, event: type[ev.Event], to: str) -> bool:
        return any(to in known.to for known in self.transitions if known[:2] == (state, event))


NEW = "new"
ENDED = "ended"


def _each(states: tuple[str, ...], events: tuple[type[ev.Event], ...], *to: str) -> tuple[Transition, ...]:
    return tuple(Transition(state, event, to) for state in states for event in events)


_LIVE = ("queued", "running", "waiting")

RUN = Machine(
    "run",
    {
        "queued": "accepted; nothing of it has begun",
        "running": "something is under way or ready",
        "waiting": "only people can move it, or an operator paused it; the reason says which",
        "succeeded": "ended: nothing is outstanding and no edge is left to take",
        "failed": "ended: a node failed without an edge for it, or a limit or deadline was passed",
        "cancelled": "ended on request",
    },
    (
        *_each((NEW,), (ev.RunSubmitted, ev.RunForked), "queued"),
        Transition("queued", ev.StepStarted, ("running",)),
        Transition("queued", ev.MapProgressed, ("running",)),
        # A breaker kept its first step from starting.
        Transition("queued", ev.FallbackTaken, ("running",)),
        # No money for the first step, and edges that are taken anyway.
        Transition("queued", ev.ApprovalRequested, ("running",)),
        *_each(("queued", "running"), (ev.ApprovalRequested, ev.RunPaused), "waiting"),
        # With a branch that waits for people, the end of the last other branch makes the run wait.
        *_each(
            ("running",),
            (
                ev.StepSucceeded,
                ev.NodeFailed,
                ev.ToolCallFailed,
                ev.FallbackTaken,
                ev.MapProgressed,
            ),
            "waiting",
        ),
        # And what that end leads to makes it run again.
        *_each(("waiting",), (ev.NodeEntered, ev.StepQueued, ev.MapProgressed), "running"),
        *_each(("waiting",), (ev.ApprovalResolved, ev.RetryScheduled, ev.StepFailed), "running"),
        Transition("waiting", ev.RunResumed, ("queued", "running")),
        *_each(("running", "waiting"), (ev.RunSucceeded,), "succeeded"),
        *_each(_LIVE, (ev.RunFailed,), "failed"),
        *_each(_LIVE, (ev.RunCancelled,), "cancelled"),
    ),
)

_ENDS = (ev.NodeFailed, ev.RunFailed, ev.RunCancelled)

STEP = Machine(
    "step",
    {
        "ready": "waits for admission: a slot, and money for its worst case",
        "leased": "an attempt is with a worker",
        "backoff": "an attempt failed; waits for a timer, or what follows is being decided",
        "unknown": "an attempt may have happened; waits for a person",
        "held": "may not start before a person allows it",
        "orphan": "its node or run has ended while an attempt was under way; its worker still holds it",
    },
    (
        *_each((NEW,), (ev.NodeEntered, ev.StepQueued, ev.RunForked), "ready"),
        Transition("ready", ev.StepStarted, ("leased",)),
        Transition("ready", ev.ApprovalRequested, ("held",)),
        # A breaker is open, or a policy forbids it.
        Transition("ready", ev.ToolCallFailed, (ENDED,)),
        *_each(("ready", "backoff"), (ev.FallbackTaken,), ENDED),
        Transition("held", ev.ApprovalResolved, ("ready",)),
        Transition("leased", ev.LeaseReturned, ("ready",)),
        Transition("leased", ev.StepSucceeded, (ENDED,)),
        Transition("leased", ev.StepFailed, ("backoff",)),
        Transition("backoff", ev.ApprovalRequested, ("unknown",)),
        Transition("backoff", ev.TimerFired, ("ready",)),
        # What policies deny, or people reject, has not begun.
        *_each(("backoff", "ready", "held"), (ev.ToolCallFailed,), ENDED),
        Transition("unknown", ev.StepSucceeded, (ENDED,)),
        Transition("unknown", ev.StepFailed, ("backoff",)),
        Transition("unknown", ev.RetryScheduled, ("ready",)),
        *_each(("leased",), _ENDS, "orphan"),
        *_each(("ready", "backoff", "unknown", "held"), _ENDS, ENDED),
        *_each(("orphan",), (ev.LateOutcome, ev.LeaseReturned), ENDED),
    ),
)

_ASKED = ("open", "escalated", "edited")

APPROVAL = Machine(
    "approval",
    {
        "open": "its first owner is asked, until a deadline",
        "escalated": "a later owner of its chain is asked",
        "edited": "somebody changed the answer; somebody else must approve it",
        "resolved": "answered by a person, its last deadline or the late outcome itself: the first wins",
        "withdrawn": "its run, or its node, ended without it",
    },
    (
        Transition(NEW, ev.ApprovalRequested, ("open",)),
        Transition("open", ev.ApprovalEscalated, ("escalated",)),
        *_each(("open", "escalated"), (ev.ApprovalEdited,), "edited"),
        *_each(_ASKED, (ev.ApprovalResolved,), "resolved"),
        *_each(_ASKED, (ev.RunFailed, ev.RunCancelled, ev.NodeFailed), "withdrawn"),
    ),
)

MACHINES = (RUN, STEP, APPROVAL)
