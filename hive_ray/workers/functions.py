"""How a node's inputs become a Python call, and its result the node's outputs.

This is the hot path of a worker: nothing here validates what the signature does not ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from hive_ray.core.failures import FailureKind
from hive_ray.graph.compiled import NodeKind, NodePlan
from hive_ray.workers.plain import plain_json
from hive_ray.workers.step_error import BadInput, StepError
from hive_ray.workers.tools import Registered

_ROUTER = NodeKind.ROUTER


def function_arguments(registered: Registered, inputs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a function node's call.

    Raises:
        BadInput: a required parameter has no input, or an input has no parameter; each is named.
    """
    keys = inputs.keys()
    whole = registered.whole
    if registered.required <= keys and (registered.takes_any or keys <= registered.named):
        return inputs if not whole or whole in inputs else {whole: inputs}
    if whole:
        return {whole: inputs}
    missing = sorted(registered.required - keys)
    if missing:
        raise BadInput(f"{registered.name}: no input for parameter {', '.join(missing)}")
    extra = sorted(keys - registered.named)
    raise BadInput(
        f"{registered.name}: no parameter for input {', '.join(extra)}; it takes {_listed(registered)}"
    )


def _listed(registered: Registered) -> str:
    return ", ".join(k for k in registered.parameters if k in registered.named) or "nothing"


def node_outputs(node: NodePlan, result: Any) -> tuple[dict[str, Any], str]:
    """The declared outputs in a node's result, and the route if the node is a router.

    Raises:
        StepError: ``INVALID_OUTPUT``, naming what is missing or would be right.
    """
    plain = plain_json(result, f"node {node.id}")
    route = _route(node, plain) if node.kind is _ROUTER else ""
    keys = node.output_keys
    if not keys:
        return {}, route
    only = keys[0] if len(keys) == 1 else ""
    if isinstance(plain, dict):
        given = cast("dict[str, Any]", plain)
        if not only or only in given:
            return declared(node, given), route
    elif not only:
        raise StepError(
            FailureKind.INVALID_OUTPUT,
            f"node {node.id} returned {type(plain).__name__}; a dict with {', '.join(keys)} would be right",
        )
    return {only: plain}, route


def declared(node: NodePlan, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the node declares of ``given``; the rest is dropped.

    Raises:
        StepError: ``INVALID_OUTPUT`` naming the absent keys that are not nullable.
    """
    outputs = {key: given[key] for key in node.output_keys if key in given}
    if len(outputs) < len(node.output_keys):
        missing = [k for k in node.output_keys if k not in outputs and k not in node.nullable_keys]
        if missing:
            raise StepError(
                FailureKind.INVALID_OUTPUT,
                f"node {node.id} gave no value for output {', '.join(missing)}",
            )
    return outputs


def _route(node: NodePlan, result: Any) -> str:
    route: Any = cast("dict[str, Any]", result).get("route") if isinstance(result, dict) else result
    if isinstance(route, str) and route in node.routes:
        return route
    raise StepError(
        FailureKind.INVALID_OUTPUT,
        f"router {node.id} answered {_short(route)}; one of {', '.join(node.routes)} would be right",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
