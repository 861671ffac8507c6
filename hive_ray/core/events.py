"""Events: facts in the past tense. The journal is a sequence of these, and nothing else.

Each event names its run (empty for the fleet's own). What a user's data says (inputs, outputs,
arguments, error texts, forms) is not in the event but beside it, in one ``StepContent``, so that
everything here stays readable when content is encrypted. Structs are encoded as arrays: a field may
only ever be added at the end, with a default.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.core.holds import Hold
from hive_ray.core.ladder import Lowered
from hive_ray.core.messages import StepContent, StepKind, Usage
from hive_ray.core.plan import AccountPlan, RatePlan
from hive_ray.graph.asking import Asked, Final


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    run: str


# --- the life of a run ---------------------------------------------------------------------------


class RunSubmitted(Event, frozen=True, gc=False):
    """A run was accepted.

    Content: ``outputs`` is its input, ``facts`` the input's facts, ``message`` who is told of its end.
    """

    request_id: str
    team: str
    agent: str
    graph: str
    """Hash of the compiled graph: the run stays on it."""
    budget_nanousd: int
    """Hard ceiling of the run; -1: none."""
    deadline_us: int
    """Wall time (epoch microseconds)."""
    idempotency_key: str = ""
    digest: str = ""
    """Digest of the submission's body, to tell a repeat from a different one."""
    principal: str = ""
    traceparent: str = ""
    parent: str = ""
    parent_serial: int = 0
    item: int = -1
    depth: int = 0
    graph_name: str = ""
    key: bytes = b""
    """Reference to the key that seals the run's content; its root's; empty: it stays plain."""
    priority: int = 1
    """Index into ``core.plan.CLASSES``."""


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a forked run comes from."""

    run: str
    """The parent: it knows nothing of the fork."""
    seq: int
    """The parent's last event that the fork takes over."""
    node: str = ""
    """It was cut before this node; empty: it was resumed where it failed."""
    visit: int = 0
    """Which visit of the node, from 1."""
    resumes: bool = False
    """It takes the place of its parent, which failed or was cancelled."""
    again: tuple[str, ...] = ()
    """Nodes of the visits that were under way and begin again."""
    repeats: tuple[str, ...] = ()
    """Nodes that may have taken effect in the parent and are not declared idempotent: those of ``again``, and
    others that the parent went on to beside the cut."""
    serials: tuple[int, ...] = ()
    """Serial numbers of the visits that begin again, as ``again`` names their nodes."""


class RunForked(Event, frozen=True, gc=False):
    """A run begins with the state of another, conversations apart.

    Content: ``state``; ``outputs`` are the values given anew.
    """

    request_id: str
    team: str
    agent: str
    graph: str
    budget_nanousd: int
    deadline_us: int
    origin: Origin
    idempotency_key: str = ""
    digest: str = ""
    principal: str = ""
    traceparent: str = ""
    graph_name: str = ""
    key: bytes = b""
    """As in ``RunSubmitted``."""
    priority: int = 1
    """As in ``RunSubmitted``."""
    outside: bool = False
    """It waits at the entrance until ``RunLetIn``."""


class RunLetIn(Event, frozen=True, gc=False):
    """A fork that waited at the entrance begins; of other runs the first visit tells it."""


class ConversationCarried(Event, frozen=True, gc=False):
    """A fork goes on with what its parent's client and models had said. Content: ``state`` is the turns."""


class RunPaused(Event, frozen=True, gc=False):
    """Content: ``message`` is the reason; ``reason`` is what a state of feature level 1 has in its place."""

    reason: str
    principal: str = ""


class RunResumed(Event, frozen=True, gc=False):
    principal: str = ""


class RunSucceeded(Event, frozen=True, gc=False):
    """``reason``: ``terminal`` (a terminal node ended), ``no_edge`` (no edge matched), ``completed``."""

    reason: str


class RunFailed(Event, frozen=True, gc=False):
    """Content: ``message``."""

    kind: str
    place: str
    """Id of the node or edge."""
    dead_lettered: bool = False


class RunCancelled(Event, frozen=True, gc=False):
    """Content: as in ``RunPaused``."""

    reason: str
    principal: str = ""


class RunForgotten(Event, frozen=True, gc=False):
    """All content of a run that had ended is given up; its keys are erased once a snapshot shows this."""

    principal: str = ""


# --- nodes and edges -----------------------------------------------------------------------------


