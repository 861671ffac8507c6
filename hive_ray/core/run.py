"""One run: its state, and what can be read off it.

A run holds small values and references to blobs; everything that is outstanding (ready steps, leases,
timers) can be read off it, so that recovery needs nothing else. How events change it is in ``evolution``;
the rules are in ``steps``, ``routing``, ``agent_loop``, ``people`` and ``lifecycle``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import artifacts, longterm
from hive_ray.core import events as ev
from hive_ray.core.holds import Hold
from hive_ray.core.ladder import Lowered
from hive_ray.core.messages import StepContent, StepKind, ToolCall, Turn
from hive_ray.core.values import Value
from hive_ray.graph.asking import Asked, Final

ERROR_KEY = "_error"
"""Memory key under which a node behind an ``on_failure`` edge finds what went wrong."""


ITEMS = "items"
"""Key under which the first ``MapProgressed`` of a map holds its list."""


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})


class StepStatus(IntEnum):
    READY = 0
    """Waits for admission."""
    LEASED = 1
    BACKOFF = 2
    """Waits for a timer."""
    UNKNOWN = 3
    """May have happened; waits for a human."""
    HELD = 4
    """Waits for a person's word before it may start."""


STILL = frozenset({StepStatus.UNKNOWN, StepStatus.HELD})
"""A step in one of these moves by a person only."""


class Permit(msgspec.Struct, array_like=True, frozen=True):
    """What people said about a step that policies asked about."""

    rules: tuple[str, ...] = ()
    """Rules whose question was answered with yes: they do not ask again."""
    arguments: dict[str, Value] | None = None
    """What was allowed, as it was shown or edited: the step gets exactly this."""
    asked: str = ""
    """The rule that asked last."""


class Step(msgspec.Struct, array_like=True):
    """One unit of dispatched work of a visit that is not finished."""

    call: int
    kind: StepKind
    name: str
    pool: str
    attempt: int = 1
    status: StepStatus = StepStatus.READY
    worker: str = ""
    reserved_nanousd: int = 0
    delay_us: int = 0
    turn: int = -1
    """Which tool call of the turn; -1 for others."""
    inputs: int = 0
    """Checksum of the inputs of the attempt under way (LLM steps of agent loops)."""
    shared_losses: int = 0
    """As in ``RetryScheduled``: makes it a suspect, which shares a worker with ever fewer others."""
    lone_losses: int = 0
    """As in ``RetryScheduled``: only these count against its retries."""
    hold: Hold | None = None
    """Of the attempt under way, if it can cost anything."""
    cleared: str = ""
    """What a person allowed: its approval. It is not asked for again."""
    permit: Permit | None = None
    """If policies have asked about it."""
    routed: bool = False
    """A policy chose its pool."""
    lowered: Lowered | None = None
    """What a ladder makes different about the attempt under way."""


class Loop(msgspec.Struct, array_like=True):
    """What an agent loop has gathered."""

    turns: int = 0
    """LLM calls, since the client last spoke if there is one."""
    conversation: list[Turn] = []
    outputs: dict[str, Value] = {}
    facts: dict[str, Any] = {}
    calls: list[ToolCall] = []
    """Tool calls of the present turn."""
    results: list[Turn | None] = []
    """Their results, in the order of the calls."""
    asks: bool = False
    """The present turn asked the client something."""
    question: Value | None = None
    done: bool = False
    """The LLM gave its final answer."""
    inherits: bool = False
    measured_tokens: int = 0
    """Input and output of the last LLM call: the next one cannot start from less."""
    appended_bytes: int = 0
    """Bytes that joined the conversation since, as 0.1.0 counts them; ``core.bounds`` counts for itself."""
    measured_turns: int = 0
    """So many turns of the conversation are in ``measured_tokens``."""
    measured_inputs: int = 0
    """Checksum of the inputs that are in ``measured_tokens``."""
    measured_model: str = ""
    """The model that was measured; empty: the node's own, as 0.1.0 knew no other."""


class Edit(msgspec.Struct, array_like=True, frozen=True):
    """An answer that somebody changed and somebody else must approve."""

    edition: int
    principal: str
    digest: str
    answer: StepContent


class Wait(msgspec.Struct, array_like=True):
    """A question to a person."""

    approval: str
    reason: str
    deadline_us: int
    """Until when the present owner is asked."""
    since_us: int
    owner: str = ""
    """Whom it is asked of now."""
    call: int = 0
    message: str = ""
    form: bytes = b""
    shown: dict[str, Value] = {}
    chain: tuple[Asked, ...] = ()
    """All owners in order, the first included; none where nobody else is asked later."""
    level: int = 0
    """Place of the present owner in it."""
    final: Final = Final.FAIL
    four_eyes: bool = False
    edit: Edit | None = None


class Children(msgspec.Struct, array_like=True):
    """A map or subgraph under way: which items have a child run, and what came of them."""

    total: int
    started: int = 0
    live: dict[int, str] = {}
    """Item to child run."""
    results: dict[int, dict[str, Value]] = {}
    failures: dict[int, str] = {}
    items: Value | None = None
    """The list as it was when the map began."""


