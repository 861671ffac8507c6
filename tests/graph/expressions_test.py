"""Conditions: Python's meaning, evaluated by CEL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hive_ray.graph.compiled import TOO_LARGE, CompiledGraph, extract_facts
from hive_ray.graph.expressions import Evaluator, ExpressionError, ExpressionFault, compile_condition

EVALUATOR = Evaluator()


def _graph(source: str) -> CompiledGraph:
    facts: list[tuple[str, ...]] = []
    expression = compile_condition(source, facts)
    return CompiledGraph("g", source, 0, (), (), expressions=(expression,), facts=tuple(facts))


def _holds(source: str, **memory: Any) -> bool:
    graph = _graph(source)
    return EVALUATOR.evaluate(graph, 0, extract_facts(graph, memory))


HIVE = [
    ("str(x).lower() == 'true'", {"x": True}, True),
    ("str(x).lower() == 'true'", {"x": "TRUE"}, True),
    ("str(x).lower() != 'true'", {}, True),
    ('str(x).lower() != "true"', {"x": "true"}, False),
    ("approved == True", {"approved": True}, True),
    ("approved == True", {"approved": 1}, True),
    ("approved == True", {"approved": "true"}, False),
    ("approved == False", {}, False),
    ("verdict in ['PASS', 'FAIL']", {"verdict": "FAIL"}, True),
    ("verdict in ['PASS', 'FAIL']", {"verdict": None}, False),
    ("str(token).strip() not in ('', 'None', 'null')", {"token": " abc "}, True),
    ("str(token).strip() not in ('', 'None', 'null')", {}, False),
    ("int(confidence) >= 80 and priority != 'low'", {"confidence": "85", "priority": "high"}, True),
    ("confidence >= 0.7", {"confidence": 0.7}, True),
    ("confidence < 0.7", {"confidence": 1}, False),
    ("str(x) == 'None'", {}, True),
    ("str(x) == '1.0'", {"x": 1.0}, True),
    ("ticket.customer.plan == 'Pro'", {"ticket": {"customer": {"plan": "Pro"}}}, True),
    ("ticket['customer'].get('plan') == 'Pro'", {"ticket": {"customer": {"plan": "Pro"}}}, True),
    ("ticket.customer.plan == null", {"ticket": {"customer": None}}, True),
    ("ticket.get('urgent', True)", {"ticket": {}}, True),
    ("output.get('score') > 3", {"score": 4}, True),
    ("output['score'] > 3 and memory.score < 5", {"score": 4}, True),
    ("items[0].name == 'a'", {"items": [{"name": "a"}]}, True),
    ("x['a.b'] == 1", {"x": {"a.b": 1}}, True),
    ("not items", {"items": []}, True),
    ("done", {"done": "no"}, True),
    ("done", {}, False),
    ("(first or second) == 'z'", {"first": "", "second": "z"}, True),
    ("'a' if flag else ''", {"flag": False}, False),
    ("1 < x <= 3", {"x": 3}, True),
    ("x is None", {}, True),
    ("x is not None", {"x": 0}, True),
    ("x == true", {"x": True}, True),
    ("'vip' in tags and len(tags) > 1", {"tags": ["vip", "new"]}, True),
    ("'key' in x", {"x": {"key": None}}, True),
    ("name.startswith('A') and name.endswith('z') and name.upper() == 'AZ'", {"name": "Az"}, True),
    ("total - used * 2 < 10 / 4 and total % 2 == 1", {"total": 11, "used": 5}, True),
    ("True or 1 / 0", {}, True),
    ("x == -1.5e-07", {"x": -1.5e-07}, True),
    ("x == 'é😀\"\\n\\\\'", {"x": 'é😀"\n\\'}, True),
]


@pytest.mark.parametrize(("source", "memory", "expected"), HIVE)
def test_conditions_mean_what_they_mean_in_python(source: str, memory: dict[str, Any], expected: bool):
    """Hive's conditions, with absent names as null."""
    assert _holds(source, **memory) is expected


NATIVE = [
    ("score > 3 && !(done == true)", {"score": 4, "done": False}, True),
    ("plan == 'Pro' || ticket.priority.startsWith('P')", {"plan": "x", "ticket": {"priority": "P1"}}, True),
    ("tags.exists(t, t == 'vip') && true", {"tags": ["a", "vip"]}, True),
    ("has(ticket.owner) || false", {"ticket": {}}, False),
    ("score > 3 ? plan == 'x' : false", {"score": 4, "plan": "x"}, True),
]


@pytest.mark.parametrize(("source", "memory", "expected"), NATIVE)
def test_native_cel_is_accepted_where_python_refuses(source: str, memory: dict[str, Any], expected: bool):
    """``&&``, ``||``, ``!``, ``?:`` and CEL's macros keep CEL's meaning."""
    assert _holds(source, **memory) is expected


