"""One node of a spec -> one ``NodePlan``, with every fault of that node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hive_ray.graph.compiled import (
    EdgePlan,
    FallbackPlan,
    MapPlan,
    MemoryPlan,
    ModelPlan,
    NodeKind,
    NodePlan,
    RetryPlan,
    SubgraphPlan,
    ToolPlan,
)
from hive_ray.graph.environment import CompileEnvironment, FunctionInfo, ToolInfo
from hive_ray.graph.fallback_plans import plan_fallbacks
from hive_ray.graph.findings import Findings
from hive_ray.graph.human_plans import plan_human
from hive_ray.graph.memory_plans import plan_memory
from hive_ray.graph.prompts import plan_model, schema_bytes, system_prompt
from hive_ray.graph.retries import plan_retry
from hive_ray.graph.spec import GraphSpec, NodeSpec, nearest
from hive_ray.graph.wiring import is_llm_router

IDLE_S = 24 * 3600.0
MAX_TURNS = 50

_LLM = (NodeKind.LLM_GENERATE, NodeKind.LLM_TOOL_USE, NodeKind.EVENT_LOOP)
_FUNCTION_POOL, _TOOL_POOL, _LLM_POOL = "function", "tool", "llm"
_TIMEOUT_S = {_FUNCTION_POOL: 30.0, _TOOL_POOL: 60.0, _LLM_POOL: 120.0}


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What a node's plan depends on besides the node."""

    spec: GraphSpec
    environment: CompileEnvironment
    findings: Findings
    decided: Mapping[int, Sequence[EdgePlan]]
    """By node: the edges among which a model chooses."""
    compile_body: Callable[[GraphSpec, str], str]
    """Compiles a nested graph found at a place, keeps it, and gives its hash."""


def plan_node(node: NodeSpec, index: int, context: NodeContext) -> NodePlan:
    """The plan of one node; edges, masks and ``terminal`` are added when the graph is complete."""
    _check_fields(node, context)
    spec, findings = context.spec, context.findings
    own = f"nodes.{node.id}"
    _check_keys(node, findings)
    work = _work(node, context)
    model = _model(node, index, context)
    tools = _tools(node, context)
    fallbacks = plan_fallbacks(node, model is not None, tools, spec, context.environment, findings)
    turns = (
        node.max_turns,
        *(loop.max_iterations for loop in (node.loop_config, spec.loop_config) if loop),
        MAX_TURNS,
    )
    return NodePlan(
        id=node.id, index=index, kind=node.node_type, pool=work.pool,
        input_keys=_input_keys(node), output_keys=tuple(node.output_keys),
        nullable_keys=tuple(key for key in node.nullable_output_keys if key in node.output_keys),
        timeout_us=work.timeout_us, idempotent=work.idempotent,
        retry=plan_retry(node, spec, findings, _default_retry(node, context)),
        max_visits=node.max_node_visits, cost_nanousd=work.cost_nanousd, function=work.function,
        model=model, tools=tools, routes=tuple(sorted(node.routes)),
        decides=index in context.decided, client_facing=node.client_facing,
        max_turns=next(number for number in turns if number is not None),
        human=plan_human(node, context.environment.asks, findings), map=_map(node, context),
        subgraph=_subgraph(node, context),
        prompt=system_prompt(node), instruction=node.prompt,
        input_schema=schema_bytes(node.input_schema, f"{own}.input_schema", findings),
        output_schema=schema_bytes(node.output_schema, f"{own}.output_schema", findings),
        description=node.description, record=node.record, idle_us=_us(node.idle_s or IDLE_S),
        pause=node.id in spec.pause_nodes and node.node_type is not NodeKind.HUMAN_INPUT,
        memory=plan_memory(node, (*work.memory, *_memory_of(fallbacks)), findings), fallbacks=fallbacks,
        deadline_us=_us(node.deadline_s) if node.deadline_s else 0,
    )  # fmt: skip


def _memory_of(fallbacks: Sequence[FallbackPlan]) -> tuple[MemoryPlan, ...]:
    """What the node's own steps read in the place of others."""
    tools = (plan.tool for plan in fallbacks if not plan.instead_of)
    return tuple(plan for tool in tools if tool is not None for plan in tool.memory)