class Visit(msgspec.Struct, array_like=True):
    """One stay at a node, from ``NodeEntered`` until it ends."""

    serial: int
    node: int
    floor: int
    path: tuple[int, ...]
    """Place in the order of visits; see ``routing.path_over``."""
    mapping_edges: tuple[int, ...] = ()
    """Edges by which the visit was entered: their input mappings apply."""
    steps: dict[int, Step] = {}
    calls: int = 0
    """Calls made so far; the next call's number."""
    loop: Loop | None = None
    wait: Wait | None = None
    children: Children | None = None
    deciding: bool = False
    """The node's work is done; an LLM chooses the edges."""
    since_us: int = 0
    """Wall time at which it was entered."""
    taken: int = 0
    """Fallbacks of its node taken so far; the last of them is what it does now."""


class Token(msgspec.Struct, array_like=True):
    """An edge was taken; its target has not started yet."""

    edge: int
    target: int
    floor: int
    path: tuple[int, ...]


class Ended(msgspec.Struct, array_like=True):
    """A visit that ended and whose edges are not chosen yet; never outlives one decision."""

    visit: Visit
    failure: str = ""
    message: str = ""
    route: str = ""
    chosen: tuple[str, ...] = ()
    completed: bool = False


class Turns(msgspec.Struct, array_like=True):
    """What a run's conversations hold: of the run, and by visit of the loops that inherited it."""

    run: list[Turn] = []
    loops: dict[int, list[Turn]] = {}


class Orphan(msgspec.Struct, array_like=True):
    """An attempt that was under way when its node or run ended; its worker still holds it."""

    worker: str
    reserved_nanousd: int
    hold: Hold | None = None


class Correction(msgspec.Struct, array_like=True, frozen=True):
    """A change of what was charged, that somebody asked for; ``attempt`` as ``attempt_key`` spells it."""

    nanousd: int
    attempt: str


class Allowance(msgspec.Struct, array_like=True, frozen=True):
    """What a run may spend beyond an account's limit."""

    nanousd: int = 0
    tokens: int = 0


class Writer(msgspec.Struct, array_like=True):
    """Place of the visit whose value of a key stands, in the order of ``routing.losing_keys``."""

    floor: int
    path: tuple[int, ...]


class Run(msgspec.Struct):
    """All that is known of one run."""

    id: str
    request_id: str
    team: str
    agent: str
    graph: str
    graph_name: str = ""
    status: RunStatus = RunStatus.QUEUED
    paused: bool = False
    submitted_us: int = 0
    finished_us: int = 0
    deadline_us: int = 0
    waiting_since_us: int = 0
    idempotency_key: str = ""
    digest: str = ""
    principal: str = ""
    traceparent: str = ""
    parent: str = ""
    parent_serial: int = 0
    item: int = -1
    depth: int = 0
    # money, in nano-dollars
    budget_nanousd: int = -1
    spent_nanousd: int = 0
    reserved_nanousd: int = 0
    overrun_nanousd: int = 0
    """Costs beyond reservations: by no more than this can the budget be passed."""
    # progress
    serial: int = 0
    """Serial number of the last visit."""
    approvals: int = 0
    visit_counts: dict[int, int] = {}
    visits: dict[int, Visit] = {}
    tokens: list[Token] = []
    ended: list[Ended] = []
    memory: dict[str, Value] = {}
    facts: dict[str, Any] = {}
    writers: dict[str, Writer] = {}
    output_keys: list[str] = []
    """Keys that nodes have written, in order of first writing."""
    strays: bool = False
    """A visit above the present floor ended without taking an edge: later ones do not follow from it."""
    waits: int = 0
    """Open waits for people, those of child runs included."""
    last_ended: int = -1
    terminal_reached: bool = False
    completed: bool = False
    """A client ended its conversation for good."""
    conversation: list[Turn] = []
    """Of graphs in continuous mode: what the loops so far have said and heard."""
    # the end
    reason: str = ""
    failure: str = ""
    failed_at: str = ""
    message: str = ""
    dead_lettered: bool = False
    attempts: int = 0
    answers: dict[str, str] = {}
    """Approval to the decision that resolved it."""
    resolved_unknown: dict[str, str] = {}
    """Attempt -> what a human decided about its unknown outcome."""
    orphans: dict[str, Orphan] = {}
    """``serial.call.attempt`` of attempts that ended for the run before they ended at their worker."""
    unseen: dict[str, int] = {}
    """Attempts whose end nobody saw, with what was charged for them: a late outcome corrects it."""
    corrections: dict[str, Correction] = {}
    """By id."""
    seq: int = 0
    """Sequence number of the last event applied, its own or of a child that it pays for."""
    told: int = 0
    """Sequence number of its own last event: what readers of its history can reach."""
    segments: list[int] = []
    """Numbers of the journal segments that hold events of this run and were not compacted yet."""
    key: bytes = b""
    """Reference to the key that seals its content: see ``core.keys``."""
    forgotten: bool = False
    """Its content was given up."""
    origin: ev.Origin | None = None
    """Of a fork: where it comes from."""
    serial_base: int = 0
    """Visits up to this one do not count against ``max_steps``: a resume granted as many again."""
    visit_base: dict[int, int] = {}
    """The same for ``max_node_visits``, by node."""
    artifacts: list[artifacts.KeptArtifact] = []
    """What its steps and those of its child runs made; a child run has none itself."""
    shelf: longterm.Shelf | None = None
    """Its own long-term memory, which its child runs share."""
    priority: int = 1
    """Index into ``core.plan.CLASSES``."""
    unseen_holds: dict[str, Hold] = {}
    """Of the attempts in ``unseen``: the windows in which they were charged."""
    allowances: dict[str, Allowance] = {}
    """By account: what people let this run spend beyond its limit."""
    lowered: dict[str, int] = {}
    """By model: the rung to which its budgets lead; see ``RunDegraded``."""
    degraded: int = 0
    """The lowest rung of the degrade ladder that a policy put it on, from 1; 0: none did."""
    callback: str = ""
    """Address that is told its end."""
    outside: bool = False
    """A fork that waits at the entrance: it holds visits, and none of them has begun."""

    @property
    def begun(self) -> bool:
        """Whether it was let in at the entrance."""
        return bool(self.serial) and not self.outside

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL


