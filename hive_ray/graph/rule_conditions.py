"""Conditions of policies: CEL, or Python's style where CEL's parser refuses it, over the facts of a step.

As in the conditions of graphs an absent value is null. Unlike there the names are known: a fact that does
not exist is refused when the rule is read, and the kinds of those that do are checked.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

from hive_ray.graph import expressions
from hive_ray.graph.expressions import LIST_VARIABLE, TEXT_VARIABLE
from hive_ray.graph.native import translate_native
from hive_ray.graph.policies import LIST_FACTS, NUMBER_FACTS, OPEN_FACTS, ROOTS, TEXT_FACTS
from hive_ray.graph.spec import nearest
from hive_ray.graph.translation import ExpressionFault, FactPath, Facts, translate

_KNOWN = (*TEXT_FACTS, *LIST_FACTS, *NUMBER_FACTS, *(f"{root}.KEY" for root in OPEN_FACTS))


class Condition(NamedTuple):
    """A condition as CEL, and the (variable, fact) pairs that it reads."""

    cel: str
    reads: tuple[tuple[str, str], ...]


class _StepFacts(Facts):
    """The facts of one condition: a variable for each, of its kind where that is known."""

    def __init__(self) -> None:
        super().__init__([])
        self.reads: dict[str, str] = {}

    def variable(self, path: FactPath) -> str:
        name = ".".join(path)
        if name in TEXT_FACTS:
            found = f"{TEXT_VARIABLE}{TEXT_FACTS.index(name)}"
        elif name in LIST_FACTS:
            found = f"{LIST_VARIABLE}{LIST_FACTS.index(name)}"
        elif path[0] in OPEN_FACTS or name in NUMBER_FACTS:
            found = super().variable(path)
        else:
            raise _unknown(name)
        self.reads[found] = name
        return found


_PYTHONS = {"None": "null", "True": "true", "False": "false", "and": "&&", "or": "||", "not": "!"}


def _unknown(name: str) -> ExpressionFault:
    if name in _PYTHONS:
        return ExpressionFault(f"'{name}' is Python, the rest is CEL", f"write {_PYTHONS[name]}")
    remedy = nearest(name, _KNOWN) or f"memory.{name} or args.{name}; known: {', '.join(_KNOWN)}"
    return ExpressionFault(f"no fact is called '{name}'", remedy)


def compile_condition(source: str) -> Condition:
    """CEL of a rule's condition, its types checked.

    Raises:
        ExpressionFault: what is wrong, where, and what would be right.
    """
    expressions.check_length(source)
    facts = _StepFacts()
    if not expressions.is_cel(source) and _is_python(source):
        text = translate(source, facts, ROOTS)
    else:
        text = translate_native(source, facts, ROOTS)
    expressions.check(text)
    return Condition(text, tuple(facts.reads.items()))


def _is_python(source: str) -> bool:
    try:
        ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
