"""Commands: what is asked of the core. Imperative; time, identity and chance come with them."""

from __future__ import annotations

import msgspec

from hive_ray.core.events import Origin
from hive_ray.core.messages import StepContent
from hive_ray.core.plan import AccountPlan, RatePlan
from hive_ray.core.values import Value
from hive_ray.graph.asking import AskPlan


class Moment(msgspec.Struct, frozen=True):
    """When a command is decided, and the chance it may use."""

    wall_us: int
    """Microseconds since the epoch."""
    chance: float = 0.5
    """Uniform in [0, 1): jitter."""
    mono_us: int = 0
    """Monotonic microseconds: rates."""
    asks: AskPlan = AskPlan()
    """Who is asked where a graph says nothing."""


class Submit(msgspec.Struct, frozen=True, tag=True):
    run: str
    request_id: str
    team: str
    agent: str
    graph: str
    content: StepContent
    """``outputs``: the input; ``facts``: its facts."""
    digest: str = ""
    idempotency_key: str = ""
    budget_nanousd: int = -1
    deadline_us: int = 0
    """Wall time; 0: the graph's default."""
    principal: str = ""
    traceparent: str = ""
    key: bytes = b""
    """Reference to the run's content key, never used before; empty: the controller gives one."""
    plain_digest: str = ""
    """The digest as a state of feature level 1 keeps it, for repeats of what was sent before."""
    priority: int = -1
    """Index into ``core.plan.CLASSES``; -1: as the plan has it for its agent or team."""
    callback: str = ""
    """Address that is told the end of the run."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Begin a run with the state of another, as whoever asks has derived it from that run's events."""

    run: str
    request_id: str
    team: str
    agent: str
    graph: str
    content: StepContent
    """``state``: the cut, changes included; ``outputs``: the changes."""
    origin: Origin
    digest: str = ""
    idempotency_key: str = ""
    budget_nanousd: int = -1
    deadline_us: int = 0
    """Wall time; 0: the graph's default."""
    principal: str = ""
    traceparent: str = ""
    key: bytes = b""
    """As in ``Submit``."""
    plain_digest: str = ""
    priority: int = -1


class Cancel(msgspec.Struct, frozen=True, tag=True):
    run: str
    reason: str = ""
    principal: str = ""


class Pause(msgspec.Struct, frozen=True, tag=True):
    run: str
    reason: str = ""
    principal: str = ""


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Give up the content of a run that has ended, for good."""

    run: str
    principal: str = ""


class Resume(msgspec.Struct, frozen=True, tag=True):
    run: str
    principal: str = ""


class Resolve(msgspec.Struct, frozen=True, tag=True):
    """A person's answer to an approval. ``content.outputs`` is the answer's form."""

    run: str
    approval: str
    decision: str
    content: StepContent
    principal: str = ""
    digest: str = ""
    plain_digest: str = ""
    """As in ``Submit``."""
    roles: tuple[str, ...] = ()
    """Of the principal, as the controller's door knows them."""
    as_admin: bool = True
    """For whomever is asked; the door lets only admins do so, and everybody where there are no keys."""
    edition: int = -1
    """Of the answer that is approved; -1: the one that was asked for."""


class Signal(msgspec.Struct, frozen=True, tag=True):
    """The client of a run says something (``content.outputs["said"]``)."""

    run: str
    content: StepContent
    node: str = ""
    principal: str = ""


