"""Why a step, a node or a run failed: the closed set of kinds, and which of them can pass by themselves."""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    TIMEOUT = "TIMEOUT"
    RATE_LIMITED = "RATE_LIMITED"
    TOOL_UNAVAILABLE = "TOOL_UNAVAILABLE"
    TOOL_ERROR = "TOOL_ERROR"
    LLM_UNAVAILABLE = "LLM_UNAVAILABLE"
    LLM_REFUSED = "LLM_REFUSED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    AUTHENTICATION = "AUTHENTICATION"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    BAD_INPUT = "BAD_INPUT"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    POLICY_DENIED = "POLICY_DENIED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    RESOURCE_LIMIT = "RESOURCE_LIMIT"
    CONFLICT = "CONFLICT"
    """Long-term memory no longer has the version that the step's write asks for."""
    WORKER_LOST = "WORKER_LOST"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


CAN_PASS = frozenset(
    {
        FailureKind.TIMEOUT,
        FailureKind.RATE_LIMITED,
        FailureKind.TOOL_UNAVAILABLE,
        FailureKind.TOOL_ERROR,
        FailureKind.LLM_UNAVAILABLE,
        FailureKind.INVALID_OUTPUT,
        FailureKind.CONFLICT,
        FailureKind.WORKER_LOST,
        FailureKind.OUTCOME_UNKNOWN,
    }
)
"""Kinds for which another attempt may end differently. All others fail at once."""
