"""What a run can cost, and probably will, before anything of it runs.

*Worst* counts every visit, turn, item and retry that the graph allows, each call at its strict bound. Where a
prompt takes in what is not known yet (another node's output, a conversation), the model's ``context_tokens``
bounds it; without one there is no bound, and what lacks it is named. *Expected* counts every node once and no
retry, each call at what calls of that model or tool have cost so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import msgspec

from hive_ray.core import bounds
from hive_ray.core.accounts import ENOUGH_CALLS, Experience
from hive_ray.core.admission import price
from hive_ray.core.values import Value
from hive_ray.graph.compiled import LOOPS, CompiledGraph, ModelPlan, NodeKind, NodePlan, ToolPlan

_encode = msgspec.msgpack.Encoder().encode


class Amount(NamedTuple):
    """Nano-dollars and tokens."""

    nanousd: int = 0
    tokens: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.nanousd + other.nanousd, self.tokens + other.tokens)

    def times(self, factor: int) -> Amount:
        return Amount(self.nanousd * factor, self.tokens * factor)


Charged = tuple[str, str]
"""Pool and ``model/…`` or ``tool/…`` that a call is charged to."""


class Cost(NamedTuple):
    """Of a node's visit, or of a graph, by what is charged."""

    worst: dict[Charged, Amount]
    """What has a bound."""
    expected: dict[Charged, Amount]
    unbounded: tuple[str, ...] = ()
    """What has none, and what would give it one."""


class NodeCost(NamedTuple):
    """One node of a run."""

    node: str
    kind: str
    visits: int
    """At most."""
    of_visit: Cost


class Estimate(NamedTuple):
    """Of a run as a whole. ``worst`` sums what has a bound; it is the worst case if nothing is unbounded."""

    nodes: tuple[NodeCost, ...]
    cost: Cost


class Known(NamedTuple):
    """What an estimate rests on.

    Args:
        experience: what calls of a model or tool have cost so far, compared with their bound.
        context_tokens: of models, as far as they are configured.
    """

    experience: Mapping[str, Experience]
    context_tokens: Mapping[str, int]


def estimate(graph: CompiledGraph, given: Mapping[str, Any], known: Known) -> Estimate:
    """What a run of a graph on an input costs."""
    written = {key for node in graph.nodes for key in node.output_keys}
    written |= {name for edge in graph.edges for name, _ in edge.input_mapping}
    sure = {key: value for key, value in given.items() if key not in written}
    visits = _visits(graph)
    nodes = tuple(
        NodeCost(node.id, str(node.kind), visits[node.index], _Visit(graph, node, sure, known).cost())
        for node in graph.nodes
    )
    return Estimate(nodes, _whole(graph, nodes))


def total(charges: Mapping[Charged, Amount]) -> Amount:
    whole = Amount()
    for amount in charges.values():
        whole = whole.plus(amount)
    return whole


def _visits(graph: CompiledGraph) -> list[int]:
    """How often each node is visited at most: once, unless it is in a cycle or behind one."""
    cyclic = 0
    for node in graph.nodes:
        if node.reached_from >> node.index & 1:
            cyclic |= 1 << node.index
    return [(node.max_visits or graph.max_steps) if node.reached_from & cyclic else 1 for node in graph.nodes]


def _whole(graph: CompiledGraph, nodes: Iterable[NodeCost]) -> Cost:
    """The dearest ``max_steps`` visits at worst, each node once as expected."""
    left = graph.max_steps
    worst: dict[Charged, Amount] = {}
    expected: dict[Charged, Amount] = {}
    for node in sorted(nodes, key=lambda one: total(one.of_visit.worst), reverse=True):
        times = min(node.visits, left)
        left -= times
        _add(worst, node.of_visit.worst, times)
        _add(expected, node.of_visit.expected, 1)
    unbounded = tuple(text for node in nodes for text in node.of_visit.unbounded)
    return Cost(worst, expected, unbounded)


def _add(charges: dict[Charged, Amount], more: Mapping[Charged, Amount], times: int) -> None:
    for charged, amount in more.items():
        charges[charged] = charges.get(charged, Amount()).plus(amount.times(times))


