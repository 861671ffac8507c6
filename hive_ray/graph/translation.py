"""Hive's Python-style conditions, translated to CEL text.

The source is parsed, never run: an allow-list of syntax is turned into calls of the functions in
``semantics`` (``py_eq(f0, "PASS")``). Names become *facts*: paths into memory, numbered ``f0, f1, …``
per graph. ``and``, ``or`` and ``if``/``else`` become CEL's ternary, which evaluates in Python's order and
does not swallow errors as CEL's ``&&`` does.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field

from hive_ray.errors import UserError

FactPath = tuple[str, ...]

DEPTH_LIMIT = 24
"""Nesting of one condition; CEL's own parser ends at 32."""

FACTS_LIMIT = 256
"""Different memory paths that the conditions of one graph may read."""

_FUNCTIONS = ("str", "int", "float", "bool", "len")
_METHODS = {
    "lower": (0, 0), "upper": (0, 0), "strip": (0, 1),
    "startswith": (1, 1), "endswith": (1, 1), "get": (1, 2),
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Mod: "mod",
}  # fmt: skip
_LITERAL_NAMES = {"true": "true", "false": "false", "null": "null", "none": "null"}
_CONTEXTS = ("output", "memory")


class ExpressionFault(UserError):
    """A condition that cannot be accepted: what is wrong with it, and what would be right.

    ``line`` and ``column`` count from 1; 0: unknown.
    """

    def __init__(self, problem: str, remedy: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(f"{problem} ({remedy})" if remedy else problem)
        self.problem = problem
        self.remedy = remedy
        self.line = line
        self.column = column

    def at(self, line: int, column: int) -> ExpressionFault:
        """The same at a place, unless it knows its own."""
        if not self.line:
            self.line, self.column = line, column
        return self


@dataclass(slots=True)
class Facts:
    """The fact paths of one graph, and those that one condition has read so far."""

    paths: list[FactPath]
    read: list[int] = field(default_factory=list[int])

    def variable(self, path: FactPath) -> str:
        """The CEL variable of a path, numbered on first use."""
        if path not in self.paths:
            if len(self.paths) >= FACTS_LIMIT:
                raise ExpressionFault(
                    f"more than {FACTS_LIMIT} memory paths are read by conditions", "read fewer"
                )
            self.paths.append(path)
        index = self.paths.index(path)
        if index not in self.read:
            self.read.append(index)
        return f"f{index}"


def translate(source: str, facts: Facts, keys: Collection[str] = ()) -> str:
    """CEL text with the meaning that Python gives to ``source``.

    Args:
        keys: memory keys known to exist; one named ``output`` or ``memory`` hides Hive's context.

    Raises:
        SyntaxError: not a Python expression.
        ExpressionFault: syntax outside the allow-list.
    """
    tree = ast.parse(source.strip(), mode="eval")
    return _Translator(facts, frozenset(keys)).boolean(tree.body, 0)


def string_literal(text: str) -> str:
    """A CEL string literal; CEL reads JSON's escapes except surrogate pairs, so none are written."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ExpressionFault("a string with a NUL or half of a surrogate pair", "leave the character out")
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Translator:
    facts: Facts
    keys: frozenset[str]

    def boolean(self, node: ast.expr, depth: int) -> str:
        """CEL text of the node's truth value."""
        _check_depth(depth)
        match node:
            case ast.BoolOp(op=operator, values=values):
                return self._connective(isinstance(operator, ast.And), values, depth)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return f"!({self.boolean(operand, depth + 1)})"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                chosen, other = self.boolean(body, depth + 1), self.boolean(orelse, depth + 1)
                return f"({self.boolean(test, depth + 1)} ? {chosen} : {other})"
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.Constant(value=bool(value)):
                return "true" if value else "false"
            case ast.Call(func=ast.Name(id="bool"), args=[argument], keywords=[]):
                return self.boolean(argument, depth + 1)
            case _:
                return f"py_truth({self.value(node, depth)})"

    def value(self, node: ast.expr, depth: int) -> str:
        """CEL text of the node's value."""
        _check_depth(depth)
        path = self._path(node)
        if path is not None:
            try:
                return self._fact(path)
            except ExpressionFault as fault:
                raise fault.at(node.lineno, node.col_offset + 1) from None
        match node:
            case ast.Constant():
                return _constant(node)
            case ast.Name(id=name):
                return _LITERAL_NAMES[name]
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return self.boolean(node, depth)
            case ast.BoolOp() | ast.IfExp():
                return self._branch(node, depth)
            case ast.Call():
                return self._call(node, depth)
            case _:
                return self._operation(node, depth)

    def _branch(self, node: ast.BoolOp | ast.IfExp, depth: int) -> str:
        if isinstance(node, ast.BoolOp):
            return self._choice(isinstance(node.op, ast.And), node.values, depth)
        chosen, other = self.value(node.body, depth + 1), self.value(node.orelse, depth + 1)
        return f"({self.boolean(node.test, depth + 1)} ? dyn({chosen}) : dyn({other}))"

    def _operation(self, node: ast.expr, depth: int) -> str:
        match node:
            case ast.UnaryOp(op=operator, operand=operand):
                return self._signed(operator, operand, depth)
            case ast.BinOp(left=left, op=operator, right=right):
                return self._arithmetic(left, operator, right, depth)
            case ast.List(elts=items):
                return self._items(items, depth)
            case ast.Attribute(value=value, attr=key):
                return f"py_get({self.value(value, depth + 1)}, {string_literal(key)})"
            case ast.Subscript(value=value, slice=index):
                return f"py_index({self.value(value, depth + 1)}, {self.value(index, depth + 1)})"
            case _:
                raise _unsupported(node)

    def _connective(self, is_and: bool, values: list[ast.expr], depth: int) -> str:
        """Balanced, so that a long chain stays shallow."""
        if len(values) == 1:
            return self.boolean(values[0], depth + 1)
        middle = len(values) // 2
        left = self._connective(is_and, values[:middle], depth + 1)
        right = self._connective(is_and, values[middle:], depth + 1)
        return f"({left} ? {right} : false)" if is_and else f"({left} ? true : {right})"

    def _choice(self, is_and: bool, values: list[ast.expr], depth: int) -> str:
        """``a or b`` as a value is one of its operands."""
        if len(values) == 1:
            return self.value(values[0], depth + 1)
        first, rest = self.value(values[0], depth + 1), self._choice(is_and, values[1:], depth + 1)
        if_true, if_false = (rest, first) if is_and else (first, rest)
        return f"(py_truth({first}) ? dyn({if_true}) : dyn({if_false}))"

    def _comparison(self, node: ast.Compare, depth: int) -> str:
        operands = [node.left, *node.comparators]
        links = [
            self._compare(operands[position], operator, operands[position + 1], depth)
            for position, operator in enumerate(node.ops)
        ]
        text = links.pop()
        while links:
            text = f"({links.pop()} ? {text} : false)"
        return text

    def _compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr, depth: int) -> str:
        match operator:
            case ast.In() | ast.NotIn():
                negation = "!" if isinstance(operator, ast.NotIn) else ""
                return f"{negation}py_in({self.value(left, depth + 1)}, {self._container(right, depth + 1)})"
            case ast.Is() | ast.IsNot():
                negation = "!" if isinstance(operator, ast.IsNot) else ""
                return f"{negation}py_is({self.value(left, depth + 1)}, {_singleton(right)})"
            case _:
                name = _COMPARISONS[type(operator)]
                return f"py_{name}({self.value(left, depth + 1)}, {self.value(right, depth + 1)})"

    def _container(self, node: ast.expr, depth: int) -> str:
        if isinstance(node, ast.Tuple | ast.Set):
            return self._items(node.elts, depth)
        return self.value(node, depth)

    def _items(self, items: list[ast.expr], depth: int) -> str:
        return "[" + ", ".join(f"dyn({self.value(item, depth + 1)})" for item in items) + "]"

    def _signed(self, operator: ast.unaryop, operand: ast.expr, depth: int) -> str:
        match operator, operand:
            case ast.USub(), ast.Constant(value=(int(number) | float(number))):
                return _number(-number)
            case ast.USub(), _:
                return f"py_neg({self.value(operand, depth + 1)})"
            case ast.UAdd(), _:
                return f"py_pos({self.value(operand, depth + 1)})"
            case _:
                raise ExpressionFault("operator ~ is not part of conditions", "use + - * / %")

    def _arithmetic(self, left: ast.expr, operator: ast.operator, right: ast.expr, depth: int) -> str:
        name = _ARITHMETIC.get(type(operator))
        if name is None:
            raise ExpressionFault(
                f"operator {type(operator).__name__} is not part of conditions", "use + - * / %"
            )
        return f"py_{name}({self.value(left, depth + 1)}, {self.value(right, depth + 1)})"

    def _call(self, node: ast.Call, depth: int) -> str:
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionFault("a call with named or starred arguments", "give plain arguments")
        match node.func:
            case ast.Name(id="bool") if len(node.args) == 1:
                return self.boolean(node.args[0], depth + 1)
            case ast.Name(id=name) if name in _FUNCTIONS and len(node.args) == 1:
                return f"py_{name}({self.value(node.args[0], depth + 1)})"
            case ast.Attribute(value=target, attr=name) if name in _METHODS:
                return self._method(target, name, node.args, depth)
            case _:
                raise _unsupported_call(node)

    def _method(self, target: ast.expr, name: str, arguments: list[ast.expr], depth: int) -> str:
        least, most = _METHODS[name]
        if not least <= len(arguments) <= most:
            raise ExpressionFault(f".{name}() with {len(arguments)} arguments", f"it takes {least} to {most}")
        if name == "get" and len(arguments) == 2:
            return self._get_or(target, arguments[0], arguments[1], depth)
        function = "strip_of" if name == "strip" and arguments else name
        parts = [self.value(part, depth + 1) for part in (target, *arguments)]
        return f"py_{function}({', '.join(parts)})"

    def _get_or(self, target: ast.expr, key: ast.expr, default: ast.expr, depth: int) -> str:
        other = self.value(default, depth + 1)
        path = self._path(ast.Subscript(value=target, slice=key))
        if path is None:
            return f"py_get_or({self.value(target, depth + 1)}, {self.value(key, depth + 1)}, {other})"
        # A fact cannot tell an absent key from a null one: both take the default.
        found = self._fact(path)
        return f"(py_is({found}, null) ? dyn({other}) : dyn({found}))"

    def _path(self, node: ast.expr) -> FactPath | None:
        """The memory path that a node names, with its context's name still in front."""
        match node:
            case ast.Name(id=name) if name in self.keys or name not in _LITERAL_NAMES:
                return (_plain_name(name),)
            case ast.Attribute(value=value, attr=key):
                return self._longer(value, _plain_name(key))
            case ast.Subscript(value=value, slice=ast.Constant(value=str(key))):
                return self._longer(value, key)
            case ast.Call(
                func=ast.Attribute(value=value, attr="get"), args=[ast.Constant(value=str(key))], keywords=[]
            ):
                return self._longer(value, key)
            case _:
                return None

    def _longer(self, node: ast.expr, key: str) -> FactPath | None:
        # Facts travel under dotted names, so a key with a dot of its own is looked up when it runs.
        path = self._path(node)
        return (*path, key) if path is not None and "." not in key else None

    def _fact(self, path: FactPath) -> str:
        if path[0] in _CONTEXTS and path[0] not in self.keys:
            if len(path) == 1:
                raise ExpressionFault(
                    f"'{path[0]}' alone has no value", f"name a key: {path[0]}.KEY or just KEY"
                )
            path = path[1:]
        return self.facts.variable(path)