class NodeEntered(Event, frozen=True, gc=False):
    """A visit began; the tokens waiting at the node are spent. ``step`` names its first step, if any."""

    serial: int
    node: int
    node_id: str
    edge: int
    """The edge that led here first in declaration order; -1 at the entry."""
    floor: int
    """Every visit up to this serial number came before this one."""
    path: tuple[int, ...]
    """Place among the visits above ``floor``: see ``routing.path_over``."""
    step: str = ""
    name: str = ""
    pool: str = ""


class NodeSucceeded(Event, frozen=True, gc=False):
    """A node of several steps, a human node, a map or a subgraph ended well. Content: ``outputs``."""

    serial: int
    dropped: tuple[str, ...] = ()
    node_id: str = ""
    completed: bool = False
    """The client ended the conversation for good: no edge is taken from here."""


class NodeFailed(Event, frozen=True, gc=False):
    """A node ended badly. Content: ``message``."""

    serial: int
    kind: str
    node_id: str = ""


class EdgesTaken(Event, frozen=True, gc=False):
    """The edges that a finished visit took: all matching ones of the highest priority, maybe none."""

    serial: int
    node_id: str
    edges: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    edge_ids: tuple[str, ...] = ()
    paths: tuple[tuple[int, ...], ...] = ()
    """Place of the visit that each edge leads to: see ``routing.path_over``."""
    terminal: bool = False
    """The visit was at a terminal node."""


class MapProgressed(Event, frozen=True, gc=False):
    """A map's window moved: items up to ``started`` have a child run. Content: a finished item."""

    serial: int
    started: int
    total: int
    item: int = -1
    failure: str = ""
    children: tuple[str, ...] = ()
    """Run ids of the items that this event starts."""


class LoopBegan(Event, frozen=True, gc=False):
    """An agent loop starts at this visit. ``inherits``: it goes on with the run's conversation."""

    serial: int
    inherits: bool = False


class OutputsWritten(Event, frozen=True, gc=False):
    """A node's outputs are in memory though the node has not ended (its edges are being decided)."""

    serial: int
    dropped: tuple[str, ...] = ()


# --- steps and attempts --------------------------------------------------------------------------


class StepQueued(Event, frozen=True, gc=False):
    """One more step of a visit became ready (agent loops, ``llm_decide``)."""

    serial: int
    call: int
    kind: StepKind
    name: str
    pool: str
    turn: int = -1
    """Index of the tool call within its turn; -1 for LLM steps."""


class StepStarted(Event, frozen=True, gc=False):
    """An attempt was leased to a worker, its worst case reserved."""

    serial: int
    call: int
    attempt: int
    worker: str
    epoch: int
    reserved_nanousd: int = 0
    inputs: int = 0
    """Checksum of the inputs that an agent loop's LLM is shown; 0 of other steps."""
    hold: Hold | None = None
    """What it holds on the accounts above the run; None if it cannot cost anything."""
    lowered: Lowered | None = None
    """What a ladder made different."""


class PolicyDecided(Event, frozen=True, gc=False):
    """Rules said something about a step that was about to start.

    Content: ``message`` tells why those in ``errors`` had no answer.
    """

    serial: int
    call: int
    effect: str
    """``allow``, ``deny``, ``require_approval``; empty: none of the rules that held decides that."""
    rule: str
    """The one that decides."""
    rules: tuple[str, ...] = ()
    """All that held, in order; those without an answer that count as if they did, too."""
    errors: tuple[str, ...] = ()
    """Those whose condition had no answer."""
    level: int = 0
    """Rung of the degrade ladder; 0: none."""


class StepRouted(Event, frozen=True, gc=False):
    """A policy sends a step to another pool."""

    serial: int
    call: int
    pool: str


class LeaseReturned(Event, frozen=True, gc=False):
    """The lease never reached its worker: the attempt did not begin and is ready again."""

    serial: int
    call: int
    attempt: int


class StepSucceeded(Event, frozen=True, gc=False):
    """Content: what the step produced. ``ends``: the node ends with it."""

    serial: int
    call: int
    attempt: int
    ends: bool
    name: str = ""
    duration_us: int = 0
    cost_nanousd: int = 0
    usage: Usage | None = None
    dropped: tuple[str, ...] = ()
    """Output keys that a parallel branch, later in declaration order, had already written."""
    resolved_by: str = ""
    """A human said that the step happened."""
    overrun_nanousd: int = 0
    """Cost beyond the reservation: it was billed, so it counts, and the budget may be passed by it."""


class StepFailed(Event, frozen=True, gc=False):
    """An attempt ended badly. Content: ``message``. What follows is an event of its own."""

    serial: int
    call: int
    attempt: int
    kind: str
    name: str = ""
    duration_us: int = 0
    cost_nanousd: int = 0
    usage: Usage | None = None
    unseen: bool = False
    """Nobody saw its end: the cost is its reservation, until a late outcome corrects it."""
    overrun_nanousd: int = 0
    """As in ``StepSucceeded``."""


