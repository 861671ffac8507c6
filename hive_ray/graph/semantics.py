"""Python's meaning of the operators and functions that conditions may use, one plain function each.

A condition is evaluated by CEL; CEL's own ``==``, ``<`` or ``in`` differ from Python's (``True == 1``,
``str(None)``, truth of an empty list), so translated conditions call these instead. Arguments are JSON
values. What Python would raise is raised here and ends the evaluation with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

Json = Any

_INT64 = 2**63


class Kind(Enum):
    """Kinds of values that CEL tells apart."""

    BOOL = "bool"
    INT = "int"
    UINT = "uint"
    DOUBLE = "double"
    STRING = "string"
    NULL = "null"
    LIST = "list"
    MAP = "map"


ANY = tuple(Kind)
NUMBER = (Kind.BOOL, Kind.INT, Kind.UINT, Kind.DOUBLE)
WHOLE = (Kind.BOOL, Kind.INT, Kind.UINT)
TEXT = (Kind.STRING,)
LIST = (Kind.LIST,)
MAP = (Kind.MAP,)


class Signature(NamedTuple):
    """Kinds of the arguments, in their order, and of the result (``None``: known only when it runs)."""

    parameters: tuple[tuple[Kind, ...], ...]
    result: Kind | None


class Semantic(NamedTuple):
    """One function as it is registered with the evaluator."""

    name: str
    apply: Callable[..., Json]
    signatures: tuple[Signature, ...]


def _str(value: Json) -> str:
    if _has_unordered(value):
        raise ValueError("str() of an object with several keys: their order is not kept")
    return str(value)


def _has_unordered(value: Json) -> bool:
    if isinstance(value, dict):
        return len(value) > 1 or any(_has_unordered(item) for item in value.values())
    return isinstance(value, list) and any(_has_unordered(item) for item in value)


def _int(value: Json) -> int:
    number = int(value)
    if not -_INT64 <= number < _INT64:
        raise OverflowError("int() result does not fit into 64 bits")
    return number


def _get(value: Json, key: Json, default: Json = None) -> Json:
    return value.get(key, default)


def _unary(name: str, apply: Callable[[Json], Json], kinds: Sequence[Kind], result: Kind | None) -> Semantic:
    return Semantic(name, apply, (Signature((tuple(kinds),), result),))


def _binary(
    name: str,
    apply: Callable[[Json, Json], Json],
    *pairs: tuple[tuple[Kind, ...], tuple[Kind, ...], Kind | None],
) -> Semantic:
    signatures = tuple(Signature((left, right), result) for left, right, result in pairs)
    return Semantic(name, apply, signatures)


def _ordering(name: str, apply: Callable[[Json, Json], bool]) -> Semantic:
    comparable = (NUMBER, TEXT, LIST)
    return _binary(name, apply, *((kinds, kinds, Kind.BOOL) for kinds in comparable))


def _arithmetic(name: str, apply: Callable[[Json, Json], Json], result: Kind | None = None) -> Semantic:
    return _binary(name, apply, (NUMBER, NUMBER, result))


SEMANTICS: tuple[Semantic, ...] = (
    _unary("truth", bool, ANY, Kind.BOOL),
    _unary("str", _str, ANY, Kind.STRING),
    _unary("int", _int, (*NUMBER, Kind.STRING), Kind.INT),
    _unary("float", float, (*NUMBER, Kind.STRING), Kind.DOUBLE),
    _unary("len", len, (Kind.STRING, Kind.LIST, Kind.MAP), Kind.INT),
    _unary("neg", lambda x: -x, NUMBER, None),
    _unary("pos", lambda x: +x, NUMBER, None),
    _unary("lower", lambda x: x.lower(), TEXT, Kind.STRING),
    _unary("upper", lambda x: x.upper(), TEXT, Kind.STRING),
    _unary("strip", lambda x: x.strip(), TEXT, Kind.STRING),
    _binary("strip_of", lambda x, y: x.strip(y), (TEXT, TEXT, Kind.STRING)),
    _binary("startswith", lambda x, y: x.startswith(y), (TEXT, TEXT, Kind.BOOL)),
    _binary("endswith", lambda x, y: x.endswith(y), (TEXT, TEXT, Kind.BOOL)),
    _binary("eq", lambda x, y: x == y, (ANY, ANY, Kind.BOOL)),
    _binary("ne", lambda x, y: x != y, (ANY, ANY, Kind.BOOL)),
    _binary("is", lambda x, y: x is y, (ANY, (Kind.BOOL, Kind.NULL), Kind.BOOL)),
    _ordering("lt", lambda x, y: x < y),
    _ordering("le", lambda x, y: x <= y),
    _ordering("gt", lambda x, y: x > y),
    _ordering("ge", lambda x, y: x >= y),
    _binary(
        "in", lambda x, y: x in y, (ANY, LIST, Kind.BOOL), (ANY, MAP, Kind.BOOL), (TEXT, TEXT, Kind.BOOL)
    ),
    _binary("add", lambda x, y: x + y, (NUMBER, NUMBER, None), (TEXT, TEXT, Kind.STRING), (LIST, LIST, None)),
    _arithmetic("sub", lambda x, y: x - y),
    _arithmetic("mul", lambda x, y: x * y),
    _arithmetic("div", lambda x, y: x / y, Kind.DOUBLE),
    _arithmetic("mod", lambda x, y: x % y),
    _binary("index", lambda x, y: x[y], (LIST, WHOLE, None), (TEXT, WHOLE, Kind.STRING), (MAP, ANY, None)),
    _binary("get", _get, (MAP, TEXT, None)),
    Semantic("get_or", _get, (Signature((MAP, TEXT, ANY), None),)),
)
"""Every function of the language; ``py_`` is put before the name in CEL."""