def _check_depth(depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise ExpressionFault(
            f"nested deeper than {DEPTH_LIMIT} levels", "split the condition over several nodes"
        )


def _plain_name(name: str) -> str:
    if name.startswith("__"):
        raise ExpressionFault(f"the name '{name}'", "conditions read memory keys only")
    return name


def _constant(node: ast.Constant) -> str:
    match node.value:
        case None:
            return "null"
        case bool(value):
            return "true" if value else "false"
        case int(value) | float(value):
            return _number(value)
        case str(value):
            return string_literal(value)
        case _:
            raise _unsupported(node)


def _number(value: float) -> str:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ExpressionFault(f"the number {value} does not fit into 64 bits", "use a smaller number")
        return f"({value})" if value < 0 else str(value)
    if not math.isfinite(value):
        raise ExpressionFault("a number that is not finite", "use a finite number")
    return f"({value!r})" if math.copysign(1.0, value) < 0 else repr(value)


def _singleton(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=None | bool()):
            return _constant(node)
        case ast.Name(id=name) if name in _LITERAL_NAMES:
            return _LITERAL_NAMES[name]
        case _:
            raise ExpressionFault("'is' compares with None, True or False only", "use ==")


def _unsupported(node: ast.expr) -> ExpressionFault:
    remedy = "use names, constants, comparisons, and/or/not, in, + - * / %, str() int() float() bool() len()"
    return ExpressionFault(
        f"{type(node).__name__} is not part of conditions: {ast.unparse(node)[:80]}", remedy
    )


def _unsupported_call(node: ast.Call) -> ExpressionFault:
    known = ", ".join([*(f"{name}(x)" for name in _FUNCTIONS), *(f".{name}()" for name in _METHODS)])
    return ExpressionFault(f"the call {ast.unparse(node)[:80]} is not part of conditions", f"known: {known}")
