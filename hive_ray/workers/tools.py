"""Python tools and functions: how they are declared, found, described and given their arguments.

``@hive.tool`` and ``@hive.function`` only mark a callable; a ``Registry`` collects what it finds in
the modules that ``hive.yaml`` names. JSON Schemas are made when somebody asks for them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NotRequired, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from hive_ray.errors import ConfigError, Fault
from hive_ray.graph.compiled import MemoryPlan
from hive_ray.graph.memory_keys import BadAddress, parse_declaration
from hive_ray.workers.context import KEY_PARAMETER, ToolContext
from hive_ray.workers.step_error import BadInput, RetryAfter, StepError, ToolUnavailable

__all__ = [
    "BadInput",
    "Registered",
    "Registry",
    "RetryAfter",
    "StepError",
    "ToolContext",
    "ToolInfo",
    "ToolUnavailable",
    "function",
    "tool",
]

MARK = "__hive_declared__"
DEFAULT_TIMEOUT_US = {"tool": 60_000_000, "function": 30_000_000}

Fn = TypeVar("Fn", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """What the graph compiler and an LLM need to know about a tool or function."""

    name: str
    description: str = ""
    schema: Mapping[str, Any] | None = None
    """JSON Schema of the arguments (an object); functions have none."""
    idempotent: bool = False
    timeout_us: int = 60_000_000
    tags: tuple[str, ...] = ()
    pool: str = "tool"
    memory: tuple[MemoryPlan, ...] = ()
    """What it reads of long-term memory."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a decorator was told."""

    kind: str
    name: str
    idempotent: bool
    timeout_us: int
    tags: tuple[str, ...]
    memory: tuple[MemoryPlan, ...] = ()


def tool(
    *,
    idempotent: bool = False,
    timeout_s: float | None = None,
    tags: Iterable[str] = (),
    name: str | None = None,
    memory: Iterable[str] = (),
) -> Callable[[Fn], Fn]:
    """Declare a callable as a tool, for tool nodes and for LLMs.

    Args:
        idempotent: calling it twice does no harm; only then a lost attempt is tried again.
        timeout_s: seconds until an attempt is given up; 60 by default.
        tags: what policies match on (``destructive``, ``moves_money``).
        name: the function's own name unless given.
        memory: what it reads of long-term memory through its ``ToolContext``: ``agent:profile``,
            ``team:faq/*`` or ``profile=agent:profile``.

    Raises:
        ConfigError: an address in ``memory`` means nothing.
    """
    return _marker("tool", idempotent, timeout_s, tuple(tags), name, memory)


def function(
    *,
    idempotent: bool = False,
    timeout_s: float | None = None,
    name: str | None = None,
    memory: Iterable[str] = (),
) -> Callable[[Fn], Fn]:
    """Declare a callable as the body of function and router nodes; 30 seconds by default."""
    return _marker("function", idempotent, timeout_s, (), name, memory)


def _marker(
    kind: str,
    idempotent: bool,
    timeout_s: float | None,
    tags: tuple[str, ...],
    name: str | None,
    memory: Iterable[str],
) -> Callable[[Fn], Fn]:
    timeout_us = DEFAULT_TIMEOUT_US[kind] if timeout_s is None else round(timeout_s * 1e6)

    def mark(fn: Fn) -> Fn:
        known_as = name or fn.__name__
        plans = _memory_plans(known_as, memory)
        setattr(fn, MARK, Declared(kind, known_as, idempotent, timeout_us, tags, plans))
        return fn

    return mark


def _memory_plans(name: str, declarations: Iterable[str]) -> tuple[MemoryPlan, ...]:
    plans: list[MemoryPlan] = []
    for text in declarations:
        try:
            plans.append(parse_declaration(text))
        except BadAddress as error:
            raise ConfigError(
                "tools", [Fault(f"tools.{name}.memory", error.problem, error.remedy)]
            ) from error
    return tuple(plans)


WHOLE = ("inputs", "memory", "state")
"""A function with one parameter of such a name (or annotated ``dict``) gets all inputs as one dict."""


