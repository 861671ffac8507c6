"""Random graphs of all kinds of nodes, and what their steps may produce: for whoever can choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from hive_ray.core.messages import Lease, MemoryWrite, StepContent, StepKind, ToolCall
from hive_ray.core.values import inline
from hive_ray.graph.asking import Asked, AskPlan, Final
from hive_ray.graph.compiled import CompiledGraph, EdgeCondition, ModelPlan, NodeKind, NodePlan, RetryPlan
from hive_ray.graph.memory_keys import parse_declaration
from tests.core.graphs import HOUR_US, edge, graph, human, llm, mapping, nested, node, tool
from tests.core.story import content, values

T = TypeVar("T")

RETRY = RetryPlan(max_retries=1, base_us=1_000)
MODEL = ModelPlan("m", 4, 3, 1_000_000, 1_000_000)
TOOLS = (tool("read", cost_nanousd=2), tool("look"), tool("send", idempotent=False, cost_nanousd=3))
KEYS = ("k", "l", "list")
MEMORY = tuple(parse_declaration(text) for text in ("agent:n", "team:*", "run:k1"))
CONDITIONS = ("always", "on_success", "on_failure", "conditional", "llm_decide", "route")
WHEN = ("", "", "", "k", "not l", "broken")
PLAIN = (NodeKind.FUNCTION, NodeKind.TOOL, NodeKind.ROUTER)
LLMS = (NodeKind.LLM_GENERATE, NodeKind.LLM_TOOL_USE, NodeKind.EVENT_LOOP, NodeKind.ROUTER)


class Choices(Protocol):
    """Where chance comes from: hypothesis, or a seeded generator."""

    def flag(self) -> bool: ...

    def number(self, low: int, high: int) -> int:
        """Both ends included."""
        ...

    def pick(self, options: Sequence[T]) -> T: ...


def _plain(choose: Choices, id: str, keys: tuple[str, ...]) -> NodePlan:
    fields: dict[str, Any] = {
        "output_keys": keys,
        "idempotent": choose.flag(),
        "cost_nanousd": choose.number(0, 9),
        "pause": choose.number(0, 9) == 0,
        "max_visits": choose.pick((0, 0, 2)),
        "retry": RETRY,
    }
    # Without a choice of its own: whoever kept a seed still gets the same graph.
    fields["memory"] = MEMORY if fields["cost_nanousd"] % 2 else ()
    return node(id, choose.pick(PLAIN), **fields)


def _llm(choose: Choices, id: str, keys: tuple[str, ...]) -> NodePlan:
    return llm(
        id,
        choose.pick(LLMS),
        output_keys=keys,
        model=MODEL,
        retry=RETRY,
        tools=TOOLS,
        max_turns=4,
        client_facing=choose.flag(),
        pause=choose.number(0, 9) == 0,
    )


def _nested(choose: Choices, id: str, keys: tuple[str, ...], body: CompiledGraph) -> NodePlan:
    if choose.flag():
        return nested(id, body, output_keys=keys, pause=choose.number(0, 5) == 0)
    policy = choose.pick(("fail", "skip", "collect"))
    return mapping(id, "list", body, window=choose.number(1, 2), on_failure=policy)


def _asks(id: str) -> AskPlan | None:
    """Of every kind, told by the node's place: no graph is another one for it."""
    place = int(id.removeprefix("n"))
    chain = (Asked("boss", HOUR_US), Asked("role:chief", HOUR_US), Asked("", 70 * HOUR_US))
    return AskPlan(chain[: 1 + place % 3], tuple(Final)[place % 4], place % 2 == 1) if place else None


def _node(choose: Choices, id: str, body: CompiledGraph | None) -> NodePlan:
    keys = (choose.pick(KEYS),)
    kind = choose.number(0, 9)
    if kind == 0:
        return human(id, *choose.pick(((), ("approved",), ("k",))), asks=_asks(id), default=b'{"k": true}')
    if kind == 1 and body is not None:
        return _nested(choose, id, keys, body)
    return _llm(choose, id, keys) if kind < 5 else _plain(choose, id, keys)


