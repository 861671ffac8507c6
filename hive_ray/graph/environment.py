"""What the compiler may know about the place where a graph will run.

``None`` means unknown: the checks that need it are skipped (``lint`` without ``hive.yaml``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hive_ray.graph.asking import WAIT_US, Asked, Final
from hive_ray.graph.compiled import MemoryPlan, RetryPlan


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A configured model. Prices are nano-dollars per million tokens; 0 is known, ``None`` is not."""

    input_nanousd_per_mtok: int | None
    output_nanousd_per_mtok: int | None
    max_tokens: int = 4096
    """Output tokens of a call where neither node nor graph says how many."""


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A registered tool."""

    idempotent: bool = False
    timeout_us: int = 60_000_000
    pool: str = "tool"
    tags: tuple[str, ...] = ()
    cost_nanousd: int = 0
    schema_bytes: int = 512
    """Bytes of its description and argument schema, as sent to a model."""
    memory: tuple[MemoryPlan, ...] = ()
    schema: bytes = b""
    """JSON Schema (bytes) of its arguments; empty: it is not known."""


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """A registered function."""

    idempotent: bool = False
    timeout_us: int = 30_000_000
    pool: str = "function"
    cost_nanousd: int = 0
    memory: tuple[MemoryPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class AskDefaults:
    """What holds for a human node that says nothing."""

    owner: str = ""
    deadline_us: int = WAIT_US
    escalate: tuple[Asked, ...] = ()
    """Later owners, each with how long the one before has the question for himself."""
    final: Final = Final.FAIL
    four_eyes: bool = False


@dataclass(frozen=True, slots=True)
class CompileEnvironment:
    """Models, tools, functions and pools that exist, as far as they are known."""

    models: Mapping[str, ModelInfo] | None = None
    default_model: str = ""
    tools: Mapping[str, ToolInfo] | None = None
    functions: Mapping[str, FunctionInfo] | None = None
    pools: Collection[str] | None = None
    retries: Mapping[str, RetryPlan] = field(default_factory=dict[str, RetryPlan])
    """By kind of step (``function``, ``tool``, ``llm``): what holds where a graph says nothing."""
    asks: AskDefaults = AskDefaults()
