"""What users write: graphs, nodes and edges, in the fields of Hive's ``agent.json`` plus our own.

A ``GraphSpec`` is the canonical form: ``hive_format`` brings every generation of the format to it,
``builder`` makes it in Python, ``compiler`` turns it into what is executed. Its parts are checked one by
one here; how they fit together is the compiler's matter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hive_ray.graph.compiled import EdgeCondition, NodeKind

NAME_LIMIT = 200
"""Characters of an id or a memory key."""

NODES_LIMIT = 2000
EDGES_LIMIT = 10_000
LIST_LIMIT = 1000
"""Entries of one list of keys, tools or routes."""

TEXT_LIMIT = 1_000_000
"""Characters of one prompt or description."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_YEAR_S = 366 * 86_400.0


def parse_seconds(value: Any) -> Any:
    """``"1h30m"`` as seconds; other values are left to the type check."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError("not a duration: write seconds as a number, or for example '90s', '15m', '1h30m'")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


Name = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
Names = Annotated[list[Name], Field(max_length=LIST_LIMIT)]
Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, le=_YEAR_S, allow_inf_nan=False)]
Owner = Annotated[str, Field(max_length=NAME_LIMIT, pattern=r"^[!-~]*$")]
"""``key:NAME``, ``user:SUB``, ``role:NAME`` or a role's bare name; empty is anyone."""
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class Spec(BaseModel):
    """Unknown fields are refused, and what was written never shows in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RetrySpec(Spec):
    """How a step of the node is tried again."""

    max_retries: int | None = Field(default=None, ge=0, le=100)
    base_s: Seconds | None = None
    cap_s: Seconds | None = None
    retry_on: Names = []


class EscalationSpec(Spec):
    """Who is asked next, and how long after the one before was."""

    owner: Owner
    after_s: Seconds


class ApprovalSpec(Spec):
    """What a human node asks for, of whom, until when, and what holds if nobody answers.

    What is absent is as ``approvals`` in ``hive.yaml`` has it.
    """

    model_config = ConfigDict(populate_by_name=True)

    reason: Text = ""
    form: dict[str, Any] | None = None
    """JSON Schema of the answer; without it one is derived from ``output_keys``."""
    deadline_s: Seconds | None = None
    """From the first asking to the end, later owners included."""
    owner: Owner | None = None
    escalate: Annotated[list[EscalationSpec], Field(max_length=20)] | None = None
    final: Literal["fail", "approve", "reject"] | dict[str, Any] | None = Field(default=None, alias="finally")
    """A mapping is the answer that holds then."""
    four_eyes: bool | None = None


class FallbackSpec(Spec):
    """What takes the place of a step that failed for good because something is away: one of the four."""

    instead_of: Name | None = None
    """The tool of an agent whose calls a ``tool`` or ``value`` is for; without it, the node's steps."""
    model: Name | None = None
    tool: Name | None = None
    value: dict[str, Any] | None = None
    """The node's outputs; with ``instead_of``, the result of the call."""
    human: ApprovalSpec | None = None
    on: Names = []
    """``TIMEOUT``, ``RATE_LIMITED``, ``TOOL_UNAVAILABLE``, ``LLM_UNAVAILABLE`` (these four by default) and
    ``CONTEXT_TOO_LONG``."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class LoopSpec(Spec):
    """Hive's ``loop_config``; only the number of turns means something here."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)
    max_iterations: int | None = Field(default=None, ge=1, le=10_000)


class BudgetSpec(Spec):
    """Ceilings of one run, when its submission names none."""

    budget_usd: Usd | None = None
    deadline_s: Seconds | None = None


