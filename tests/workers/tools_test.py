"""Declared tools: what is known of them, what they are given, and what is refused before they run."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest

import hive_ray.workers.tools as hive
from hive_ray.core.messages import StepKind
from hive_ray.errors import ConfigError
from hive_ray.graph.compiled import NodeKind
from tests.workers import steps


@hive.tool(idempotent=True, timeout_s=2.5, tags=["reads"])
def search(query: str, limit: int = 5, kind: Literal["web", "mail"] = "web") -> list[str]:
    """Find texts."""
    return [query] * limit + [kind]


def test_a_tool_is_described_by_its_signature():
    """Name, docstring, schema, idempotence, time and tags are plain data for compiler and LLM."""
    info = hive.Registry().add(search).info

    assert (info.name, info.description, info.idempotent, info.timeout_us) == (
        "search",
        "Find texts.",
        True,
        2_500_000,
    )
    assert (info.tags, info.pool) == (("reads",), "tool")
    assert info.schema == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer"},
            "kind": {"type": "string", "enum": ["web", "mail"]},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


def test_undeclared_work_is_not_idempotent():
    """Only a declaration makes a second attempt harmless."""

    @hive.tool()
    def send() -> None: ...

    assert not hive.Registry().add(send).info.idempotent


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "argument query"),
        ({"query": "x", "limit": "many"}, "argument limit"),
        ({"query": "x", "other": 1}, "other"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(arguments: dict[str, Any], named: str):
    """The failure names the argument, and promises that nothing has begun."""
    outcome = _call(search, arguments)

    assert (outcome.failure, outcome.started) == ("BAD_INPUT", False)
    assert named in steps.message(outcome)


def _call(fn: Any, arguments: dict[str, Any]):
    plan = steps.node(NodeKind.TOOL, output_keys=("found",))
    return steps.executor(plan, fn).run_sync(steps.lease(StepKind.TOOL, fn.__name__, arguments))


def test_arguments_arrive_as_their_annotated_types():
    """A JSON string under a date annotation is a date in the tool."""

    @hive.tool()
    def age(born: date) -> str:
        return type(born).__name__

    assert steps.outputs(_call(age, {"born": "1990-01-02"})) == {"found": "date"}


def test_a_tool_learns_who_calls():
    """The idempotency key is the same for every attempt of one call."""
    seen: list[hive.ToolContext] = []

    @hive.tool()
    def mail(to: str, context: hive.ToolContext) -> str:
        seen.append(context)
        return to

    executor = steps.executor(steps.node(NodeKind.TOOL, output_keys=("found",)), mail)
    for attempt in (1, 2):
        step = steps.lease(StepKind.TOOL, "mail", {"to": "ann"}, attempt=attempt, call=3)
        assert steps.outputs(executor.run_sync(step)) == {"found": "ann"}

    assert [c.attempt for c in seen] == [1, 2]
    assert {c.idempotency_key for c in seen} == {"run:1:3"}
    assert (seen[0].run_id, seen[0].request_id, seen[0].node, seen[0].team, seen[0].agent) == (
        "run", "req", "n", "t", "a",
    )  # fmt: skip
    assert "context" not in (hive.Registry().add(mail).info.schema or {})["properties"]


def test_a_parameter_named_idempotency_key_gets_the_key_of_the_call():
    """No model sees it or can give it; a graph that has a key of its own may."""
    seen: list[str] = []

    @hive.tool()
    def charge(to: str, idempotency_key: str) -> str:
        seen.append(idempotency_key)
        return to

    node = steps.executor(steps.node(NodeKind.TOOL, output_keys=("found",)), charge)
    loop = steps.executor(steps.node(NodeKind.EVENT_LOOP, output_keys=("found",)), charge)
    for executor, own in (
        (node, {}),
        (node, {"idempotency_key": "mine"}),
        (loop, {"idempotency_key": "its"}),
    ):
        executor.run_sync(steps.lease(StepKind.TOOL, "charge", {"to": "ann", **own}, call=3))

    assert seen == ["run:1:3", "mine", "run:1:3"]
    assert list((hive.Registry().add(charge).info.schema or {})["properties"]) == ["to"]


def test_a_function_may_take_the_key_beside_all_its_inputs():
    """It does not count as the one parameter that takes the inputs as a dict."""
    seen: list[Any] = []

    @hive.function()
    def charge(inputs: dict[str, Any], idempotency_key: str) -> None:
        seen.extend((inputs, idempotency_key))

    executor = steps.executor(steps.node(NodeKind.FUNCTION), charge)
    executor.run_sync(steps.lease(StepKind.FUNCTION, "charge", {"a": 1, "b": 2}))

    assert seen == [{"a": 1, "b": 2}, "run:1:0"]


@pytest.mark.parametrize(
    ("raised", "kind", "retry_after_us"),
    [
        (hive.ToolUnavailable("CRM away"), "TOOL_UNAVAILABLE", 0),
        (hive.RetryAfter(1.5), "RATE_LIMITED", 1_500_000),
        (hive.BadInput("no such customer"), "BAD_INPUT", 0),
    ],
)
def test_a_tool_says_that_nothing_has_happened(raised: Exception, kind: str, retry_after_us: int):
    """What an author raises by these names may be tried again, also when the tool is not idempotent."""

    @hive.tool()
    def crm() -> None:
        raise raised

    outcome = _call(crm, {})

    assert (outcome.failure, outcome.started, outcome.retry_after_us) == (kind, False, retry_after_us)
    assert str(raised) in steps.message(outcome)


def test_modules_are_loaded_by_name_and_by_path(tmp_path: Path):
    """What a module declares is found; what it only imports is not found twice."""
    file = tmp_path / "my_tools.py"
    file.write_text(
        "import hive_ray.workers.tools as hive\n"
        "from tests.workers.tools_test import search\n"
        "@hive.function(name='double')\n"
        "def _d(x: int) -> int:\n    return 2 * x\n"
    )
    registry = hive.Registry()
    registry.load_modules([str(file), "tests.workers.tools_test", str(file)])

    assert registry.names("function") == ("double",)
    assert "search" in registry.names("tool")


def test_modules_that_cannot_be_imported_are_all_named(tmp_path: Path):
    """One start shows every fault."""
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")

    with pytest.raises(ConfigError) as caught:
        hive.Registry().load_modules([str(broken), "no_such_module_here"])
    assert [f.place for f in caught.value.faults] == [
        f"tools.modules.{broken}",
        "tools.modules.no_such_module_here",
    ]
    assert "ZeroDivisionError" in caught.value.faults[0].problem


def test_two_tools_of_one_name_are_refused():
    """Which of them runs must never depend on the order of imports."""

    @hive.tool(name="search")
    def other() -> None: ...

    registry = hive.Registry()
    registry.add(search)
    with pytest.raises(ConfigError, match="two tools have this name"):
        registry.add(other)


def test_parameters_without_a_json_schema_are_named():
    """The graph that uses the tool is refused, with the tool's name and what would be right."""

    class Odd: ...

    @hive.tool()
    def odd(thing: Odd) -> None: ...

    odd.__annotations__["thing"] = Odd
    with pytest.raises(ConfigError, match=r"tools\.odd: its parameters have no JSON Schema"):
        _ = hive.Registry().add(odd).info


def test_an_annotation_that_cannot_be_resolved_hides_no_other():
    """A class that only the function's own scope knows: any value is accepted there."""

    class Local: ...

    @hive.tool()
    def tell(thing: Local, count: int, context: hive.ToolContext) -> str:
        return f"{thing} {count + 1} {context.run_id}"

    assert steps.outputs(_call(tell, {"thing": "x", "count": "1"})) == {"found": "x 2 run"}
