"""Texts and bounds of LLM nodes: system prompt, output schema, and the bytes of a call before its inputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from hive_ray.graph import wording
from hive_ray.graph.compiled import CompiledGraph, FallbackPlan, ModelPlan, NodePlan
from hive_ray.graph.environment import CompileEnvironment, ModelInfo
from hive_ray.graph.findings import Findings
from hive_ray.graph.spec import GraphSpec, NodeSpec, nearest

Json = Any

FIXED_PROMPT_BYTES = 1024
"""Allowance for what a worker adds around the texts of a node."""

UNKNOWN_TOOL_BYTES = 512
MAX_TOKENS = 4096
"""Output tokens of a call where nothing says how many."""


def system_prompt(node: NodeSpec) -> str:
    """The node's own prompt, else its description; then what Hive's judge would hold it to."""
    text = node.system_prompt or node.description
    if node.success_criteria:
        text = f"{text}\n\nYou are done when: {node.success_criteria}"
    return text


def schema_bytes(schema: Mapping[str, Json] | None, place: str, findings: Findings) -> bytes:
    """A JSON Schema in canonical bytes; empty if there is none."""
    if not schema:
        return b""
    whole = _from_hive(schema)
    try:
        Draft202012Validator.check_schema(whole)
    except SchemaError as error:
        findings.error(place, f"not a JSON Schema: {error.message[:200]}", "see json-schema.org")
        return b""
    return canonical_json(whole)


def canonical_json(value: Json) -> bytes:
    """The same bytes whatever the order of keys was."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "replace"
    )


def _from_hive(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    """Hive writes ``{key: {type, required, description}}``: the properties without the object around them."""
    fields = {key: cast("dict[str, Json]", value) for key, value in schema.items() if isinstance(value, dict)}
    if len(fields) < len(schema) or "properties" in schema or any(key.startswith("$") for key in schema):
        return schema
    required = sorted(key for key, value in fields.items() if value.get("required") is True)
    properties = {key: _without_flag(value) for key, value in fields.items()}
    return {"type": "object", "properties": properties, "required": required}


def _without_flag(field: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in field.items() if not (key == "required" and isinstance(value, bool))}


def plan_model(
    node: NodeSpec,
    spec: GraphSpec,
    environment: CompileEnvironment,
    findings: Findings,
    place: str = "",
) -> ModelPlan:
    """The model, its prices and the bytes of its tools; faults if model or price is unknown.

    Args:
        place: where the model is named, if not on the node itself.

    ``measured`` adds the bytes of the texts when the graph is complete.
    """
    name = node.model or spec.default_model or environment.default_model
    info = _model_info(place or f"nodes.{node.id}.model", name, environment, findings)
    return ModelPlan(
        model=name,
        max_tokens=node.max_tokens or spec.max_tokens or (info.max_tokens if info else MAX_TOKENS),
        prompt_bytes=sum(_tool_bytes(tool, environment) for tool in node.tools) + FIXED_PROMPT_BYTES,
        input_nanousd_per_mtok=(info and info.input_nanousd_per_mtok) or 0,
        output_nanousd_per_mtok=(info and info.output_nanousd_per_mtok) or 0,
        temperature=node.temperature,
    )


def _model_info(
    place: str, name: str, environment: CompileEnvironment, findings: Findings
) -> ModelInfo | None:
    if environment.models is None:
        return None
    info = environment.models.get(name)
    if not name:
        findings.error(place, "no model named", "name one here or as default_model")
    elif info is None:
        findings.error(
            place, f"unknown model '{name}'", nearest(name, environment.models) or "add it to hive.yaml"
        )
    elif info.input_nanousd_per_mtok is None or info.output_nanousd_per_mtok is None:
        remedy = f"give models.{name} a price in hive.yaml; an explicit 0 is a price"
        findings.error(place, f"the model '{name}' has no price", remedy)
    return info


def measured(graph: CompiledGraph) -> CompiledGraph:
    """The graph with the bytes of each model's prompts, which also depend on edges and on other nodes."""
    nodes = [_measured(graph, node) if node.model else node for node in graph.nodes]
    return msgspec.structs.replace(graph, nodes=tuple(nodes))


def _measured(graph: CompiledGraph, node: NodePlan) -> NodePlan:
    assert node.model is not None
    decides = wording.decision_bytes(graph, node)
    model = msgspec.structs.replace(
        node.model,
        prompt_bytes=node.model.prompt_bytes + wording.step_bytes(graph, node),
        decide_bytes=decides + FIXED_PROMPT_BYTES if decides else 0,
        mentions=dict(
            sorted(Counter([*wording.mentioned(node.prompt), *wording.mentioned(node.instruction)]).items())
        ),
    )
    return msgspec.structs.replace(node, model=model, fallbacks=tuple(_as_long(model, node.fallbacks)))


def _as_long(model: ModelPlan, fallbacks: Iterable[FallbackPlan]) -> Iterator[FallbackPlan]:
    """Another model is told the same."""
    for plan in fallbacks:
        if plan.model is None:
            yield plan
            continue
        told = msgspec.structs.replace(
            plan.model,
            prompt_bytes=model.prompt_bytes,
            decide_bytes=model.decide_bytes,
            mentions=model.mentions,
        )
        yield msgspec.structs.replace(plan, model=told)


def _tool_bytes(name: str, environment: CompileEnvironment) -> int:
    info = (environment.tools or {}).get(name)
    return len(name.encode("utf-8", "replace")) + (info.schema_bytes if info else UNKNOWN_TOOL_BYTES)
