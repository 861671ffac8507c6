"""Native CEL conditions: memory paths in the text are replaced by fact variables.

The text keeps CEL's own meaning of operators; only names change. Variables bound by CEL's macros
(``tags.exists(t, t == "x")``) stay, ``has(a.b)`` becomes ``(fN != null)``, since an absent fact is null.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from hive_ray.graph.translation import ExpressionFault, FactPath, Facts

_QUOTED = (
    r"[rRbB]{0,2}(?:"
    r"""'{3}(?:[^\\]|\\.)*?'{3}|"{3}(?:[^\\]|\\.)*?"{3}"""
    r"""|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
)
_TOKEN = re.compile(
    rf"(?P<space>\s+|//[^\n]*)|(?P<string>{_QUOTED})|(?P<number>\d[\w.]*)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<other>&&|\|\||[=!<>]=|.)",
    re.DOTALL,
)
_CONSTANTS = ("true", "false", "null", "in")
_TYPE_NAMES = (
    "int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type", "dyn",
    "duration", "timestamp",
)  # fmt: skip
_RESERVED = frozenset(_CONSTANTS + _TYPE_NAMES)
_BINDERS = frozenset(("all", "exists", "exists_one", "map", "filter"))
_CONTEXTS = ("output", "memory")

Token = tuple[str, str]


def translate_native(source: str, facts: Facts, keys: Collection[str] = ()) -> str:
    """CEL text over fact variables.

    Raises:
        ExpressionFault: a context such as ``output`` is used without a key.
    """
    tokens = [(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(source)]
    tokens = [token for token in tokens if token[0] != "space"]
    bound = _bound_names(tokens)
    return _rewrite(tokens, bound, facts, frozenset(keys))


def _bound_names(tokens: list[Token]) -> frozenset[str]:
    texts = [text for _, text in tokens]
    windows = zip(texts, texts[1:], texts[2:], texts[3:], strict=False)
    return frozenset(
        name
        for macro, opening, name, comma in windows
        if macro in _BINDERS and (opening, comma) == ("(", ",")
    )


def _rewrite(tokens: list[Token], bound: frozenset[str], facts: Facts, keys: frozenset[str]) -> str:
    parts: list[str] = []
    position = 0
    while position < len(tokens):
        kind, text = tokens[position]
        after_dot = bool(parts) and parts[-1] == "."
        if kind != "name" or after_dot or text in bound or text in _RESERVED:
            parts.append(text)
            position += 1
        elif text == "has" and _text(tokens, position + 1) == "(":
            path, end = _path(tokens, position + 2)
            parts.append(f"({_fact(path, facts, keys)} != null)")
            position = end + 1
        elif _text(tokens, position + 1) == "(":
            parts.append(text)
            position += 1
        else:
            path, position = _path(tokens, position)
            parts.append(_fact(path, facts, keys))
    return " ".join(parts)


def _path(tokens: list[Token], position: int) -> tuple[FactPath, int]:
    """The dotted path at a position, without a method's name at its end, and where it stops."""
    path = [_text(tokens, position)]
    position += 1
    while _text(tokens, position) == "." and _kind(tokens, position + 1) == "name":
        if _text(tokens, position + 2) == "(":
            break
        path.append(_text(tokens, position + 1))
        position += 2
    return tuple(path), position


def _fact(path: FactPath, facts: Facts, keys: frozenset[str]) -> str:
    if path[0] in _CONTEXTS and path[0] not in keys:
        if len(path) == 1:
            raise ExpressionFault(f"'{path[0]}' alone has no value", f"name a key: {path[0]}.KEY or just KEY")
        path = path[1:]
    return facts.variable(path)


def _text(tokens: list[Token], position: int) -> str:
    return tokens[position][1] if position < len(tokens) else ""


def _kind(tokens: list[Token], position: int) -> str:
    return tokens[position][0] if position < len(tokens) else ""
