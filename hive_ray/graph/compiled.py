"""A graph after acceptance: plain structs that the controller and the workers execute.

Everything here is data. ``hive_ray.graph.compiler`` makes it, ``hive_ray.core`` walks it, workers
read the parts that concern their step. Node and edge positions are indices into the tuples of
``CompiledGraph``; sets of nodes are bitmasks over those indices.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from hive_ray.graph.asking import Asked, AskPlan

Scalar = bool | int | float | str | None
Json = Any

FORMAT = 1
"""Version of this layout; part of the graph's hash."""

FACT_LIMIT_BYTES = 1024
"""A fact longer than this is unusable in an expression (the evaluation fails, named)."""

TOO_LARGE = "\u0000too-large"
"""Stands for a fact longer than ``FACT_LIMIT_BYTES``; no usable fact contains a NUL."""


if TYPE_CHECKING:
    Mask = int
else:

    class Mask(int):
        """A set of node indices as bits; bytes on the wire, since msgpack's integers end at 64 bits."""


class NodeKind(StrEnum):
    FUNCTION = "function"
    TOOL = "tool"
    ROUTER = "router"
    LLM_GENERATE = "llm_generate"
    LLM_TOOL_USE = "llm_tool_use"
    EVENT_LOOP = "event_loop"
    HUMAN_INPUT = "human_input"
    MAP = "map"
    SUBGRAPH = "subgraph"


LOOPS = (NodeKind.EVENT_LOOP, NodeKind.LLM_TOOL_USE)
"""Agents: nodes that talk with a model for several turns."""


class EdgeCondition(StrEnum):
    ALWAYS = "always"
    ON_SUCCESS = "on_success"
    ON_FAILURE = "on_failure"
    CONDITIONAL = "conditional"
    LLM_DECIDE = "llm_decide"
    ROUTE = "route"  # made by the compiler from a router's ``routes``


class MemoryScope(StrEnum):
    """Whose long-term memory: one run's (its children share it), an agent's, a team's."""

    RUN = "run"
    AGENT = "agent"
    TEAM = "team"


class MemoryPlan(msgspec.Struct, frozen=True):
    """What a step reads of long-term memory before it starts."""

    scope: MemoryScope
    key: str
    """The key, or what keys begin with; ``{input}`` stands for a small input of the node."""
    prefix: bool = False
    name: str = ""
    """Under which an LLM node finds the value among its inputs; of a prefix, each key is its own name."""
    inputs: tuple[str, ...] = ()
    """The inputs that the key is made of."""


class RetryPlan(msgspec.Struct, frozen=True):
    """Exponential backoff with full jitter: delay = random * min(cap, base * 2**(attempt - 1))."""

    max_retries: int = 3
    base_us: int = 500_000
    cap_us: int = 30_000_000
    retry_on: tuple[str, ...] = ()
    """Failure kinds to retry; empty means every kind that can pass by itself."""


class ModelPlan(msgspec.Struct, frozen=True):
    """What an LLM step needs, and what bounds its cost before it starts.

    Prices are nano-dollars per million tokens at the dearest class that can apply; the strict bound
    of a call is ``core.bounds.prompt_tokens(…) * input_price + max_tokens * output_price``.
    """

    model: str
    max_tokens: int
    prompt_bytes: int
    """Of all that the node's step sends whatever its inputs are."""
    input_nanousd_per_mtok: int = 0
    output_nanousd_per_mtok: int = 0
    temperature: float | None = None
    decide_bytes: int = 0
    """The same of the step that chooses among the node's edges."""
    mentions: dict[str, int] | None = None
    """How often the prompts show each input; ``None`` in plans of 0.1.0, which did not count."""


class ToolPlan(msgspec.Struct, frozen=True):
    """One tool that a node may call."""

    name: str
    pool: str = "tool"
    idempotent: bool = False
    timeout_us: int = 60_000_000
    cost_nanousd: int = 0
    tags: tuple[str, ...] = ()
    memory: tuple[MemoryPlan, ...] = ()
    schema: bytes = b""
    """JSON Schema (bytes) of its arguments; empty: it is not known."""