class Registered:
    """One declared callable, with its signature read once."""

    def __init__(self, fn: Callable[..., Any], declared: Declared) -> None:
        self.fn = fn
        self.declared = declared
        self.name = declared.name
        self.is_async = inspect.iscoroutinefunction(fn)
        hints = _hints(fn)
        parameters = inspect.signature(fn).parameters
        self.context_parameter = next((p for p in parameters if hints.get(p) is ToolContext), "")
        self.key_parameter = KEY_PARAMETER if KEY_PARAMETER in parameters else ""
        own = (self.context_parameter, self.key_parameter)
        self.parameters = {k: p for k, p in parameters.items() if k not in own}
        self.hints = hints
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        self.named = frozenset(k for k, p in self.parameters.items() if p.kind in _BY_NAME)
        self.required = frozenset(
            k for k in self.named if self.parameters[k].default is inspect.Parameter.empty
        )

    @functools.cached_property
    def whole(self) -> str:
        """Name of the single parameter that takes all inputs as a dict, or nothing."""
        if len(self.parameters) != 1:
            return ""
        (name,) = self.parameters
        hint = self.hints.get(name)
        is_dict = hint is dict or getattr(hint, "__origin__", None) is dict
        return name if name in self.named and (name in WHOLE or is_dict) else ""

    @functools.cached_property
    def adapter(self) -> TypeAdapter[dict[str, Any]]:
        """Validates arguments; made on first use, because pydantic needs milliseconds for it."""
        fields: dict[str, Any] = {}
        for key in sorted(self.named, key=list(self.parameters).index):
            annotation = self.hints.get(key, Any)
            fields[key] = annotation if key in self.required else NotRequired[annotation]
        arguments = cast("Any", TypedDict("Arguments", fields))  # pyright: ignore[reportArgumentType]
        arguments.__pydantic_config__ = ConfigDict(extra="allow" if self.takes_any else "forbid")
        try:
            return TypeAdapter(arguments)
        except PydanticUserError as error:
            problem = f"its parameters have no JSON Schema: {str(error).splitlines()[0]}"
            raise ConfigError("tools", [Fault(f"tools.{self.name}", problem, _ANNOTATE)]) from error

    @functools.cached_property
    def info(self) -> ToolInfo:
        d = self.declared
        # Functions are called with what the graph hands them: nobody reads a schema of theirs.
        schema = _without_titles(self.adapter.json_schema()) if d.kind == "tool" else None
        return ToolInfo(
            d.name,
            inspect.getdoc(self.fn) or "",
            schema,
            d.idempotent,
            d.timeout_us,
            d.tags,
            d.kind,
            d.memory,
        )

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The validated keyword arguments of one call.

        Raises:
            BadInput: names each argument that does not fit.
        """
        try:
            return self.adapter.validate_python(dict(arguments))
        except ValidationError as error:
            raise BadInput(f"{self.name}: {_problems(error)}") from error


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that can be resolved; any value is accepted where one cannot be."""
    found: dict[str, Any] = {}
    for name, annotation in getattr(fn, "__annotations__", {}).items():
        # One by one: a name that only a type checker knows must not hide the others.
        with contextlib.suppress(NameError, TypeError):
            one = SimpleNamespace(__annotations__={name: annotation})
            found |= get_type_hints(one, globalns=getattr(fn, "__globals__", {}), include_extras=True)
    return found


def _problems(error: ValidationError) -> str:
    parts: list[str] = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"]) or "arguments"
        parts.append(f"argument {place}: {item['msg'][:1].lower()}{item['msg'][1:]}")
    return "; ".join(parts)


def _without_titles(schema: Any, names: bool = False) -> Any:
    """Pydantic titles everything with its own name: bytes that every LLM call would pay for."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    items = cast("dict[str, Any]", schema).items()
    return {k: _without_titles(v, k in _NAME_MAPS and not names) for k, v in items if names or k != "title"}


_NAME_MAPS = ("properties", "$defs", "patternProperties")


class Registry:
    """The tools and functions of this process, by kind and name."""

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, Registered]] = {"tool": {}, "function": {}}

    def add(self, fn: Callable[..., Any]) -> Registered:
        """Register one decorated callable.

        Raises:
            ConfigError: not decorated, or another callable has the name.
        """
        declared = getattr(fn, MARK, None)
        if not isinstance(declared, Declared):
            raise ConfigError(
                "tools", [Fault(getattr(fn, "__name__", repr(fn)), "is not declared", _DECLARE)]
            )
        names = self._by_kind[declared.kind]
        known = names.get(declared.name)
        if known is not None and known.fn is not fn:
            raise ConfigError("tools", [_twice(declared, known.fn, fn)])
        if known is None:
            names[declared.name] = known = Registered(fn, declared)
        return known

    def load_modules(self, modules: Iterable[str]) -> None:
        """Import modules by dotted name or ``.py`` path and register what they declare.

        Raises:
            ConfigError: every module that cannot be imported, named.
        """
        faults: list[Fault] = []
        for name in modules:
            try:
                module = _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 - a user's module may raise anything while it loads
                faults.append(
                    Fault(f"tools.modules.{name}", f"cannot be imported: {_said(error)}", _IMPORTABLE)
                )
                continue
            self._collect(module)
        if faults:
            raise ConfigError("tools", faults)

    def _collect(self, module: ModuleType) -> None:
        for value in list(vars(module).values()):
            if callable(value) and isinstance(getattr(value, MARK, None), Declared):
                self.add(value)

    def find(self, kind: str, name: str) -> Registered | None:
        """The ``tool`` or ``function`` of that name."""
        return self._by_kind[kind].get(name)

    def infos(self, kind: str) -> Iterator[ToolInfo]:
        """Facts of every registered ``tool`` or ``function``, sorted by name."""
        for _name, registered in sorted(self._by_kind[kind].items()):
            yield registered.info

    def names(self, kind: str) -> tuple[str, ...]:
        return tuple(sorted(self._by_kind[kind]))


_ANNOTATE = "annotate them with JSON types, dataclasses or pydantic models"
_DECLARE = "decorate it with @hive.tool(…) or @hive.function(…)"
_IMPORTABLE = "name an importable module or the path of a .py file"


def _twice(declared: Declared, first: Callable[..., Any], second: Callable[..., Any]) -> Fault:
    places = f"{first.__module__}.{first.__qualname__} and {second.__module__}.{second.__qualname__}"
    return Fault(
        f"tools.{declared.name}", f"two {declared.kind}s have this name: {places}", "name one differently"
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _load_file(path: Path) -> ModuleType:
    """Import a file under a name made of its path, once for each process."""
    place = path.resolve()
    name = f"hive_tools_{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
