"""What requests carry; a field that is not here is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
RunId = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]
Priority = Literal["interactive", "normal", "batch"]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=9)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Submission(Body):
    """A run to begin: a graph, or the version of one that was accepted before, or an agent's name."""

    graph: dict[str, Any] | None = None
    graph_version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    agent: Name | None = None
    input: dict[str, Any] = {}
    budget_usd: Usd | None = None
    deadline_s: float | None = Field(default=None, gt=0, le=366 * 86_400)
    priority: Priority | None = None
    """Who goes first for workers; by default as the configuration has it for the agent or the team."""
    callback_url: str = Field(default="", max_length=2000)
    """Where the end of the run is told, signed; nobody need watch it."""

    @model_validator(mode="after")
    def _one_graph(self) -> Submission:
        if self.graph is not None and self.graph_version is not None:
            raise ValueError("give either graph or graph_version")
        if self.graph is None and self.graph_version is None and self.agent is None:
            raise ValueError("give a graph, a graph_version or an agent")
        return self


class BatchItem(Submission):
    """One of many runs to begin."""

    idempotency_key: str = Field(default="", max_length=255)


class Batch(Body):
    """Runs to begin; each is looked at by itself (``BatchItem``), so that a bad one spoils no other."""

    runs: list[Any] = Field(min_length=1, max_length=1000)


class ForkRequest(Body):
    """Where a run is cut, and what is different from there on."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: str = Field(alias="from", min_length=1)
    """Id of the node before which it is cut."""
    visit: int = Field(default=0, ge=0)
    """Which visit of the node, from 1; 0: the last."""
    input: dict[str, Any] = {}
    """Values that replace those in the run's memory."""
    agent: Name | None = None
    budget_usd: Usd | None = None
    deadline_s: float | None = Field(default=None, gt=0, le=366 * 86_400)
    priority: Priority | None = None
    """By default that of the run that is forked."""
    callback_url: str | None = Field(default=None, max_length=2000)
    """Where its end is told; by default where that of its parent is. Empty: nowhere."""


class Resumption(Body):
    """What a run that takes the place of a failed one is to have; nothing for a paused one."""

    budget_usd: Usd | None = None
    deadline_s: float | None = Field(default=None, gt=0, le=366 * 86_400)
    callback_url: str | None = Field(default=None, max_length=2000)
    """As in ``ForkRequest``."""


class Selection(Body):
    """Which runs: by id, or all that fit every filter that is given."""

    ids: list[RunId] = Field(default=[], max_length=1000)
    status: str = ""
    """One or several, with commas."""
    agent: str = ""
    older_than_s: float = Field(default=0, ge=0, le=100 * 366 * 86_400)
    dead_lettered: bool = False
    all: bool = False
    """Needed to select without any filter."""
    reason: str = Field(default="", max_length=2000)
    limit: int = Field(default=100, ge=1, le=1000)
    """Runs in one call."""
    cursor: str = ""
    """``next_cursor`` of the call before."""

    @model_validator(mode="after")
    def _selects(self) -> Selection:
        filters = (self.status, self.agent, self.older_than_s, self.dead_lettered)
        if not (self.ids or any(filters) or self.all):
            raise ValueError("give ids, a filter, or all: true")
        if self.ids and (any(filters) or self.all):
            raise ValueError("give either ids or filters")
        return self


class Reason(Body):
    """Why an operator does it."""

    reason: str = Field(default="", max_length=2000)


class Message(Body):
    """What the client of a run says."""

    said: Any
    node: str = ""


class Completion(Body):
    """The end of a conversation, with outputs that it should have set."""

    outputs: dict[str, Any] = {}
    node: str = ""


class Decision(Body):
    """A person's answer to an approval."""

    decision: Literal["approve", "reject", "edit", "happened", "did_not_happen", "abort", "resume", "retry"]
    answer: dict[str, Any] = {}
    comment: str = Field(default="", max_length=10_000)
    edition: int | None = Field(default=None, ge=0, le=1_000_000)
    """Of the answer that is approved, if somebody edited it."""


class AgentGraph(Body):
    """The graph that an agent's name stands for."""

    graph: dict[str, Any] | None = None
    graph_version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,128}$")


class LintRequest(Body):
    graph: dict[str, Any]


class Level(Body):
    """The feature level that the state shall have."""

    level: int = Field(ge=1, le=1_000)


class Correction(Body):
    """What an attempt, or a run as a whole, cost more or less than it was charged."""

    correction_id: str = Field(min_length=1, max_length=200)
    amount_usd: Annotated[Decimal, Field(ge=-1_000_000, le=1_000_000, decimal_places=9)]
    attempt: str = Field(default="", pattern=r"^([0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,18})?$")
    """``serial.call.attempt``, as the run's events name it; empty: the run as a whole."""
    reason: str = Field(default="", max_length=2000)


class NewKey(Body):
    """An API key to make."""

    name: Name | None = None
    """By default its id."""
    team: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)] | None = None
    """By default the caller's."""
    scopes: list[Literal["submit", "read", "approve", "operate", "admin"]] = Field(min_length=1)
    roles: list[Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]] = Field(default=[], max_length=50)
    ttl_s: float | None = Field(default=None, gt=0, le=100 * 366 * 86_400)
    """Seconds for which it is good; by default until it is revoked."""


class Roll(Body):
    """A new secret for a key."""

    grace_s: float = Field(default=0, ge=0, le=366 * 86_400)
    """Seconds for which the old secret is good beside it."""


class MemoryValue(Body):
    """A value of long-term memory."""

    value: Any