REFUSED = [
    ("", "empty"),
    ("x = 3", "neither Python"),
    ("x ==", "neither Python"),
    ("__import__('os').system('true')", "__import__"),
    ("open('f')", "open"),
    ("x.__class__", "__class__"),
    ("lambda: 1", "Lambda"),
    ("[i for i in x]", "ListComp"),
    ("x ** 2", "Pow"),
    ("f'{x}'", "JoinedStr"),
    ("x[1:2]", "Slice"),
    ("x == (1, 2)", "Tuple"),
    ("(y := 1)", "NamedExpr"),
    ("x.format(1)", "format"),
    ("str(x, 1)", "str(x, 1)"),
    ("len(x).lower() == 'a'", "lower does not apply to (int)"),
    ("str(x) > 3", "gt does not apply to (string, int)"),
    ("output == 3", "'output' alone"),
    ("x is 3", "'is' compares"),
    (f"x == {2**63}", "64 bits"),
    ("x == 1e999", "finite"),
    ("x == 'a\\0b'", "NUL"),
    ("x\0", "null bytes"),
    ("not " * 30 + "x", "nested deeper"),
    ("(" * 300 + "x" + ")" * 300, "neither Python"),
    ("x == '" + "a" * 5000 + "'", "longer than"),
    ("score > 3 ? 'a' : 'b'", "type STRING"),
    ("-" * 3000 + "x", ""),
]


@pytest.mark.parametrize(("source", "said"), REFUSED, ids=[said or "deep" for _, said in REFUSED])
def test_what_is_outside_the_allow_list_is_refused(source: str, said: str):
    """Each refusal says what it found, before anything could run; the facts stay as they were."""
    facts: list[tuple[str, ...]] = [("kept",)]

    with pytest.raises(ExpressionFault) as caught:
        compile_condition(source, facts)

    assert said in str(caught.value)
    assert facts == [("kept",)]


FAILING = [
    ("x.lower() == 'a'", {"x": 3}, "lower does not apply"),
    ("x > 3", {"x": "4"}, "gt does not apply"),
    ("int(x) > 3", {"x": "many"}, "invalid literal"),
    ("1 / x > 3", {"x": 0}, "division by zero"),
    ("'a' in x", {}, "in does not apply"),
    ("str(x) == 'a'", {"x": {"b": 1, "a": 2}}, "order"),
    ("x == 1", {"x": "y" * 2000}, "the value of x is too large"),
    ("x == 'a'", {"x": "a\0b"}, "NUL"),
    ("x == 'a'", {"x": ["a", {"b": "\0"}]}, "NUL"),
    ("x == 1", {"x": 2**70}, "out of range"),
    ("x + x > 0", {"x": 2**63}, "out of range"),
    ("x && true", {"x": "text"}, ""),
]


@pytest.mark.parametrize(("source", "memory", "said"), FAILING)
def test_an_evaluation_without_answer_is_an_error(source: str, memory: dict[str, Any], said: str):
    """What Python would raise fails the evaluation, and the message quotes the condition."""
    with pytest.raises(ExpressionError) as caught:
        _holds(source, **memory)

    assert source in str(caught.value)
    assert said in str(caught.value)


def test_a_comprehension_over_too_much_ends():
    """CEL's iteration budget bounds what a native condition can cost."""
    numbers = "[" + ",".join(["1"] * 200) + "]"
    source = f"{numbers}.all(a, {numbers}.all(b, {numbers}.all(c, a + b + c > 0))) && true"

    with pytest.raises(ExpressionError, match="budget"):
        _holds(source)


def test_a_value_too_large_is_marked_not_lost():
    """The fact travels as a marker, so that a later evaluation can name it."""
    graph = _graph("x == 1 or y == 2")

    facts = extract_facts(graph, {"x": "z" * 2000, "y": 2})

    assert facts == {"x": TOO_LARGE, "y": 2}


def test_conditions_share_fact_variables():
    """Two conditions on one path read one fact."""
    facts: list[tuple[str, ...]] = []
    first = compile_condition("a.b == 1 and c", facts)
    second = compile_condition("c and not a['b']", facts)

    assert facts == [("a", "b"), ("c",)]
    assert (first.facts, second.facts) == ((0, 1), (1, 0))


def test_a_memory_key_may_be_called_output():
    """A key of that name hides Hive's context."""
    facts: list[tuple[str, ...]] = []

    compile_condition("output.x == 1", facts, keys={"output"})

    assert facts == [("output", "x")]


def test_long_chains_stay_within_the_parsers_depth():
    """150 alternatives are one condition."""
    source = " or ".join(f"x == {number}" for number in range(150))

    assert _holds(source, x=149)
    assert not _holds(source, x=150)