def random_graph(
    choose: Choices, depth: int = 0, name: str = "g", max_steps: int = 8, most_nodes: int = 6
) -> CompiledGraph:
    """Up to ``most_nodes`` of all kinds, with branches, joins, cycles and, in two levels, bodies."""
    body = None
    if depth < 2 and choose.number(0, 2) == 0:
        body = random_graph(choose, depth + 1, name, max_steps)
    count = choose.number(1, most_nodes - 2 * depth)
    nodes = [_node(choose, f"n{index}", body) for index in range(count)]
    # A spine, so that most nodes are reached; and edges between any two, also back.
    arcs = [(choose.number(0, index - 1), index) for index in range(1, count)]
    arcs += [(choose.number(0, count - 1), choose.number(0, count - 1)) for _ in range(choose.number(0, 4))]
    edges = [
        edge(
            f"n{source}",
            f"n{target}",
            choose.pick(CONDITIONS if number >= count - 1 else CONDITIONS[:4]),
            choose.pick(WHEN),
            priority=choose.pick((0, 0, 0, 1)),
            route="left",
        )
        for number, (source, target) in enumerate(arcs)
    ]
    subgraphs = (body,) if body is not None else ()
    return graph(nodes, edges, f"{name}{depth}", max_steps=max_steps, subgraphs=subgraphs)


def produced(graph: CompiledGraph, lease: Lease, b: int) -> StepContent:
    """What a step hands back; ``b`` chooses among what it may."""
    node = graph.nodes[lease.node]
    if lease.kind is StepKind.DECIDE:
        ids = [graph.edges[i].id for i in node.out_edges]
        decided = [graph.edges[i].condition is EdgeCondition.LLM_DECIDE for i in node.out_edges]
        return StepContent(chosen=tuple(i for n, i in enumerate(ids) if decided[n] and b >> n & 1))
    if lease.kind is StepKind.LLM and node.kind in (NodeKind.EVENT_LOOP, NodeKind.LLM_TOOL_USE):
        return _turn(node, b)
    if lease.name in ("read", "look", "send"):
        return content(result=b)
    given = {key: [b, 1] if key == "list" else b % 2 == 0 for key in node.output_keys}
    return StepContent(outputs=values(**given), facts=given, route="left" if b % 3 else "right")


def _turn(node: NodePlan, b: int) -> StepContent:
    """One LLM call of an agent: tool calls, outputs, a question, or an answer."""
    names = ("read", "look", "send", "read")[: b % 5]
    calls = tuple(ToolCall(f"c{n}", name, {}, "" if (b + n) % 7 else "bad") for n, name in enumerate(names))
    set_now = node.output_keys if b % 3 == 0 else ()
    given = {key: [b] if key == "list" else b % 2 == 0 for key in set_now}
    return StepContent(
        outputs=values(**given),
        facts=given,
        delta=inline({"text": "x" * (b % 9), "calls": []}),
        calls=calls,
        question=inline("?") if node.client_facing and b % 5 == 4 else None,
        done=node.kind is NodeKind.LLM_TOOL_USE and not calls,
    )


def writes(lease: Lease, b: int) -> tuple[MemoryWrite, ...]:
    """What a Python step writes into long-term memory: some of it only where it still has what it read."""
    if lease.kind not in (StepKind.FUNCTION, StepKind.TOOL):
        return ()
    version = -1
    for read in lease.memory.reads if lease.memory else ():
        version = read.version if read.address == "agent:n" and b % 2 else version
    value = None if b % 11 == 0 else inline(b)
    made = (
        MemoryWrite("agent", "n", value, version),
        MemoryWrite("run", f"k{b % 3}", inline(b)),
        MemoryWrite("team", f"t{b % 9}", None if b % 5 == 0 else inline(b)),
    )
    return made[: b % 4]
