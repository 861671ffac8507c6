"""How a step fails inside a worker, up to the boundary that turns it into an outcome.

StepError              any failure with a kind
├── UnusableAnswer     an LLM's answer is not what was asked for
├── ToolUnavailable    a tool's author: what stands behind the tool is away; nothing has happened
├── RetryAfter         a tool's author: asked to come back later; nothing has happened
└── BadInput           a tool's author: the arguments cannot be right; nothing has happened
"""

from __future__ import annotations

from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Usage


class StepError(Exception):
    """A step ended in one of the failure kinds.

    Args:
        started: False promises that the effect did not begin.
        unknown: the effect may or may not have happened; only an idempotent step may be tried again.
        usage, cost_nanousd: what a failed LLM call was billed for nevertheless.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        retry_after_us: int = 0,
        started: bool = True,
        unknown: bool = False,
        usage: Usage | None = None,
        cost_nanousd: int = 0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_us = retry_after_us
        self.started = started
        self.unknown = unknown
        self.usage = usage
        self.cost_nanousd = cost_nanousd

    def told(self, records: bool) -> str:
        """The error's text, as far as it may outlive the run; ``records``: the node keeps what is said."""
        return str(self)


class UnusableAnswer(StepError):
    """What an LLM said leads to nothing. It is quoted where the node records; else it goes with the call."""

    def __init__(self, kind: FailureKind, message: str, said: str = "") -> None:
        super().__init__(kind, message)
        self.said = said

    def told(self, records: bool) -> str:
        if not self.said:
            return str(self)
        return f"{self}: {self.said}" if records else f"{self} (record: true on the node keeps what it said)"


class ToolUnavailable(StepError):
    """Raise it in a tool when the system behind it is away and nothing has happened yet.

    Because nothing happened, the step is tried again even if the tool is not idempotent.
    """

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.TOOL_UNAVAILABLE, message, started=False)


class RetryAfter(StepError):
    """Raise it in a tool when the system behind it asks to come back after ``seconds``."""

    def __init__(self, seconds: float, message: str = "asked to come back later") -> None:
        super().__init__(
            FailureKind.RATE_LIMITED, message, retry_after_us=max(0, round(seconds * 1e6)), started=False
        )


class BadInput(StepError):
    """Raise it in a tool when its arguments cannot be right; the message names the argument."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.BAD_INPUT, message, started=False)