class ToolCallFailed(Event, frozen=True, gc=False):
    """A tool call of an agent loop failed for good; its LLM is told. Content: ``message``."""

    serial: int
    call: int
    kind: str


class RetryScheduled(Event, frozen=True, gc=False):
    serial: int
    call: int
    attempt: int
    """The attempt to come."""
    delay_us: int
    reason: str
    shared_losses: int = 0
    """Attempts of the step so far that were lost with a worker that ran others too."""
    lone_losses: int = 0
    """Attempts of the step so far that were lost with a worker that ran nothing else."""


class FallbackTaken(Event, frozen=True, gc=False):
    """Something else takes the place of a step that failed for good.

    Content: ``message`` (its failure); ``outputs`` holds the ``result`` of a call of an agent loop that a
    value takes the place of.
    """

    serial: int
    call: int
    """The step whose place is taken; what takes it is an event of its own."""
    index: int
    """Which fallback of the node."""
    fallback: str
    """``model``, ``tool``, ``value`` or ``human``."""
    kind: str
    """The failure's kind."""
    node_id: str = ""
    instead_of: str = ""
    """The model or tool that failed."""
    name: str = ""
    """The model or tool that is asked instead."""


class TimerFired(Event, frozen=True, gc=False):
    """A backoff is over: the step is ready."""

    serial: int
    call: int


class LateOutcome(Event, frozen=True, gc=False):
    """An attempt that nobody waits for any more reported: ignored, its cost charged.

    A cost that was charged before, because the attempt's end was not seen, is corrected: it may be below 0.
    """

    serial: int
    call: int
    attempt: int
    failure: str
    cost_nanousd: int = 0
    contradicts: bool = False
    """A human had decided otherwise about it: an alert."""
    unseen: bool = False
    """As in ``StepFailed``."""
    overrun_nanousd: int = 0
    """As in ``StepSucceeded``."""
    usage: Usage | None = None


class CostCorrected(Event, frozen=True, gc=False):
    """A person or a provider's bill says that an attempt cost something else. Content: ``message`` (why)."""

    correction: str
    """Unique in its run: the same one again changes nothing."""
    cost_nanousd: int
    """What is added to the charge; may be below 0."""
    serial: int = 0
    """0, as ``call`` and ``attempt``: the run as a whole."""
    call: int = 0
    attempt: int = 0
    principal: str = ""


class RunDegraded(Event, frozen=True, gc=False):
    """A run's steps stand on another rung of a model's ladder for what the run's budgets have left."""

    model: str
    level: int
    """0: nothing is different any more."""
    reason: str


class AllowanceGranted(Event, frozen=True, gc=False):
    """A person lets a run spend beyond an account's limit."""

    account: str
    nanousd: int
    tokens: int
    principal: str = ""


# --- people --------------------------------------------------------------------------------------


class ApprovalRequested(Event, frozen=True, gc=False):
    """A visit waits for a person. Content: ``message`` (what is needed), ``form``, ``outputs`` (shown).

    ``reason``: ``approval, client, outcome_unknown, pause, policy, budget, fallback``.
    """

    serial: int
    approval: str
    reason: str
    deadline_us: int
    """Until when the first owner is asked."""
    owner: str = ""
    call: int = 0
    chain: tuple[Asked, ...] = ()
    """All owners in order, the first included; none where nobody else is asked later."""
    final: Final = Final.FAIL
    four_eyes: bool = False


class ApprovalEscalated(Event, frozen=True, gc=False):
    """An owner has not answered in his time: the next one is asked."""

    serial: int
    approval: str
    level: int
    """Place of the owner in the chain, from 0."""
    owner: str
    deadline_us: int
    reason: str = ""
    """Of the question."""
    principal: str = ""
    """``deadline``: the audit shows it like anybody's act."""


class ApprovalEdited(Event, frozen=True, gc=False):
    """Somebody changed what an approval would mean; somebody else must approve it. Content: the answer."""

    serial: int
    approval: str
    edition: int
    """From 1."""
    principal: str
    digest: str = ""
    """As in ``ApprovalResolved``."""


class AnswerRefused(Event, frozen=True, gc=False):
    """Somebody's answer did not count. It changes nothing; the audit shows it."""

    approval: str
    decision: str
    reason: str
    """``conflict`` (it was answered before), ``forbidden`` (of somebody else), ``stale`` (it was edited)."""
    principal: str = ""