class NodeSpec(Spec):
    """One node. Which fields it needs depends on ``node_type``."""

    id: Name
    node_type: NodeKind
    name: Text = ""
    description: Text = ""
    input_keys: Names = []
    output_keys: Names = []
    nullable_output_keys: Names = []
    input_schema: dict[str, Any] | None = None
    """JSON Schema, or Hive's ``{key: {type, required}}``, that the node's inputs must satisfy."""
    output_schema: dict[str, Any] | None = None
    success_criteria: Text = ""
    # work
    function: Name | None = None
    tool: Name | None = None
    tools: Names = []
    routes: dict[Name, Name] = Field(default={}, max_length=LIST_LIMIT)
    sub_agents: Names = []
    memory: Names = []
    """What it reads of long-term memory: ``SCOPE:KEY``, ``SCOPE:PREFIX*`` or ``NAME=SCOPE:KEY``."""
    # LLM
    model: Name | None = None
    system_prompt: Text = ""
    prompt: Text = ""
    """User prompt template with ``{key}`` or ``{{key}}``."""
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_turns: int | None = Field(default=None, ge=1, le=10_000)
    loop_config: LoopSpec | None = None
    client_facing: bool = False
    idle_s: Seconds | None = None
    record: bool = False
    # dispatch
    pool: Name | None = None
    timeout_s: Seconds | None = None
    deadline_s: Seconds | None = None
    """For all attempts of its steps together, from the moment at which the node is entered."""
    idempotent: bool | None = None
    cost_usd: Usd = Decimal(0)
    max_retries: int | None = Field(default=None, ge=0, le=100)
    retry_on: Names = []
    retry: RetrySpec | None = None
    fallback: Annotated[list[FallbackSpec], BeforeValidator(_as_list), Field(max_length=8)] = []
    """One, or several that are taken in order."""
    max_node_visits: int = Field(default=0, ge=0, le=1_000_000)
    # human
    approval: ApprovalSpec | None = None
    # map and subgraph
    map_over: Name | None = None
    item_key: Name = "item"
    window: int = Field(default=8, ge=1, le=1000)
    max_items: int = Field(default=10_000, ge=1, le=1_000_000)
    on_item_failure: Literal["fail", "skip", "collect"] = "fail"
    body: GraphSpec | None = None
    subgraph: GraphSpec | None = None


class EdgeSpec(Spec):
    """One edge; ``condition_expr`` is ANDed with the condition, whatever it is."""

    id: Name
    source: Name
    target: Name
    condition: EdgeCondition = EdgeCondition.ALWAYS
    condition_expr: str | None = None
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)
    input_mapping: dict[Name, Text] = Field(default={}, max_length=LIST_LIMIT)
    description: Text = ""


class GraphSpec(Spec):
    """A whole graph in canonical form."""

    id: Name
    nodes: list[NodeSpec] = Field(min_length=1, max_length=NODES_LIMIT)
    edges: list[EdgeSpec] = Field(default=[], max_length=EDGES_LIMIT)
    name: Text = ""
    description: Text = ""
    entry_node: Name | None = None
    terminal_nodes: Annotated[list[Name], Field(max_length=NODES_LIMIT)] | None = None
    """``None``: every node without an edge that leaves."""
    pause_nodes: Names = []
    conversation_mode: Literal["continuous", "isolated"] | None = None
    identity_prompt: Text = ""
    max_steps: int = Field(default=100, ge=1, le=1_000_000)
    max_retries_per_node: int | None = Field(default=None, ge=0, le=100)
    loop_config: LoopSpec | None = None
    default_model: Name | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    budget: BudgetSpec | None = None
    input_schema: dict[str, Any] | None = None
    """JSON Schema of the run's input; its properties count as keys that the input brings."""
    entry_points: dict[str, Any] = Field(default={}, max_length=LIST_LIMIT)
    """Hive's; ``start`` is ``entry_node``, the others mean nothing here."""
    parallel_groups: list[dict[str, Any]] = Field(default=[], max_length=LIST_LIMIT)
    """Hive's; branches run side by side by themselves, and a join waits for all of them."""


def nearest(name: str, known: Collection[str]) -> str:
    """A remedy that names the known word nearest to ``name``, or all of them if they are few."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if 0 < len(known) <= 12:
        return "known: " + ", ".join(sorted(known))
    return ""
