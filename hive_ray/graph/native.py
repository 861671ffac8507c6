"""Native CEL conditions: memory paths in the text are replaced by fact variables.

The text keeps CEL's own meaning of operators; only names change. Variables bound by CEL's macros
(``tags.exists(t, t == "x")``) stay, ``has(a.b)`` becomes ``(fN!=null)``, since an absent fact is null.
Whatever is replaced keeps its length where it can, so that CEL's complaints name places of the source.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

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


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def translate_native(source: str, facts: Facts, keys: Collection[str] = ()) -> str:
    """CEL text over fact variables.

    Raises:
        ExpressionFault: a context such as ``output`` is used without a key, or ``facts`` refuses a name.
    """
    matches = _TOKEN.finditer(source)
    tokens = [_Token(match.lastgroup or "", match[0], match.start(), match.end()) for match in matches]
    tokens = [token for token in tokens if token.kind != "space"]
    return _Rewriter(source, tokens, facts, frozenset(keys)).rewrite()


class _Rewriter:
    def __init__(self, source: str, tokens: list[_Token], facts: Facts, keys: frozenset[str]) -> None:
        self._source = source
        self._tokens = tokens
        self._facts = facts
        self._keys = keys
        self._bound = _bound_names([token.text for token in tokens])

    def rewrite(self) -> str:
        parts: list[str] = []
        position = done = 0
        while position < len(self._tokens):
            following, text = self._replaced(position)
            if text:
                start, end = self._tokens[position].start, self._tokens[following - 1].end
                parts += [self._source[done:start], text.ljust(end - start)]
                done = end
            position = following
        return "".join([*parts, self._source[done:]])

    def _replaced(self, position: int) -> tuple[int, str]:
        """Where the next token stands, and what is put in the place of this one; nothing if it stays."""
        text = self._tokens[position].text
        if not self._names_something(position):
            return position + 1, ""
        if text == "has" and self._text(position + 1) == "(":
            path, end = self._path(position + 2)
            return end + 1, f"({self._fact(path, position + 2)}!=null)"
        if self._text(position + 1) == "(":
            return position + 1, ""
        path, end = self._path(position)
        return end, self._fact(path, position)

    def _names_something(self, position: int) -> bool:
        token = self._tokens[position]
        after_dot = position > 0 and self._text(position - 1) == "."
        return (
            token.kind == "name"
            and not after_dot
            and token.text not in self._bound
            and token.text not in _RESERVED
        )

    def _path(self, position: int) -> tuple[FactPath, int]:
        """The dotted path at a position, without a method's name at its end, and where it stops."""
        path = [self._text(position)]
        position += 1
        while self._text(position) == "." and self._kind(position + 1) == "name":
            if self._text(position + 2) == "(":
                break
            path.append(self._text(position + 1))
            position += 2
        return tuple(path), position

    def _fact(self, path: FactPath, position: int) -> str:
        try:
            return _variable(path, self._facts, self._keys)
        except ExpressionFault as fault:
            token = self._tokens[min(position, len(self._tokens) - 1)]
            before = self._source[: token.start]
            raise fault.at(before.count("\n") + 1, token.start - before.rfind("\n")) from None

    def _text(self, position: int) -> str:
        return self._tokens[position].text if position < len(self._tokens) else ""

    def _kind(self, position: int) -> str:
        return self._tokens[position].kind if position < len(self._tokens) else ""


def _bound_names(texts: list[str]) -> frozenset[str]:
    windows = zip(texts, texts[1:], texts[2:], texts[3:], strict=False)
    return frozenset(
        name
        for macro, opening, name, comma in windows
        if macro in _BINDERS and (opening, comma) == ("(", ",")
    )


def _variable(path: FactPath, facts: Facts, keys: frozenset[str]) -> str:
    if path[0] in _CONTEXTS and path[0] not in keys:
        if len(path) == 1:
            raise ExpressionFault(f"'{path[0]}' alone has no value", f"name a key: {path[0]}.KEY or just KEY")
        path = path[1:]
    return facts.variable(path)