class Complete(msgspec.Struct, frozen=True, tag=True):
    """The client ends the conversation at a client-facing node."""

    run: str
    content: StepContent
    node: str = ""
    principal: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A command that does not fit the state; nothing was decided."""

    problem: str
    """``not_found``, ``conflict``, ``mismatch``, ``stale`` (another version is there), ``invalid``,
    ``overloaded``, ``unavailable``, ``unauthenticated`` (nobody knows who asks) or ``forbidden`` (they may
    not)."""
    message: str
    retry_after_s: float = 0.0


class Register(msgspec.Struct, frozen=True, tag=True):
    """Let a name stand for a graph."""

    name: str
    team: str
    graph: str
    principal: str = ""


class CorrectCost(msgspec.Struct, frozen=True, tag=True):
    """Change what was charged for an attempt, or for a run as a whole. ``content.message``: why.

    ``nanousd`` is added; ``correction`` names it, so that a repeat changes nothing.
    """

    run: str
    correction: str
    nanousd: int
    content: StepContent
    serial: int = 0
    call: int = 0
    attempt: int = 0
    principal: str = ""


class RaiseLevel(msgspec.Struct, frozen=True, tag=True):
    """Let the state hold what a later release writes; there is no way back."""

    level: int
    principal: str = ""


class ApplyPlan(msgspec.Struct, frozen=True, tag=True):
    """Put what ``hive.yaml`` says about control in force."""

    plan: bytes
    """``core.plan.encode_plan`` of it."""
    digest: str
    principal: str = ""


class ChangeBudget(msgspec.Struct, frozen=True, tag=True):
    """Change an account's limits. ``content.message``: why."""

    account: str
    plan: AccountPlan | None
    """None: back to what the configuration says."""
    content: StepContent = StepContent()
    principal: str = ""


class ChangeRate(msgspec.Struct, frozen=True, tag=True):
    """Change the rates of a pool, a model or a tool."""

    name: str
    plan: RatePlan | None
    content: StepContent = StepContent()
    principal: str = ""


class ForceBreaker(msgspec.Struct, frozen=True, tag=True):
    """Hold a breaker ``open`` or ``closed``, or let it decide again (``auto``). ``content.message``: why."""

    name: str
    mode: str
    content: StepContent
    principal: str = ""


class ChangeRunsLimit(msgspec.Struct, frozen=True, tag=True):
    """Change how many runs of a team or an agent may be under way."""

    name: str
    runs: int
    """-1: back to what the configuration says; 0: any number."""
    content: StepContent = StepContent()
    principal: str = ""


class StopSpending(msgspec.Struct, frozen=True, tag=True):
    """Start no further step of a team, an agent, a workflow, a pool, a model or a tool."""

    scope: str
    content: StepContent = StepContent()
    principal: str = ""


class AllowSpending(msgspec.Struct, frozen=True, tag=True):
    scope: str
    principal: str = ""


class Maintain(msgspec.Struct, frozen=True, tag=True):
    """Admit nothing new, or admit it again; what was accepted goes on."""

    on: bool
    content: StepContent = StepContent()
    principal: str = ""


class PutMemory(msgspec.Struct, frozen=True, tag=True):
    """Write a value of long-term memory from outside."""

    scope: str
    owner: str
    key: str
    value: Value
    if_version: int = -1
    """The version that must stand there; 0: the key must be absent; -1: any."""
    principal: str = ""
    request_id: str = ""


class DeleteMemory(msgspec.Struct, frozen=True, tag=True):
    """Delete a key of long-term memory from outside."""

    scope: str
    owner: str
    key: str
    if_version: int = -1
    principal: str = ""
    request_id: str = ""


class CreateKey(msgspec.Struct, frozen=True, tag=True):
    """Let somebody ask from outside. Whoever sends it has made the secret, and sends its keyed hash."""

    key: str
    """Its id."""
    name: str
    team: str
    scopes: tuple[str, ...]
    digest: bytes
    roles: tuple[str, ...] = ()
    expires_us: int = 0
    """Wall time; 0: never."""
    principal: str = ""


class RollKey(msgspec.Struct, frozen=True, tag=True):
    """Give a key a new secret."""

    key: str
    digest: bytes
    old_until_us: int = 0
    """Wall time until which the old secret is good."""
    principal: str = ""


class RevokeKey(msgspec.Struct, frozen=True, tag=True):
    """End a key."""

    key: str
    principal: str = ""


Command = (
    Submit
    | Fork
    | Cancel
    | Pause
    | Resume
    | Resolve
    | Signal
    | Complete
    | CorrectCost
    | Register
    | RaiseLevel
    | PutMemory
    | DeleteMemory
    | Forget
    | ApplyPlan
    | ChangeBudget
    | ChangeRate
    | ChangeRunsLimit
    | ForceBreaker
    | StopSpending
    | AllowSpending
    | Maintain
    | CreateKey
    | RollKey
    | RevokeKey
)
