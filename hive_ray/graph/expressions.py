"""Conditions on edges: accepted once, evaluated often. The only home of the CEL binding.

``compile_condition`` turns a condition (Hive's Python style, or native CEL where Python's parser
refuses it) into CEL over fact variables and type-checks it; ``Evaluator`` evaluates it against facts.
Nothing is ever given to ``eval``. Bounds: length of the source, nesting, CEL's iteration budget, and
facts of at most ``FACT_LIMIT_BYTES``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cel_expr_python import cel

from hive_ray.errors import HiveError
from hive_ray.graph.compiled import TOO_LARGE, CompiledGraph, Expression, Json, fact_name
from hive_ray.graph.native import translate_native
from hive_ray.graph.policies import LIST_FACTS, TEXT_FACTS, RulePlan
from hive_ray.graph.semantics import SEMANTICS, Kind, Semantic
from hive_ray.graph.translation import FACTS_LIMIT, ExpressionFault, FactPath, Facts, translate

__all__ = ["Evaluator", "ExpressionError", "ExpressionFault", "compile_condition"]

SOURCE_LIMIT_BYTES = 4096
CEL_LIMIT_BYTES = 65_536
PROGRAMS_LIMIT = 4096
"""Compiled programs that one ``Evaluator`` keeps; the oldest leaves first."""


TEXT_VARIABLE, LIST_VARIABLE = "s", "l"
"""What the variables of texts and of lists of texts begin with; those of other facts begin with f."""


class ExpressionError(HiveError, ValueError):
    """A condition has no answer for these facts: the message quotes it and says why."""


def compile_condition(source: str, facts: list[FactPath], keys: Collection[str] = ()) -> Expression:
    """Translate a condition to CEL and check its types.

    Args:
        facts: the graph's fact paths; those that the condition needs and that are missing are appended.
        keys: memory keys known to exist (see ``translation.translate``).

    Raises:
        ExpressionFault: what is wrong, and what would be right.
    """
    check_length(source)
    found = Facts(list(facts))
    text = _translated(source, found, keys)
    check(text)
    facts[:] = found.paths
    return Expression(source=source, cel=text, facts=tuple(found.read))


def check_length(source: str) -> None:
    """Raises ``ExpressionFault`` if a condition is longer than any needs to be."""
    if len(source.encode("utf-8", "replace")) > SOURCE_LIMIT_BYTES:
        raise ExpressionFault(
            f"longer than {SOURCE_LIMIT_BYTES} bytes", "compute the value in a function node"
        )


def _translated(source: str, facts: Facts, keys: Collection[str]) -> str:
    if not source.strip():
        raise ExpressionFault("empty", "leave condition_expr out")
    try:
        return translate(source, facts, keys)
    except SyntaxError as not_python:
        return _as_native(source, facts, keys, not_python)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionFault(f"cannot be parsed: {error}", "write it shorter and without NUL") from error


def _as_native(source: str, facts: Facts, keys: Collection[str], not_python: SyntaxError) -> str:
    text = translate_native(source, facts, keys)
    try:
        _environment().compile(text)
    except RuntimeError as error:
        problem = (
            f"neither Python ({not_python.msg} at column {not_python.offset}) nor CEL ({_first_line(error)})"
        )
        raise ExpressionFault(problem, "write for example: str(verdict).lower() == 'pass'") from error
    return text


def check(text: str) -> None:
    """Raises ``ExpressionFault`` unless a CEL text is well typed and can be true or false."""
    if len(text.encode()) > CEL_LIMIT_BYTES:
        raise ExpressionFault("too many nested and/or used as values", "compare before you combine")
    try:
        kind = _environment().compile(text).return_type().name()
    except RuntimeError as error:
        raise _refusal(str(error)) from error
    if kind not in ("BOOL", "DYN"):
        raise ExpressionFault(f"gives a value of type {kind}", "compare it, so that it is true or false")


def is_cel(source: str) -> bool:
    """Whether CEL's parser takes a text, whatever its names mean."""
    try:
        _environment().compile(source)
    except RuntimeError as error:
        return "Syntax error" not in str(error)
    return True


_NO_OVERLOAD = re.compile(r"found no matching overload for '(?:py_)?([^']+)' applied to '\((.*)\)'")
_NO_RUNTIME_OVERLOAD = re.compile(r"No matching overloads found : (?:py_)?([^(]+)\((.*)\)")


_PLACE = re.compile(r"<input>:(\d+):(\d+): ")


def _refusal(message: str) -> ExpressionFault:
    found = _PLACE.search(message)
    place = (int(found[1]), int(found[2])) if found else (0, 0)
    mismatch = _NO_OVERLOAD.search(message)
    if mismatch:
        operation, kinds = mismatch.groups()
        name = operation.strip("_")
        return ExpressionFault(
            f"{name} does not apply to ({kinds})", "convert with str(), int() or float()", *place
        )
    if "recursion" in message:
        return ExpressionFault("nested too deeply", "split the condition over several nodes")
    return ExpressionFault(_first_line(message), "", *place)