class ApprovalResolved(Event, frozen=True, gc=False):
    """Content: ``outputs`` is the answer."""

    serial: int
    approval: str
    decision: str
    """``approve, reject, edit, answer, complete, resume, happened, did_not_happen, abort, expired, late``."""
    principal: str = ""
    """``deadline``: nobody answered in time, and this holds then."""
    digest: str = ""
    """Digest of the answer, to tell a repeat from a different one."""


# --- the fleet -----------------------------------------------------------------------------------


class WorkerAttached(Event, frozen=True, gc=False):
    worker: str
    pool: str
    slots: int
    host: str
    boot_id: str
    pid: int
    process_start: int
    node: str = ""


class WorkerLost(Event, frozen=True, gc=False):
    """Content: as in ``RunPaused``."""

    worker: str
    reason: str


class AgentRegistered(Event, frozen=True, gc=False):
    """A name now stands for a graph. Content-free: the graph is identified by its hash."""

    name: str
    team: str
    graph: str
    principal: str = ""


class FeatureLevelRaised(Event, frozen=True, gc=False):
    """From here on the state may hold what ``level`` allows; earlier releases refuse to open it."""

    level: int
    principal: str = ""


class PlanApplied(Event, frozen=True, gc=False):
    """What ``hive.yaml`` says about control is in force. Content: ``state`` is the plan."""

    digest: str
    principal: str = ""


class BudgetChanged(Event, frozen=True, gc=False):
    """A person changed an account's limits. Content: ``message`` (why)."""

    account: str
    plan: AccountPlan | None
    """None: the plan's own limits hold again."""
    principal: str = ""


class RateChanged(Event, frozen=True, gc=False):
    """A person changed the rates of a pool, a model or a tool. Content: as in ``BudgetChanged``."""

    name: str
    plan: RatePlan | None
    principal: str = ""


class RunsLimitChanged(Event, frozen=True, gc=False):
    """A person changed how many runs may be under way. Content: as in ``BudgetChanged``."""

    name: str
    """``team/NAME`` or ``agent/TEAM/NAME``."""
    runs: int
    """-1: the plan's own limit holds again; 0: no limit."""
    principal: str = ""


class BudgetWarned(Event, frozen=True, gc=False):
    """An account has spent most of its limit in a window."""

    account: str
    window_us: int
    spent_nanousd: int
    spent_tokens: int
    limit_nanousd: int
    limit_tokens: int


class SpendingStopped(Event, frozen=True, gc=False):
    """No step of a team, an agent, a workflow or a pool starts any more. Content: ``message`` (why)."""

    scope: str
    principal: str = ""


class SpendingAllowed(Event, frozen=True, gc=False):
    scope: str
    principal: str = ""


class BreakerOpened(Event, frozen=True, gc=False):
    """Steps that need a model or a tool fail fast."""

    name: str
    """``model/NAME`` or ``tool/NAME``."""
    reason: str
    open_us: int
    """Until a probe may begin."""
    calls: int = 0
    """In the window that opened it; 0: a probe did."""
    failures: int = 0
    slow: int = 0


class BreakerHalfOpened(Event, frozen=True, gc=False):
    """One attempt tries whether a model or a tool is back."""

    name: str
    probe: str
    """``RUN:SERIAL.CALL.ATTEMPT``; empty: the last probe told nothing, the next step is one."""
    reason: str = ""


class BreakerClosed(Event, frozen=True, gc=False):
    name: str
    reason: str


class BreakerForced(Event, frozen=True, gc=False):
    """A person decided about a breaker. Content: ``message`` (why)."""

    name: str
    mode: str
    """``open``, ``closed`` or ``auto``: it decides by itself again, beginning closed."""
    principal: str = ""


class ModelDegraded(Event, frozen=True, gc=False):
    """Steps that ask for a model go a rung down its ladder, but for trials."""

    name: str
    level: int
    reason: str
    model: str = ""
    """What is asked instead; empty: the same model. As ``max_tokens`` and ``context_bytes``, of all rungs."""
    max_tokens: int = 0
    context_bytes: int = 0


class ModelRestored(Event, frozen=True, gc=False):
    """They go a rung up; ``level`` 0: nothing is different any more."""

    name: str
    level: int
    reason: str


class MaintenanceBegan(Event, frozen=True, gc=False):
    """Nothing new is admitted; what was accepted goes on. Content: ``message`` (why)."""

    principal: str = ""


class MaintenanceEnded(Event, frozen=True, gc=False):
    principal: str = ""


# --- API keys --------------------------------------------------------------------------------------