NAMES = ("a", "b", "c")
NUMERIC = ("n", "m")
TEXTS = st.text("abTrue 1\"'\\é", max_size=6)
NUMBERS = st.one_of(st.booleans(), st.integers(-99, 99), st.floats(-99, 99).map(lambda x: round(x, 2)))
SCALARS = st.one_of(st.none(), NUMBERS, TEXTS, st.sampled_from(["true", "None", "PASS", "12", "-3", "1.5"]))
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from("xyz"), SCALARS, max_size=1)
)


def _literals() -> st.SearchStrategy[str]:
    return SCALARS.map(repr)


def _numeric(depth: int) -> st.SearchStrategy[str]:
    leaves = st.one_of(st.sampled_from(NUMERIC), NUMBERS.map(repr))
    if depth == 0:
        return leaves
    inner = _numeric(depth - 1)
    return st.one_of(
        leaves,
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/%"), inner),
        inner.map("(-{})".format),
        st.builds(
            "{}({})".format, st.sampled_from(["int", "float", "len"]), st.one_of(inner, _text(depth - 1))
        ),
    )


def _text(depth: int) -> st.SearchStrategy[str]:
    leaves = st.one_of(st.sampled_from(NAMES), _literals())
    if depth == 0:
        return leaves
    inner = _text(depth - 1)
    methods = st.sampled_from([".lower()", ".upper()", ".strip()", ".strip('a')", ".get('x')"])
    return st.one_of(
        leaves,
        st.builds("str({})".format, st.one_of(inner, _numeric(depth - 1))),
        st.builds("{}{}".format, st.sampled_from(NAMES), methods),
        st.builds("str({}){}".format, inner, st.sampled_from([".lower()", ".upper()", ".strip()"])),
        st.builds("({} + {})".format, inner, inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner),
        st.builds("({} if {} else {})".format, inner, _boolean(depth - 1), inner),
    )


def _boolean(depth: int) -> st.SearchStrategy[str]:
    values = st.one_of(_text(max(depth - 1, 0)), _numeric(max(depth - 1, 0)))
    lists = st.lists(_literals(), max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
    tuples = st.lists(_literals(), min_size=2, max_size=3).map(lambda items: "(" + ", ".join(items) + ")")
    comparisons = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    leaves = st.one_of(
        st.builds("({} {} {})".format, values, comparisons, values),
        st.builds("({} {} {} {} {})".format, values, comparisons, values, comparisons, values),
        st.builds(
            "({} {} {})".format, values, st.sampled_from(["in", "not in"]), st.one_of(values, lists, tuples)
        ),
        st.builds("({} {} None)".format, st.sampled_from(NAMES), st.sampled_from(["is", "is not"])),
        st.builds("bool({})".format, values),
        values,
    )
    if depth == 0:
        return leaves
    inner = _boolean(depth - 1)
    chain = st.lists(inner, min_size=2, max_size=4)
    return st.one_of(
        leaves,
        chain.map(lambda parts: "(" + " and ".join(parts) + ")"),
        chain.map(lambda parts: "(" + " or ".join(parts) + ")"),
        inner.map("not {}".format),
    )


def _python(source: str, memory: dict[str, Any]) -> bool | None:
    """Python's own answer; ``None`` where it raises."""
    allowed = {"str": str, "int": int, "float": float, "bool": bool, "len": len}
    try:
        return bool(eval(source, {"__builtins__": allowed}, memory))  # noqa: S307 - the oracle
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError):
        return None


@settings(max_examples=1500, deadline=None)
@given(
    source=_boolean(3),
    memory=st.fixed_dictionaries(
        dict.fromkeys(NAMES, VALUES) | {name: st.one_of(st.none(), NUMBERS) for name in NUMERIC}
    ),
)
def test_every_condition_agrees_with_python(source: str, memory: dict[str, Any]):
    """Where Python answers, the answer is the same; where Python raises, the evaluation fails.

    A condition whose types can never fit is refused when it is compiled. ``.get`` on a value that is
    not an object is null here.
    """
    expected = _python(_without_get(source, memory), memory)
    try:
        graph = _graph(source)
    except ExpressionFault as fault:
        assert "does not apply" in str(fault) or "nested" in str(fault)
        return
    try:
        actual: bool | None = EVALUATOR.evaluate(graph, 0, extract_facts(graph, memory))
    except ExpressionError:
        actual = None

    assert actual == expected


def _without_get(source: str, memory: dict[str, Any]) -> str:
    for name in NAMES:
        value = memory[name]
        found = value.get("x") if isinstance(value, dict) else None
        source = source.replace(f"{name}.get('x')", f"({found!r})")
    return source