class HumanPlan(msgspec.Struct, frozen=True):
    """What a human node asks for."""

    reason: str
    form: bytes
    """JSON Schema of the answer, as JSON bytes."""
    deadline_us: int
    owner: str = ""
    has_approved: bool = False
    """``approved`` is an output key: a rejection then succeeds with ``approved = false``."""
    asks: AskPlan | None = None
    """Who is asked; ``None`` in plans of 0.1.0, which knew one owner."""
    default: bytes = b""
    """The answer that holds if nobody gives one (``Final.ANSWER``), as JSON bytes."""

    @property
    def asking(self) -> AskPlan:
        """Who is asked, one after the other."""
        return self.asks or AskPlan((Asked(self.owner, self.deadline_us),))


class FallbackKind(StrEnum):
    MODEL = "model"
    TOOL = "tool"
    VALUE = "value"
    HUMAN = "human"


class FallbackPlan(msgspec.Struct, frozen=True):
    """What takes the place of a step that failed for good; of its parts, the one that its kind names."""

    kind: FallbackKind
    on: tuple[str, ...]
    """Failure kinds upon which it is taken."""
    model: ModelPlan | None = None
    tool: ToolPlan | None = None
    value: bytes = b""
    """The node's outputs, and its ``route`` if it has routes, as JSON bytes; with ``instead_of`` a result."""
    human: HumanPlan | None = None
    instead_of: str = ""
    """The tool of an agent loop whose calls it takes the place of; empty: of the node's own steps."""


class MapPlan(msgspec.Struct, frozen=True):
    """Run ``body`` once for each item of the list under ``over``."""

    over: str
    item_key: str
    body: str
    """Hash of the compiled graph that runs for an item."""
    window: int = 8
    max_items: int = 10_000
    on_failure: str = "fail"
    """``fail`` ends the map, ``skip`` leaves the item out, ``collect`` keeps an error in its place."""


class SubgraphPlan(msgspec.Struct, frozen=True):
    """Run another graph as one node."""

    body: str


class NodePlan(msgspec.Struct, frozen=True):
    """One node, everything resolved."""

    id: str
    index: int
    kind: NodeKind
    pool: str
    input_keys: tuple[str, ...] = ()
    output_keys: tuple[str, ...] = ()
    nullable_keys: tuple[str, ...] = ()
    timeout_us: int = 30_000_000
    idempotent: bool = False
    retry: RetryPlan = RetryPlan()
    max_visits: int = 0
    """0 means no limit of its own (``max_steps`` of the graph still holds)."""
    cost_nanousd: int = 0
    """Declared worst-case cost of a function or tool step."""
    function: str = ""
    """Registered function or tool that this node runs (function, tool, router with a function)."""
    model: ModelPlan | None = None
    tools: tuple[ToolPlan, ...] = ()
    routes: tuple[str, ...] = ()
    decides: bool = False
    """The node has ``llm_decide`` edges: one more LLM step chooses among them."""
    client_facing: bool = False
    max_turns: int = 50
    human: HumanPlan | None = None
    map: MapPlan | None = None
    subgraph: SubgraphPlan | None = None
    prompt: str = ""
    """System prompt (LLM kinds)."""
    instruction: str = ""
    """User prompt template with ``{key}`` or ``{{key}}``; empty: the inputs are given as JSON."""
    output_schema: bytes = b""
    """JSON Schema (bytes) that the outputs must satisfy; empty means any value for each key."""
    description: str = ""
    record: bool = False
    idle_us: int = 86_400_000_000
    """How long a client-facing node waits for its client."""
    pause: bool = False
    """The run waits for ``resume`` before this node starts."""
    terminal: bool = False
    out_edges: tuple[int, ...] = ()
    """Indices of edges that leave, in declaration order."""
    reached_from: Mask = Mask(0)
    """Bitmask of the nodes from which this one can be reached over one edge or more."""
    comes_after: Mask = Mask(0)
    """The same over edges that do not go back: in a cycle, the nodes that stand before this one."""
    input_schema: bytes = b""
    """JSON Schema (bytes) that the inputs must satisfy; empty means any."""
    memory: tuple[MemoryPlan, ...] = ()
    """What its steps read of long-term memory; of an agent loop, its LLM and each of its tools."""
    deadline_us: int = 0
    """How long after it was entered an attempt of its steps may begin and last; 0: as long as the run."""
    fallbacks: tuple[FallbackPlan, ...] = ()
    """In the order in which they are taken."""

    def stand_in(self, tool: str) -> ToolPlan | None:
        """The tool of that name that takes the place of another one."""
        plans = (one.tool for one in self.fallbacks)
        return next((plan for plan in plans if plan is not None and plan.name == tool), None)

    def called(self, tool: str) -> ToolPlan | None:
        """The tool of that name that is called in an agent loop: the node's, or what took its place."""
        own = next((plan for plan in self.tools if plan.name == tool), None)
        return own if own is not None else self.stand_in(tool)

    def model_named(self, name: str) -> ModelPlan | None:
        """The plan of a model that may be asked here; the node's own if no fallback has that name."""
        plans = (one.model for one in self.fallbacks)
        return next((plan for plan in plans if plan is not None and plan.model == name), self.model)