class ApiKeyCreated(Event, frozen=True, gc=False):
    """Somebody may ask from outside. The secret is nowhere: ``digest`` is its keyed hash."""

    key: str
    name: str
    team: str
    scopes: tuple[str, ...]
    roles: tuple[str, ...]
    digest: bytes
    expires_us: int = 0
    """Wall time; 0: never."""
    principal: str = ""


class ApiKeyRolled(Event, frozen=True, gc=False):
    """A key has a new secret; the old one is good until ``old_until_us`` (wall time)."""

    key: str
    team: str
    digest: bytes
    old_until_us: int = 0
    principal: str = ""


class ApiKeyRevoked(Event, frozen=True, gc=False):
    """A key ended, for good."""

    key: str
    team: str
    principal: str = ""


class ApiKeyUsed(Event, frozen=True, gc=False):
    """A key let somebody in, for the first time on a day of UTC."""

    key: str
    team: str


# --- what is told outside ------------------------------------------------------------------------


class NotificationQueued(Event, frozen=True, gc=False):
    """Somebody outside is to be told. Content: ``message`` is the address that came with the run."""

    notification: str
    """Its id, the same at every attempt to deliver it."""
    kind: str
    """See ``core.hooks.KINDS``."""
    hook: str
    """Name of the receiver in the plan; empty: the run's own."""
    about: str
    """The run."""
    team: str
    facts: dict[str, Any]
    """What is told: ids, kinds and numbers."""


class NotificationDelayed(Event, frozen=True, gc=False):
    """An attempt to deliver it failed; there will be another one."""

    notification: str
    attempt: int
    due_us: int
    error: str


class NotificationDelivered(Event, frozen=True, gc=False):
    """Its receiver has taken it."""

    notification: str
    attempt: int


class NotificationFailed(Event, frozen=True, gc=False):
    """It was given up."""

    notification: str
    attempt: int
    error: str


# --- long-term memory ----------------------------------------------------------------------------


class MemoryWritten(Event, frozen=True, gc=False):
    """A value stands in long-term memory. Content: ``outputs`` holds it under its key.

    ``run`` is the root run for its own memory, and empty for that of agents and teams, which outlives runs.
    """

    scope: str
    owner: str
    version: int
    """The shelf's next number; no other write or deletion of this owner has it."""
    size: int
    """Bytes of the value."""
    writer: str
    """The attempt (``run:serial.call.attempt``) with whose success it stands, or a principal."""
    request_id: str = ""
    """Of a write from outside."""


class MemoryDeleted(Event, frozen=True, gc=False):
    """A key is gone from long-term memory. Content: ``outputs`` names it."""

    scope: str
    owner: str
    version: int
    writer: str
    request_id: str = ""


EVENTS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        RunSubmitted, RunForked, RunLetIn, RunPaused, RunResumed, RunSucceeded, RunFailed, RunCancelled,
        RunForgotten, ConversationCarried,
        NodeEntered, NodeSucceeded, NodeFailed, EdgesTaken, MapProgressed, LoopBegan, OutputsWritten,
        StepQueued, StepStarted, LeaseReturned, StepSucceeded, StepFailed, ToolCallFailed, RetryScheduled,
        FallbackTaken, TimerFired, LateOutcome, CostCorrected, ApprovalRequested, ApprovalResolved,
        ApprovalEscalated, ApprovalEdited, AnswerRefused,
        WorkerAttached, WorkerLost, AgentRegistered, FeatureLevelRaised, MemoryWritten, MemoryDeleted,
        PlanApplied, BudgetChanged, RateChanged, RunsLimitChanged, BudgetWarned,
        ModelDegraded, ModelRestored, RunDegraded,
        BreakerOpened, BreakerHalfOpened, BreakerClosed, BreakerForced,
        NotificationQueued, NotificationDelayed, NotificationDelivered, NotificationFailed,
        SpendingStopped, SpendingAllowed, MaintenanceBegan, MaintenanceEnded, AllowanceGranted,
        ApiKeyCreated, ApiKeyRolled, ApiKeyRevoked, ApiKeyUsed,
        PolicyDecided, StepRouted,
    )
}  # fmt: skip

NOTHING = StepContent()


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event that was decided, with its content as bytes (for the journal) and decoded (to apply)."""

    event: Event
    content: bytes = b""
    decoded: StepContent = NOTHING
    conversation: bool = False
    """The content is part of a conversation: it does not outlive the run."""


_encode_content = msgspec.msgpack.Encoder().encode


def draft(event: Event, content: StepContent | None = None, conversation: bool = False) -> Draft:
    """Pair an event with its content."""
    if content is None:
        return Draft(event)
    return Draft(event, _encode_content(content), content, conversation)
