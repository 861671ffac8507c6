"""A node's retries: Hive's numbers and error names, or our own ``retry`` block."""

from __future__ import annotations

from hive_ray.graph.compiled import RetryPlan
from hive_ray.graph.findings import Findings
from hive_ray.graph.spec import GraphSpec, NodeSpec, RetrySpec, nearest

FAILURE_KINDS = (
    "TIMEOUT", "RATE_LIMITED", "TOOL_UNAVAILABLE", "TOOL_ERROR", "LLM_UNAVAILABLE", "LLM_REFUSED",
    "CONTEXT_TOO_LONG", "AUTHENTICATION", "INVALID_OUTPUT", "BAD_INPUT", "BUDGET_EXCEEDED", "POLICY_DENIED",
    "REJECTED", "EXPIRED", "LIMIT_EXCEEDED", "RESOURCE_LIMIT", "CONFLICT", "WORKER_LOST", "OUTCOME_UNKNOWN",
    "CANCELLED", "INTERNAL",
)  # fmt: skip
"""Names of the closed set of failure kinds (a test holds them against ``core.failures``)."""

_UNAVAILABLE = ("TOOL_UNAVAILABLE", "LLM_UNAVAILABLE")
_HIVE_NAMES = {
    "timeout": ("TIMEOUT",), "timeouterror": ("TIMEOUT",), "timed_out": ("TIMEOUT",),
    "rate_limit": ("RATE_LIMITED",), "ratelimit": ("RATE_LIMITED",), "ratelimiterror": ("RATE_LIMITED",),
    "429": ("RATE_LIMITED",),
    "connection": _UNAVAILABLE, "connection_error": _UNAVAILABLE, "connectionerror": _UNAVAILABLE,
    "network": _UNAVAILABLE, "network_error": _UNAVAILABLE, "unavailable": _UNAVAILABLE,
    "service_unavailable": _UNAVAILABLE, "503": _UNAVAILABLE, "500": _UNAVAILABLE,
    "llm_error": ("LLM_UNAVAILABLE",), "tool_failure": ("TOOL_ERROR",), "error": ("TOOL_ERROR",),
    "exception": ("TOOL_ERROR",), "runtimeerror": ("TOOL_ERROR",),
    "validation": ("INVALID_OUTPUT",), "validation_error": ("INVALID_OUTPUT",),
    "validationerror": ("INVALID_OUTPUT",), "json_error": ("INVALID_OUTPUT",),
    "valueerror": ("INVALID_OUTPUT",),
}  # fmt: skip
_EVERYTHING = ("*", "all", "any")


def plan_retry(node: NodeSpec, spec: GraphSpec, findings: Findings, default: RetryPlan) -> RetryPlan:
    """Numbers from the nearest place that has them; error names as failure kinds.

    Args:
        default: what the installation says of steps of this kind.
    """
    own = node.retry or RetrySpec()
    counts = (own.max_retries, node.max_retries, spec.max_retries_per_node, default.max_retries)
    names = [*own.retry_on, *node.retry_on]
    every = any(name.lower() in _EVERYTHING for name in names)
    return RetryPlan(
        max_retries=next(count for count in counts if count is not None),
        base_us=default.base_us if own.base_s is None else round(own.base_s * 1_000_000),
        cap_us=default.cap_us if own.cap_s is None else round(own.cap_s * 1_000_000),
        retry_on=() if every else _kinds(node, names, findings) if names else default.retry_on,
    )


def _kinds(node: NodeSpec, names: list[str], findings: Findings) -> tuple[str, ...]:
    found: set[str] = set()
    for name in names:
        if name.upper() in FAILURE_KINDS:
            found.add(name.upper())
        elif name.lower() in _HIVE_NAMES:
            found.update(_HIVE_NAMES[name.lower()])
        else:
            remedy = (
                nearest(name.upper(), FAILURE_KINDS) or "use a failure kind such as TIMEOUT or RATE_LIMITED"
            )
            findings.warn(f"nodes.{node.id}.retry_on", f"'{name}' is no failure kind and is ignored", remedy)
    return tuple(sorted(found))