class EdgePlan(msgspec.Struct, frozen=True):
    id: str
    index: int
    source: int
    target: int
    condition: EdgeCondition
    priority: int = 0
    expression: int = -1
    """Index into ``CompiledGraph.expressions``; ANDed with the condition, whatever it is. -1: none."""
    input_mapping: tuple[tuple[str, str], ...] = ()
    """(name at the target, key in memory) pairs."""
    route: str = ""
    description: str = ""
    back: bool = False
    """It closes a cycle: as seen from the entry, its target stands before its source."""


class Expression(msgspec.Struct, frozen=True):
    """A condition as the user wrote it and as CEL over fact variables ``f0, f1, …``."""

    source: str
    cel: str
    facts: tuple[int, ...]
    """Indices into ``CompiledGraph.facts`` of the variables that it reads."""


class CompiledGraph(msgspec.Struct, frozen=True):
    id: str
    version: str
    """Hex SHA-256 of the content (identity of the graph)."""
    entry: int
    nodes: tuple[NodePlan, ...]
    edges: tuple[EdgePlan, ...]
    expressions: tuple[Expression, ...] = ()
    facts: tuple[tuple[str, ...], ...] = ()
    """Paths into memory that expressions read: ``("ticket", "customer", "plan")``."""
    max_steps: int = 100
    deadline_us: int = 86_400_000_000
    budget_nanousd: int = -1
    """Ceiling for one run when the submission names none; -1: none."""
    identity_prompt: str = ""
    continuous: bool = False
    """Client-facing nodes share one conversation (``conversation_mode: continuous``)."""
    subgraphs: tuple[CompiledGraph, ...] = ()
    name: str = ""
    input_keys: tuple[str, ...] = ()
    """What the entry node reads that nothing in the graph writes; shown by ``lint`` and ``estimate``."""
    format: int = FORMAT


def fact_name(path: tuple[str, ...]) -> str:
    """The name under which a fact travels: ``ticket.customer.plan``."""
    return ".".join(path)


def extract_facts(graph: CompiledGraph, values: Mapping[str, Json]) -> dict[str, Scalar | Json]:
    """The values at ``graph.facts`` whose first key is in ``values``.

    Args:
        values: memory keys to decoded values: a step's outputs, or a run's input.

    Returns:
        Fact name to value. An absent path is ``None``. ``TOO_LARGE`` stands for a value whose JSON is
        longer than ``FACT_LIMIT_BYTES``, so that an expression that reads it fails by name.
    """
    found: dict[str, Scalar | Json] = {}
    for path in graph.facts:
        if path[0] not in values:
            continue
        value: Json = values[path[0]]
        for key in path[1:]:
            value = value.get(key) if isinstance(value, dict) else None
        is_small = isinstance(value, (bool, int, float, type(None)))
        if not is_small and len(msgspec.json.encode(value)) > FACT_LIMIT_BYTES:
            value = TOO_LARGE
        found[fact_name(path)] = value
    return found


def _mask_to_bytes(value: object) -> bytes:
    if not isinstance(value, Mask):
        raise NotImplementedError(f"{type(value).__name__} in a compiled graph")
    return value.to_bytes((value.bit_length() + 7) // 8, "little")


def _mask_from_bytes(kind: type, value: object) -> Mask:
    if not isinstance(value, bytes | int):
        raise ValueError(f"{kind.__name__} from {type(value).__name__}")
    return Mask(value if isinstance(value, int) else int.from_bytes(value, "little"))


_encoder = msgspec.msgpack.Encoder(enc_hook=_mask_to_bytes)
_decoder = msgspec.msgpack.Decoder(CompiledGraph, dec_hook=_mask_from_bytes)


def encode_graph(graph: CompiledGraph) -> bytes:
    """Msgpack of a compiled graph, as stored under its hash."""
    return _encoder.encode(graph)


def decode_graph(data: bytes) -> CompiledGraph:
    """Inverse of ``encode_graph``.

    Raises:
        msgspec.DecodeError: not a compiled graph.
    """
    return _decoder.decode(data)
