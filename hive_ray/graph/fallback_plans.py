"""What a node does when its step fails for good because something is away: another model or tool, a default
value, or a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from jsonschema import Draft202012Validator

from hive_ray.graph.compiled import LOOPS, FallbackKind, FallbackPlan, HumanPlan, NodeKind, ToolPlan
from hive_ray.graph.environment import CompileEnvironment
from hive_ray.graph.findings import Findings
from hive_ray.graph.human_plans import human_plan
from hive_ray.graph.prompts import canonical_json, plan_model, schema_bytes
from hive_ray.graph.retries import FAILURE_KINDS
from hive_ray.graph.spec import ApprovalSpec, FallbackSpec, GraphSpec, NodeSpec, nearest

Json = Any
AWAY = ("TIMEOUT", "RATE_LIMITED", "TOOL_UNAVAILABLE", "LLM_UNAVAILABLE")
"""Failure kinds that say that something is away: what a fallback is for unless it says otherwise."""
_DECLARED = (*AWAY, "CONTEXT_TOO_LONG")
"""Failure kinds that can have a fallback."""
ROUTE = "route"
_WITHOUT_STEP = (NodeKind.HUMAN_INPUT, NodeKind.MAP, NodeKind.SUBGRAPH)


def plan_fallbacks(
    node: NodeSpec,
    asks_model: bool,
    tools: Sequence[ToolPlan],
    spec: GraphSpec,
    environment: CompileEnvironment,
    findings: Findings,
) -> tuple[FallbackPlan, ...]:
    """The fallbacks of a node, in the order in which they are taken.

    Args:
        tools: those that it may call.
    """
    place = f"nodes.{node.id}.fallback"
    if node.fallback and node.node_type in _WITHOUT_STEP:
        findings.error(place, f"means nothing on a {node.node_type} node", "it belongs to nodes with a step")
        return ()
    plans: list[FallbackPlan] = []
    for index, one in enumerate(node.fallback):
        here = place if len(node.fallback) == 1 else f"{place}[{index}]"
        planner = _Planner(node, one, here, spec, environment, findings)
        plan = planner.plan(asks_model) if one.instead_of is None else planner.plan_call(tools, plans)
        if plan is not None:
            plans.append(plan)
    for called in dict.fromkeys(plan.instead_of for plan in plans):
        row = [plan for plan in plans if plan.instead_of == called]
        last = next((i for i, plan in enumerate(row) if plan.kind in _ENDS), len(row))
        if any(set(plan.on) <= set(row[last].on) for plan in row[last + 1 :]):
            findings.warn(place, f"what comes after the {row[last].kind} is never reached", "put it before")
    return tuple(plans)


_ENDS = (FallbackKind.VALUE, FallbackKind.HUMAN)


class _Planner:
    """One fallback of one node."""

    def __init__(
        self,
        node: NodeSpec,
        fallback: FallbackSpec,
        place: str,
        spec: GraphSpec,
        environment: CompileEnvironment,
        findings: Findings,
    ) -> None:
        self._node = node
        self._fallback = fallback
        self._place = place
        self._spec = spec
        self._environment = environment
        self._findings = findings

    def plan(self, asks_model: bool) -> FallbackPlan | None:
        given = self._fallback
        kinds = [kind for kind in FallbackKind if getattr(given, kind) is not None]
        if len(kinds) != 1:
            problem = f"names {' and '.join(kinds) or 'nothing'}"
            self._findings.error(self._place, problem, "give exactly one of model, tool, value and human")
            return None
        on = self._on()
        match kinds[0]:
            case FallbackKind.MODEL:
                return self._model(on, asks_model)
            case FallbackKind.TOOL:
                return self._tool(on)
            case FallbackKind.VALUE:
                return FallbackPlan(FallbackKind.VALUE, on, value=self._value())
            case FallbackKind.HUMAN:
                return FallbackPlan(FallbackKind.HUMAN, on, human=self._human(given.human or ApprovalSpec()))

    def plan_call(self, tools: Sequence[ToolPlan], before: Sequence[FallbackPlan]) -> FallbackPlan | None:
        """What takes the place of an agent's call of a tool.

        Args:
            tools: those of the agent.
            before: what the node's fallbacks before this one came to.
        """
        given, called = self._fallback, self._fallback.instead_of or ""
        own = next((tool for tool in tools if tool.name == called), None)
        if self._node.node_type not in LOOPS or own is None:
            known = [tool.name for tool in tools] if self._node.node_type in LOOPS else []
            self._findings.error(
                f"{self._place}.instead_of", f"'{called}' is no tool of an agent here", nearest(called, known)
            )
            return None
        kinds = [kind for kind in FallbackKind if getattr(given, kind) is not None]
        if kinds == [FallbackKind.VALUE]:
            value = canonical_json(given.value or {})
            return FallbackPlan(FallbackKind.VALUE, self._on(), value=value, instead_of=called)
        if kinds != [FallbackKind.TOOL]:
            problem = f"'{' and '.join(kinds) or 'nothing'}' cannot stand in for a call of an agent"
            self._findings.error(self._place, problem, "give exactly one of tool and value")
            return None
        return self._other_tool(own, before)

    def _other_tool(self, own: ToolPlan, before: Sequence[FallbackPlan]) -> FallbackPlan | None:
        place, name = f"{self._place}.tool", self._fallback.tool or ""
        row = [plan.tool.name for plan in before if plan.instead_of == own.name and plan.tool is not None]
        if name in (own.name, *row):
            self._findings.error(place, f"'{name}' has failed already", "name another tool")
            return None
        plan = self._known_tool(name, place)
        if plan is None:
            return None
        if own.idempotent and not plan.idempotent:
            problem = f"'{name}' is not idempotent, as '{own.name}' is, whose calls run side by side"
            self._findings.error(place, problem, "name a tool that is")
            return None
        return FallbackPlan(FallbackKind.TOOL, self._on(), tool=plan, instead_of=own.name)

    def _on(self) -> tuple[str, ...]:
        for name in self._fallback.on:
            if name not in _DECLARED:
                known = name in FAILURE_KINDS
                problem = f"'{name}' does not say that something is away" if known else f"no kind '{name}'"
                self._findings.error(f"{self._place}.on", problem, f"use {', '.join(_DECLARED)}")
        return tuple(self._fallback.on) or AWAY

    def _model(self, on: tuple[str, ...], asks_model: bool) -> FallbackPlan | None:
        place = f"{self._place}.model"
        if not asks_model:
            problem = f"a {self._node.node_type} node asks no model"
            self._findings.error(place, problem, "give a value or a human, or a tool on a tool node")
            return None
        other = self._node.model_copy(update={"model": self._fallback.model})
        plan = plan_model(other, self._spec, self._environment, self._findings, place)
        return FallbackPlan(FallbackKind.MODEL, on, model=plan)

    def _tool(self, on: tuple[str, ...]) -> FallbackPlan | None:
        place, name = f"{self._place}.tool", self._fallback.tool or ""
        if self._node.node_type is not NodeKind.TOOL or name == self._node.tool:
            problem = f"cannot stand in on a {self._node.node_type} node"
            if name == self._node.tool:
                problem = f"'{name}' is the node's own tool"
            self._findings.error(place, problem, "name another tool on a tool node")
            return None
        plan = self._known_tool(name, place)
        return FallbackPlan(FallbackKind.TOOL, on, tool=plan) if plan is not None else None

    def _known_tool(self, name: str, place: str) -> ToolPlan | None:
        registry = self._environment.tools
        if registry is not None and name not in registry:
            self._findings.error(place, f"unknown tool '{name}'", nearest(name, registry))
            return None
        info = registry[name] if registry is not None else None
        if info is None:
            return ToolPlan(name)
        return ToolPlan(
            name, info.pool, info.idempotent, info.timeout_us, info.cost_nanousd, tuple(sorted(info.tags)),
            info.memory, info.schema,
        )  # fmt: skip

    def _value(self) -> bytes:
        node, place = self._node, f"{self._place}.value"
        value = dict(self._fallback.value or {})
        route = value.pop(ROUTE, None) if node.routes and ROUTE not in node.output_keys else value.get(ROUTE)
        if node.routes and route not in node.routes:
            remedy = f"one of {', '.join(sorted(node.routes))}"
            self._findings.error(f"{place}.route", "names no route", remedy)
        for key in value:
            if key not in node.output_keys:
                self._findings.error(f"{place}.{key}", "is not an output key", nearest(key, node.output_keys))
        for key in node.output_keys:
            if key not in value and key not in node.nullable_output_keys:
                self._findings.error(place, f"has no value for output '{key}'", f"add '{key}'")
        self._check_schema(value, place)
        return canonical_json(value | ({ROUTE: route} if node.routes else {}))

    def _check_schema(self, value: dict[str, Json], place: str) -> None:
        schema = schema_bytes(self._node.output_schema, f"nodes.{self._node.id}.output_schema", Findings())
        if schema:
            for error in Draft202012Validator(msgspec.json.decode(schema)).iter_errors(value):
                where = ".".join([place, *map(str, error.absolute_path)])
                self._findings.error(where, f"does not fit output_schema: {error.message[:200]}", "mend it")

    def _human(self, approval: ApprovalSpec) -> HumanPlan:
        node = self._node
        said = approval.reason or f"what '{node.name or node.id}' needs is away"
        return human_plan(
            approval.model_copy(update={"reason": said}),
            self._form(),
            f"{self._place}.human",
            self._environment.asks,
            self._findings,
        )

    def _form(self) -> dict[str, Json]:
        """Every output of the node, as its schema has it; those that may not be null must be filled."""
        node = self._node
        known: dict[str, Json] = (node.output_schema or {}).get("properties", {})
        fields = {key: known.get(key, {}) for key in node.output_keys}
        if node.routes:
            fields[ROUTE] = {"type": "string", "enum": sorted(node.routes)}
        required = [key for key in fields if key not in node.nullable_output_keys]
        return {
            "type": "object", "properties": fields, "required": required, "additionalProperties": False,
        }  # fmt: skip