class Change(NamedTuple):
    """What an event of a run changes in its ancestors too."""

    spent_nanousd: int
    reserved_nanousd: int
    waits: int
    overrun_nanousd: int


NO_CHANGE = Change(0, 0, 0, 0)


def standing(run: Run) -> Change:
    """What a run has changed in its ancestors so far."""
    return Change(run.spent_nanousd, run.reserved_nanousd, run.waits, run.overrun_nanousd)


def since(run: Run, before: Change) -> Change:
    """What has changed since ``standing`` was asked."""
    spent, reserved, waits, overrun = before
    return Change(
        run.spent_nanousd - spent,
        run.reserved_nanousd - reserved,
        run.waits - waits,
        run.overrun_nanousd - overrun,
    )


def status_of(run: Run) -> RunStatus:
    """The status that people see: a run with nothing under way but waits is waiting."""
    if run.terminal:
        return run.status
    if run.paused:
        return RunStatus.WAITING
    busy = waits = False
    for visit in run.visits.values():
        busy = busy or has_live_steps(visit) or (visit.children is not None and bool(visit.children.live))
        waits = waits or visit.wait is not None
    return RunStatus.WAITING if waits and not busy else run.status


def is_waiting(run: Run, known: Mapping[str, Run]) -> bool:
    """Whether a run has nothing under way but waits, its own and those of its child runs.

    Args:
        known: runs in memory; a child that is not there waits, or it would be there.
    """
    if status_of(run) is RunStatus.WAITING:
        return True
    if run.terminal or not run.waits or any(has_live_steps(visit) for visit in run.visits.values()):
        return False
    live = [v.children.live.values() for v in run.visits.values() if v.children is not None]
    return all(is_waiting(known[child], known) for some in live for child in some if child in known)


def note_segment(run: Run, number: int, compacted: int) -> None:
    """Its next events stand in segment ``number``; segments that became history need not be known."""
    while run.segments and run.segments[0] <= compacted:
        del run.segments[0]
    if not run.segments or run.segments[-1] < number:
        run.segments.append(number)


def has_live_steps(visit: Visit) -> bool:
    """Whether one of its steps goes on without a person."""
    return any(step.status not in STILL for step in visit.steps.values())


def root_of(run_id: str) -> str:
    """The root run of a run, by its id: a child's is ``{root}_{serial}-{item}``, deeper ones go on so.

    Children that release 0.1.0 began are named otherwise, and taken for roots.
    """
    return run_id.partition("_")[0]


def attempt_key(serial: int, call: int, attempt: int) -> str:
    return f"{serial}.{call}.{attempt}"


def answer_digest(decision: str, digest: str) -> str:
    """By which a repeated answer is told from a different one."""
    return f"{decision}:{digest}"


def answer_digests(decision: str, digest: str, plain: str) -> tuple[str, ...]:
    """The same, also as it was kept before digests had a secret."""
    known = answer_digest(decision, digest)
    return (known, answer_digest(decision, plain)) if plain else (known,)


def part_turns(run: Run) -> Turns:
    """Take a run's conversations out of its state."""
    turns = Turns(run.conversation)
    run.conversation = []
    for serial, visit in run.visits.items():
        if visit.loop is not None and visit.loop.conversation:
            turns.loops[serial] = visit.loop.conversation
            visit.loop.conversation = []
    return turns


# --- snapshots -----------------------------------------------------------------------------------

encode_run = msgspec.msgpack.Encoder().encode
decode_run = msgspec.msgpack.Decoder(Run).decode
encode_turns = msgspec.msgpack.Encoder().encode
decode_turns = msgspec.msgpack.Decoder(Turns).decode