def _default_retry(node: NodeSpec, context: NodeContext) -> RetryPlan:
    kind = _default_work(node, context)[0] or _FUNCTION_POOL
    return context.environment.retries.get(kind, RetryPlan())


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


_ONLY_FOR: tuple[tuple[str, tuple[NodeKind, ...]], ...] = (
    ("approval", (NodeKind.HUMAN_INPUT,)),
    ("map_over", (NodeKind.MAP,)),
    ("body", (NodeKind.MAP,)),
    ("subgraph", (NodeKind.SUBGRAPH, NodeKind.MAP)),
    ("routes", (NodeKind.ROUTER,)),
    ("tool", (NodeKind.TOOL,)),
)
_NEEDED: dict[NodeKind, tuple[str, ...]] = {
    NodeKind.FUNCTION: ("function",),
    NodeKind.TOOL: ("tool",),
    NodeKind.MAP: ("map_over", "output_keys"),
    NodeKind.SUBGRAPH: ("subgraph",),
}


def _check_fields(node: NodeSpec, context: NodeContext) -> None:
    findings, own = context.findings, f"nodes.{node.id}"
    for field, kinds in _ONLY_FOR:
        if getattr(node, field) and node.node_type not in kinds:
            places = " or ".join(kinds)
            findings.error(
                f"{own}.{field}", f"means nothing on a {node.node_type} node", f"it belongs to {places}"
            )
    for field in _NEEDED.get(node.node_type, ()):
        if not getattr(node, field):
            findings.error(f"{own}.{field}", f"missing on a {node.node_type} node", f"add '{field}'")
    if node.node_type is NodeKind.ROUTER and not node.routes and not node.function:
        findings.error(f"{own}.routes", "a router without routes and without a function", "add one of them")
    if node.node_type is NodeKind.MAP and not (node.body or node.subgraph):
        findings.error(f"{own}.body", "missing on a map node", "add the node or graph that runs for an item")
    if node.node_type is NodeKind.LLM_TOOL_USE and not node.tools:
        findings.warn(f"{own}.tools", "an llm_tool_use node without tools", "use llm_generate")
    if node.input_schema and node.node_type in (NodeKind.HUMAN_INPUT, NodeKind.MAP, NodeKind.SUBGRAPH):
        remedy = "give it to the node before, as output_schema"
        findings.warn(f"{own}.input_schema", f"is not checked on a {node.node_type} node", remedy)
    if node.sub_agents:
        _check_sub_agents(node, context)


def _check_sub_agents(node: NodeSpec, context: NodeContext) -> None:
    known = [other.id for other in context.spec.nodes]
    for name in node.sub_agents:
        if name not in known:
            context.findings.error(f"nodes.{node.id}.sub_agents", f"no node '{name}'", nearest(name, known))
    remedy = "fan out to them with edges, or make each a subgraph"
    context.findings.warn(f"nodes.{node.id}.sub_agents", "delegation to sub-agents does not run here", remedy)


def _check_keys(node: NodeSpec, findings: Findings) -> None:
    for field in ("input_keys", "output_keys", "tools"):
        for name in _repeated(getattr(node, field)):
            findings.error(f"nodes.{node.id}.{field}", f"'{name}' stands twice", "name it once")
    for key in node.nullable_output_keys:
        # Hive's exports also list inputs here that may be absent.
        if key not in node.output_keys and key not in node.input_keys:
            findings.warn(
                f"nodes.{node.id}.nullable_output_keys", f"'{key}' is not an output key", "leave it out"
            )


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _input_keys(node: NodeSpec) -> tuple[str, ...]:
    keys = list(node.input_keys)
    if node.map_over and node.map_over not in keys:
        keys.append(node.map_over)
    return tuple(keys)


@dataclass(frozen=True, slots=True)
class _Work:
    """Where a node's own step runs, and on what terms."""

    pool: str = ""
    function: str = ""
    idempotent: bool = False
    timeout_us: int = _us(_TIMEOUT_S[_FUNCTION_POOL])
    cost_nanousd: int = 0
    memory: tuple[MemoryPlan, ...] = ()