class _Visit:
    """One visit of a node, as its cost is put together."""

    def __init__(self, graph: CompiledGraph, node: NodePlan, sure: Mapping[str, Any], known: Known) -> None:
        self._graph = graph
        self._node = node
        self._sure = {key: sure[key] for key in node.input_keys if key in sure}
        self._unsure = [key for key in node.input_keys if key not in sure]
        self._known = known
        self._worst: dict[Charged, Amount] = {}
        self._expected: dict[Charged, Amount] = {}
        self._unbounded: list[str] = []

    def cost(self) -> Cost:
        node = self._node
        match node.kind:
            case NodeKind.HUMAN_INPUT:
                pass
            case NodeKind.MAP | NodeKind.SUBGRAPH:
                self._of_body()
            case NodeKind.TOOL:
                self._calls(f"tool/{node.function}", node.cost_nanousd)
            case _ if node.model is None or node.function:
                self._calls("", node.cost_nanousd)
            case _:
                self._of_model(node.model)
        if node.decides and node.model is not None:
            self._ask(node.model, 1, True)
        for plan in node.fallbacks:
            if plan.model is not None:
                self._of_model(plan.model, expected=False)
            elif plan.tool is not None and not plan.instead_of:
                self._calls(f"tool/{plan.tool.name}", plan.tool.cost_nanousd, plan.tool.pool, expected=False)
        return Cost(self._worst, self._expected, tuple(dict.fromkeys(self._unbounded)))

    @property
    def _attempts(self) -> int:
        return self._node.retry.max_retries + 1 if self._node.idempotent else 1

    def _calls(self, subject: str, nanousd: int, pool: str = "", expected: bool = True) -> None:
        """A function or tool of a declared cost."""
        if nanousd:
            charged = (pool or self._node.pool, subject)
            once = self._as_experienced(subject, Amount(nanousd)) if expected else Amount()
            self._note(charged, Amount(nanousd, 0).times(self._attempts), once)

    def _of_model(self, model: ModelPlan, expected: bool = True) -> None:
        node = self._node
        turns = node.max_turns if node.kind in LOOPS else 1
        self._ask(model, turns, expected)
        if node.kind not in LOOPS:
            return
        for tool in node.tools:
            self._calls_in_turns(tool, turns, turns if expected else 0)
        for plan in node.fallbacks:
            if plan.tool is not None:
                self._calls_in_turns(plan.tool, turns, 0)

    def _calls_in_turns(self, tool: ToolPlan, turns: int, likely: int) -> None:
        if tool.cost_nanousd:
            self._unbounded.append(f"{self._node.id}: calls of {tool.name} in a turn have no limit")
            once = Amount(tool.cost_nanousd)
            self._note((tool.pool, f"tool/{tool.name}"), once.times(turns), once.times(likely))

    def _ask(self, model: ModelPlan, turns: int, expected: bool) -> None:
        """So many calls of a model."""
        subject = f"model/{model.model}"
        inputs = {key: _value(value) for key, value in self._sure.items()}
        sure = bounds.first_prompt_bytes(self._node, model, inputs)
        tokens = self._bounded(model, sure, turns)
        once = Amount(price(model, sure), sure + model.max_tokens)
        worst = Amount(price(model, tokens), tokens + model.max_tokens).times(turns * self._attempts)
        likely = self._as_experienced(subject, once).times(turns) if expected else Amount()
        self._note((self._node.pool, subject), worst, likely)

    def _bounded(self, model: ModelPlan, sure: int, turns: int) -> int:
        """The input tokens of a call at most; what is not known is as long as the model's context lets it."""
        context = self._known.context_tokens.get(model.model, 0)
        if context:
            return min(sure, context) if not self._unsure and turns == 1 else max(context, 1)
        remedy = f"models.{model.model}.context_tokens would bound it"
        if self._unsure:
            keys = ", ".join(self._unsure)
            self._unbounded.append(f"{self._node.id}: the size of {keys} is not known; {remedy}")
        if turns > 1:
            self._unbounded.append(f"{self._node.id}: its conversation has no bound; {remedy}")
        return sure

    def _of_body(self) -> None:
        node = self._node
        plan = node.map or node.subgraph
        assert plan is not None
        body = next(one for one in self._graph.subgraphs if one.version == plan.body)
        given, items = dict(self._sure), 1
        if node.map is not None:
            listed = self._sure.get(node.map.over)
            is_list = isinstance(listed, list)
            items = min(len(listed), node.map.max_items) if is_list else node.map.max_items
            if is_list and listed:
                given[node.map.item_key] = max(cast("list[Any]", listed), key=_size)
        cost = estimate(body, given, self._known).cost
        _add(self._worst, cost.worst, items)
        _add(self._expected, cost.expected, items)
        self._unbounded += [f"{node.id}.{text}" for text in cost.unbounded]

    def _as_experienced(self, subject: str, bound: Amount) -> Amount:
        found = self._known.experience.get(subject)
        if found is None or found.calls < ENOUGH_CALLS:
            return bound
        return Amount(-(-bound.nanousd * found.mean // 1000), -(-bound.tokens * found.mean // 1000))

    def _note(self, charged: Charged, worst: Amount, expected: Amount) -> None:
        _add(self._worst, {charged: worst}, 1)
        _add(self._expected, {charged: expected}, 1)


def _size(value: Any) -> int:
    return len(_encode(value))


def _value(value: Any) -> Value:
    data = _encode(value)
    return Value(data, "", len(data))


def charged_to(
    cost: Mapping[Charged, Amount], team: str, agent: str, workflow: str
) -> Iterator[tuple[str, Amount]]:
    """What each account would have to carry, the widest first."""
    whole = total(cost)
    yield f"team/{team}", whole
    yield f"agent/{team}/{agent}", whole
    yield f"workflow/{team}/{workflow}", whole
    shares: dict[str, Amount] = {}
    for (pool, subject), amount in cost.items():
        for name in filter(None, (f"pool/{pool}", subject)):
            shares[name] = shares.get(name, Amount()).plus(amount)
    yield from shares.items()
