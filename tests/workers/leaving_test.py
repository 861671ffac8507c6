"""What a tool leaves behind, artifacts and memory, and what of it goes back with the outcome."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

import hive_ray.workers.tools as hive
from hive_ray.core.messages import MemoryGiven, MemoryRead, MemoryWrite, Outcome, StepKind
from hive_ray.core.values import NULL, Value, inline
from hive_ray.errors import ConfigError, StoreError
from hive_ray.graph.compiled import NodeKind, ToolPlan
from hive_ray.workers.tools import ToolContext
from tests.workers import steps

GIVEN = MemoryGiven(
    (
        MemoryRead("agent:profile", "who", inline({"tone": "curt"}), 3),
        MemoryRead("agent:absent", "absent", NULL, 0),
        MemoryRead("team:faq/a", "faq/a", inline("A"), 1),
    ),
    ("team:faq/",),
)


def call(fn: Any, blobs: steps.Blobs | None = None, settings: Any = None, **fields: Any) -> Outcome:
    """Run a function that takes the context as its only parameter."""
    declared = hive.function()(fn)
    plan = steps.node(output_keys=("out",))
    executor = steps.executor(plan, declared, settings=settings, blobs=blobs)
    given: dict[str, Any] = {"level": 2, "memory": GIVEN} | fields
    lease = steps.lease(StepKind.FUNCTION, fn.__name__, **given)
    if executor.is_sync(lease):
        return executor.run_sync(lease)
    return steps.run(executor, lease)


# --- artifacts ---------------------------------------------------------------------------------------


def test_an_artifact_is_a_blob_of_the_run_before_the_report(tmp_path: Path):
    """Bytes, text and files; size and digest are of the bytes, whatever the blob looks like."""
    blobs = steps.Blobs()
    (tmp_path / "plot.png").write_bytes(b"\x89PNG")

    def draw(context: ToolContext) -> str:
        context.artifact("data.bin", b"\x00\x01")
        context.artifact("notes.md", "hé", type="text/markdown")
        return context.artifact("plot.png", tmp_path / "plot.png")

    content = steps.content(call(draw, blobs))

    assert [(a.name, a.media_type, a.size) for a in content.artifacts] == [
        ("data.bin", "application/octet-stream", 2),
        ("notes.md", "text/markdown; charset=utf-8", 3),
        ("plot.png", "image/png", 4),
    ]
    for made, data in zip(content.artifacts, (b"\x00\x01", "hé".encode(), b"\x89PNG"), strict=True):
        assert blobs.objects[made.blob] == data and made.blob.startswith("run/")
        assert made.digest == hashlib.sha256(data).hexdigest() and made.node == "n"


def test_an_async_function_leaves_artifacts_too():
    """They are stored off the event loop."""

    async def draw(context: ToolContext) -> int:
        await asyncio.sleep(0)
        context.artifact("a.txt", "a")
        context.memory.put("agent:n", [1])
        return 1

    outcome = call(draw)

    assert [made.name for made in steps.content(outcome).artifacts] == ["a.txt"]
    assert outcome.memory == (MemoryWrite("agent", "n", inline([1])),)


def test_a_tool_call_of_an_agent_leaves_artifacts():
    """Beside its result."""

    @hive.tool()
    def draw(context: ToolContext) -> str:
        return context.artifact("a.txt", "a")

    plan = steps.node(NodeKind.EVENT_LOOP, tools=(ToolPlan("draw"),))
    outcome = steps.executor(plan, draw).run_sync(steps.lease(StepKind.TOOL, "draw", level=2))

    assert steps.outputs(outcome) == {"result": "a.txt"}
    assert [made.name for made in steps.content(outcome).artifacts] == ["a.txt"]


def test_a_second_artifact_of_a_name_takes_the_place_of_the_first():
    """Within one step a name stands for one file."""

    def draw(context: ToolContext) -> int:
        context.artifact("a.txt", "first")
        context.artifact("a.txt", "second")
        return 1

    (made,) = steps.content(call(draw)).artifacts
    assert made.size == len("second")


def test_a_step_that_fails_leaves_nothing():
    """Neither blobs nor writes."""
    blobs = steps.Blobs()

    def draw(context: ToolContext) -> int:
        context.artifact("a.txt", "a")
        context.memory.put("agent:n", "x" * 10_000)
        raise ValueError("no")

    outcome = call(draw, blobs)

    assert (outcome.failure, outcome.memory, steps.content(outcome).artifacts) == ("TOOL_ERROR", (), ())
    assert not blobs.objects


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\\b", "..", ".", "a\nb", "a\r\nX: y", "art-1", " a", "x" * 201, "a\x00", "\u202ea"]
)
def test_a_name_that_could_harm_is_refused(name: str):
    """No separators, no control or formatting characters, nothing that looks like an id."""

    def draw(context: ToolContext) -> int:
        context.artifact(name, b"")
        return 1

    outcome = call(draw)
    assert outcome.failure == "INVALID_OUTPUT" and "cannot be named" in steps.message(outcome)


@pytest.mark.parametrize("media_type", ["text", "text/plain\r\nX: y", "a/b/c", "text/plain; x", "é/x"])
def test_a_type_that_is_none_is_refused(media_type: str):
    """It becomes a header of whoever downloads it."""

    def draw(context: ToolContext) -> int:
        context.artifact("a", b"", type=media_type)
        return 1

    assert "no media type" in steps.message(call(draw))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"artifact_bytes": 3}, "limits.artifact_bytes"),
        ({"run_artifacts": 1}, "limits.run_artifacts"),
        ({"run_artifact_bytes": 7}, "limits.run_artifact_bytes"),
    ],
)
def test_what_is_too_much_is_refused_by_name(limits: dict[str, int], said: str):
    """Before anything is stored."""
    blobs = steps.Blobs()

    def draw(context: ToolContext) -> int:
        context.artifact("a", b"aaaa")
        context.artifact("b", b"bbbb")
        return 1

    outcome = call(draw, blobs, {"limits": limits})

    assert outcome.failure == "RESOURCE_LIMIT" and said in steps.message(outcome)
    assert not blobs.objects


def test_a_file_that_is_not_there_is_named():
    """The path stands in the message."""

    def draw(context: ToolContext) -> int:
        context.artifact("a", Path("/nowhere/a.txt"))
        return 1

    assert "/nowhere/a.txt cannot be read" in steps.message(call(draw))


def test_an_artifact_that_cannot_be_stored_leaves_the_outcome_open():
    """The tool ran; only an idempotent one may run again."""

    class Broken(steps.Blobs):
        def store(self, run: str, data: bytes, key: bytes) -> Value:
            raise StoreError("away")

    def draw(context: ToolContext) -> int:
        context.artifact("a", b"a")
        return 1

    assert call(draw, Broken()).failure == "OUTCOME_UNKNOWN"


@pytest.mark.parametrize("what", ["artifact", "memory"])
def test_a_state_of_the_first_level_takes_neither(what: str):
    """The message says what to do."""

    def draw(context: ToolContext) -> int:
        if what == "artifact":
            context.artifact("a", b"a")
        else:
            context.memory.put("agent:n", 1)
        return 1

    outcome = call(draw, level=1)
    assert outcome.failure == "POLICY_DENIED" and "hive-ray state upgrade" in steps.message(outcome)


# --- memory ------------------------------------------------------------------------------------------


def test_declared_values_are_there_by_address_and_by_name():
    """An absent key is its default, with version 0."""

    def look(context: ToolContext) -> list[Any]:
        memory = context.memory
        return [
            memory.get("agent:profile"),
            memory.get("who"),
            memory.version("who"),
            memory.get("agent:absent", "none"),
            memory.version("agent:absent"),
            memory.get("team:faq/b"),
            memory.keys("team:"),
        ]

    assert steps.outputs(call(look)) == {
        "out": [{"tone": "curt"}, {"tone": "curt"}, 3, "none", 0, None, ["team:faq/a"]]
    }


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("agent:other", "not declared"),
        ("agnet:profile", "unknown scope 'agnet'"),
        ("profile", "no scope"),
        ("agent:../x", "no key"),
        ("agent:a b", "no key"),
    ],
)
def test_what_was_not_declared_cannot_be_read(key: str, said: str):
    """It was not read with the lease; the message says where to declare it."""

    def look(context: ToolContext) -> Any:
        return context.memory.get(key)

    outcome = call(look)
    assert outcome.failure == "BAD_INPUT" and said in steps.message(outcome)


def test_a_step_sees_its_own_writes():
    """Later ones win; a condition of an earlier one stays."""

    def change(context: ToolContext) -> list[Any]:
        memory = context.memory
        memory.put("agent:n", 1, if_version=0)
        memory.put("agent:n", 2)
        memory.delete("who", if_version=memory.version("who"))
        return [memory.get("agent:n"), memory.get("who", "gone"), memory.keys()]

    outcome = call(change)

    assert steps.outputs(outcome) == {"out": [2, "gone", ["agent:n", "team:faq/a"]]}
    assert outcome.memory == (
        MemoryWrite("agent", "n", inline(2), 0),
        MemoryWrite("agent", "profile", None, 3),
    )


def test_large_values_are_blobs_of_their_owner():
    """Those of a run go with the run; those of agents and teams outlive it, and are read again."""
    blobs = steps.Blobs()
    large = ["x" * 5000]

    def change(context: ToolContext) -> int:
        for scope in ("run", "agent", "team"):
            context.memory.put(f"{scope}:n", large)
        return 1

    writes = {write.scope: write.value for write in call(change, blobs).memory}
    owners = {scope: value.blob.partition("/")[0] for scope, value in writes.items() if value}

    def look(context: ToolContext) -> Any:
        return context.memory.get("agent:n")

    read = MemoryRead("agent:n", "n", writes["agent"] or NULL, 1)
    again = steps.content(call(look, blobs, memory=MemoryGiven((read,))))
    assert blobs.decode(again.outputs["out"]) == large
    assert owners["run"] == "run" and owners["agent"] != owners["team"]
    assert all(owners[scope].startswith(f"memory-{scope}-") for scope in ("agent", "team"))


def test_a_value_has_a_bound():
    """The message says what to do instead."""

    def change(context: ToolContext) -> int:
        context.memory.put("agent:n", "x" * 100)
        return 1

    outcome = call(change, settings={"limits": {"memory_value_bytes": 50}})
    assert outcome.failure == "RESOURCE_LIMIT" and "limits.memory_value_bytes" in steps.message(outcome)


def test_a_value_must_be_json():
    """It is refused where it is written, not later."""

    def change(context: ToolContext) -> int:
        context.memory.put("agent:n", object())
        return 1

    assert call(change).failure == "INVALID_OUTPUT"


def test_a_declaration_that_means_nothing_is_refused_at_once():
    """At import, with the tool's name."""
    with pytest.raises(ConfigError, match=r"tools\.look\.memory: unknown scope 'agnet'"):

        @hive.tool(memory=["agnet:profile"])
        def look(context: ToolContext) -> None: ...


def test_what_a_tool_declares_is_known_to_the_compiler():
    """By its facts, as everything else that the compiler needs."""

    @hive.tool(memory=["who=agent:profile", "team:faq/*"])
    def look(context: ToolContext) -> None: ...

    registry = hive.Registry()
    info = registry.add(look).info
    assert [(plan.scope, plan.key, plan.prefix, plan.name) for plan in info.memory] == [
        ("agent", "profile", False, "who"),
        ("team", "faq/", True, "faq/"),
    ]