def _work(node: NodeSpec, context: NodeContext) -> _Work:
    default_pool, function, info = _default_work(node, context)
    pool = node.pool or (info.pool if info else default_pool)
    _check_pool(node.id, pool, context)
    by_default = info.timeout_us if info else _us(_TIMEOUT_S.get(default_pool, 30.0))
    by_nature = info.idempotent if info else default_pool == _LLM_POOL
    declared = round(node.cost_usd * 1_000_000_000)
    return _Work(
        pool=pool,
        function=function,
        idempotent=by_nature if node.idempotent is None else node.idempotent,
        timeout_us=_us(node.timeout_s) if node.timeout_s else by_default,
        cost_nanousd=declared or (info.cost_nanousd if info else 0),
        memory=info.memory if info else (),
    )


def _default_work(node: NodeSpec, context: NodeContext) -> tuple[str, str, FunctionInfo | ToolInfo | None]:
    """(pool, function or tool, what is known about it)."""
    environment = context.environment
    match node.node_type:
        case NodeKind.FUNCTION | NodeKind.ROUTER if node.function:
            return _FUNCTION_POOL, node.function, _known(node, "function", environment.functions, context)
        case NodeKind.TOOL:
            return _TOOL_POOL, node.tool or "", _known(node, "tool", environment.tools, context)
        case NodeKind.HUMAN_INPUT | NodeKind.MAP | NodeKind.SUBGRAPH | NodeKind.FUNCTION:
            return "", "", None
        case _:
            return _LLM_POOL, "", None


def _known(
    node: NodeSpec, field: str, registry: Mapping[str, Any] | None, context: NodeContext
) -> FunctionInfo | ToolInfo | None:
    name = getattr(node, field)
    if registry is None or name is None:
        return None
    if name not in registry:
        remedy = nearest(name, registry) or f"register it with @hive.{field}"
        place = f"nodes.{node.id}.{field}"
        _once(context.findings, place, f"unknown {field} '{name}'", remedy)
    return registry.get(name)


def _once(findings: Findings, place: str, problem: str, remedy: str) -> None:
    known = {(fault.place, fault.problem) for fault in findings.faults()}
    if (findings.place + place, problem) not in known:
        findings.error(place, problem, remedy)


def _check_pool(node: str, pool: str, context: NodeContext) -> None:
    pools: Collection[str] | None = context.environment.pools
    if pools is not None and pool and pool not in pools:
        _once(context.findings, f"nodes.{node}.pool", f"no pool '{pool}'", nearest(pool, pools))


def _model(node: NodeSpec, index: int, context: NodeContext) -> ModelPlan | None:
    chosen = context.decided.get(index, [])
    if node.node_type not in _LLM and not is_llm_router(node) and not chosen:
        return None
    return plan_model(node, context.spec, context.environment, context.findings)


def _tools(node: NodeSpec, context: NodeContext) -> tuple[ToolPlan, ...]:
    if node.node_type is NodeKind.TOOL:
        return (_tool(node, node.tool, context),) if node.tool else ()
    return tuple(_tool(node, name, context) for name in node.tools)


def _tool(node: NodeSpec, name: str, context: NodeContext) -> ToolPlan:
    registry = context.environment.tools
    info = (registry or {}).get(name)
    if registry is not None and info is None:
        field = "tool" if node.node_type is NodeKind.TOOL else "tools"
        _once(context.findings, f"nodes.{node.id}.{field}", f"unknown tool '{name}'", nearest(name, registry))
    terms = info or ToolInfo()
    _check_pool(node.id, terms.pool, context)
    return ToolPlan(
        name, terms.pool, terms.idempotent, terms.timeout_us, terms.cost_nanousd, tuple(sorted(terms.tags)),
        terms.memory, terms.schema,
    )  # fmt: skip


def _map(node: NodeSpec, context: NodeContext) -> MapPlan | None:
    body, field = (node.body, "body") if node.body else (node.subgraph, "subgraph")
    if node.node_type is not NodeKind.MAP or body is None or node.map_over is None:
        return None
    return MapPlan(
        over=node.map_over,
        item_key=node.item_key,
        body=context.compile_body(body, f"nodes.{node.id}.{field}"),
        window=node.window,
        max_items=node.max_items,
        on_failure=node.on_item_failure,
    )


def _subgraph(node: NodeSpec, context: NodeContext) -> SubgraphPlan | None:
    if node.node_type is not NodeKind.SUBGRAPH or node.subgraph is None:
        return None
    return SubgraphPlan(context.compile_body(node.subgraph, f"nodes.{node.id}.subgraph"))