def _first_line(error: object) -> str:
    return _PLACE.sub("", str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ERROR: "), count=1)


@dataclass(frozen=True, slots=True)
class _Program:
    expression: cel.Expression
    source: str
    reads: tuple[tuple[str, str], ...]
    """(CEL variable, fact name) pairs."""


class Evaluator:
    """Evaluates the conditions of compiled graphs; keeps their programs.

    Not for several threads at once: it belongs to one controller.
    """

    def __init__(self) -> None:
        self._programs: dict[tuple[str, int], _Program] = {}
        self._rules: dict[str, cel.Expression] = {}

    def evaluate(self, graph: CompiledGraph, expression: int, facts: Mapping[str, Any]) -> bool:
        """Whether a condition holds, with Python's idea of truth.

        Args:
            expression: index into ``graph.expressions``.
            facts: fact name to value; an absent name is null.

        Raises:
            ExpressionError: no answer; the message quotes the condition.
        """
        program = self._programs.get((graph.version, expression)) or self._load(graph, expression)
        data = {variable: _usable(program, name, facts.get(name)) for variable, name in program.reads}
        try:
            result = program.expression.eval(data=data)
            value = result.value()
        except RuntimeError as error:
            raise ExpressionError(f"`{program.source}`: {_reason(str(error))}") from error
        if value is True or value is False:
            return value
        return _truth(program, result)

    def matches(self, rule: RulePlan, fact: Callable[[str], Any]) -> bool:
        """Whether a policy's condition holds; only true and false are answers.

        Args:
            fact: value by name; it raises ``ValueError`` for one that cannot be used.

        Raises:
            ExpressionError: no answer; the message quotes the condition.
        """
        if not rule.cel:
            return True
        expression = self._rules.get(rule.cel) or self._load_rule(rule.cel)
        program = _Program(expression, rule.when, ())
        try:
            data = {variable: _usable(program, name, fact(name)) for variable, name in rule.reads}
            result = expression.eval(data=data)
            value = result.value()
        except ExpressionError:
            raise
        except (RuntimeError, ValueError) as error:
            raise ExpressionError(f"`{rule.when}`: {_reason(str(error))}") from error
        if value is True or value is False:
            return value
        raise _no_answer(rule.when, result)

    def _load_rule(self, text: str) -> cel.Expression:
        if len(self._rules) >= PROGRAMS_LIMIT:
            del self._rules[next(iter(self._rules))]
        expression = self._rules[text] = _environment().compile(text)
        return expression

    def _load(self, graph: CompiledGraph, index: int) -> _Program:
        expression = graph.expressions[index]
        reads = tuple((f"f{fact}", fact_name(graph.facts[fact])) for fact in expression.facts)
        program = _Program(_environment().compile(expression.cel), expression.source, reads)
        if len(self._programs) >= PROGRAMS_LIMIT:
            del self._programs[next(iter(self._programs))]
        self._programs[(graph.version, index)] = program
        return program


def _usable(program: _Program, name: str, value: Json) -> Json:
    """The value, unless CEL would not see all of it."""
    kind = type(value)
    if kind is bool or kind is int or kind is float or value is None:
        return value
    if value == TOO_LARGE:
        raise ExpressionError(f"`{program.source}`: the value of {name} is too large for a condition")
    if any("\0" in text for text in _texts(value)):
        raise ExpressionError(f"`{program.source}`: the value of {name} contains a NUL character")
    return value


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _texts(item)


_TRUTH_KINDS = ("INT", "UINT", "DOUBLE", "STRING", "NULL", "BOOL")


def _truth(program: _Program, result: cel.Value) -> bool:
    kind = result.type().name()
    if kind in _TRUTH_KINDS or kind.startswith(("LIST", "MAP")):
        return bool(result.plain_value())
    raise _no_answer(program.source, result)


def _no_answer(source: str, result: cel.Value) -> ExpressionError:
    """CEL returns its errors as values."""
    kind = result.type().name()
    if kind == "ERROR":
        return ExpressionError(f"`{source}`: {_reason(str(result.value()))}")
    return ExpressionError(f"`{source}`: gives a value of type {kind}, neither true nor false")


def _reason(message: str) -> str:
    mismatch = _NO_RUNTIME_OVERLOAD.search(message)
    if mismatch:
        return f"{mismatch[1].strip('_')} does not apply to ({mismatch[2]})"
    return re.sub(r"^[A-Z_]+: ", "", message.splitlines()[0] if message else message)


@cache
def _environment() -> cel.Env:
    """The one CEL environment: fact variables and Python's semantics."""
    variables = {f"f{index}": cel.Type.DYN for index in range(FACTS_LIMIT)}
    variables |= {f"{TEXT_VARIABLE}{index}": cel.Type.STRING for index in range(len(TEXT_FACTS))}
    texts = cel.Type.List(cel.Type.STRING)
    variables |= {f"{LIST_VARIABLE}{index}": texts for index in range(len(LIST_FACTS))}
    return cel.NewEnv(variables=variables, functions=[_declaration(semantic) for semantic in SEMANTICS])


_TYPES: dict[Kind | None, cel.Type] = {kind: getattr(cel.Type, kind.name) for kind in Kind} | {
    None: cel.Type.DYN
}


def _declaration(semantic: Semantic) -> cel.FunctionDecl:
    name = f"py_{semantic.name}"
    overloads: list[cel.Overload] = []
    for signature in semantic.signatures:
        # CEL finds an overload by the kinds met at run time, so each combination is one of its own.
        for kinds in itertools.product(*signature.parameters):
            overloads.append(_overload(name, kinds, signature.result, semantic))
    return cel.FunctionDecl(name, overloads)


def _overload(name: str, kinds: tuple[Kind, ...], result: Kind | None, semantic: Semantic) -> cel.Overload:
    return cel.Overload(
        "_".join((name, *(kind.value for kind in kinds))),
        return_type=_TYPES[result],
        parameters=[_TYPES[kind] for kind in kinds],
        impl=semantic.apply,
    )
