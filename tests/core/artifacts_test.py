"""Artifacts: whose they are, which attempt's count, and how many a run may keep."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hive_ray.core.artifacts import Artifact, ArtifactBounds
from hive_ray.core.commands import RaiseLevel
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Lease
from hive_ray.core.run import RunStatus
from tests.core.graphs import agent, chain, mapping, nested, node, tool
from tests.core.story import Story, content


def artifact(name: str = "report.txt", size: int = 10) -> Artifact:
    return Artifact(name, "text/plain", size, "ab" * 32, f"blobs/r/{name}", "n")


def story(*graphs: Any) -> Story:
    told = Story(*graphs)
    told.engine.command(RaiseLevel(2), told.now)
    return told


def make(told: Story, lease: Lease, *made: Artifact, **outputs: Any) -> None:
    given = content(**outputs) if outputs else content(**{lease.name: 1})
    told.report(lease, msgspec.structs.replace(given, artifacts=made))


def kept(told: Story, run: str = "r") -> list[tuple[str, str, int]]:
    """(id, name, attempt) of what a run keeps."""
    return [(k.id, k.artifact.name, k.attempt) for k in told.engine.runs[run].artifacts]


def test_the_artifacts_of_a_step_stand_with_its_success():
    """Id, place and time are the journal's; a replay gives the same."""
    told = story(chain(node("a"), node("b")))
    told.submit()
    make(told, told.lease("a"), artifact("one"), artifact("two"))
    make(told, told.lease("b"), artifact("one"))

    first = told.engine.runs["r"].artifacts[0]
    assert kept(told) == [("art-1", "one", 1), ("art-2", "two", 1), ("art-3", "one", 1)]
    assert (first.run, first.serial, first.call, first.at_us) == ("r", 1, 0, told.now_us)
    assert told.replayed().runs["r"].artifacts == told.engine.runs["r"].artifacts


def test_only_the_attempt_that_counted_leaves_artifacts():
    """A late answer of an attempt that was given up for another leaves nothing."""
    told = story(chain(node("a")))
    told.submit()
    first = told.lease("a")
    told.lose("function-1")
    told.attach("function-2")
    told.pass_time(60_000_000)
    second = told.lease("a")
    make(told, first, artifact("of the first"))
    make(told, second, artifact("of the second"))

    assert kept(told) == [("art-1", "of the second", 2)]


def test_a_tool_call_of_an_agent_leaves_artifacts():
    """Its call number tells which call made it."""
    told = story(chain(agent("a", tool("draw"))))
    told.submit()
    told.turn(told.lease("a"), "draw")
    make(told, told.lease("a/draw"), artifact("chart.png"), result="done")

    (found,) = told.engine.runs["r"].artifacts
    assert (found.call, found.artifact.name) == (1, "chart.png")


def test_children_leave_their_artifacts_with_the_root():
    """Also those of children's children; each names the run that made it."""
    body = chain(node("draw"), id="body")
    middle = chain(nested("inner", body), id="middle", subgraphs=(body,))
    told = story(chain(mapping("each", "list", middle), subgraphs=(middle,)))
    told.submit(input={"list": [1, 2]})
    for lease in told.engine.dispatch.admit(told.engine.fleet.workers["function-1"], told.now, 9):
        make(told, lease, artifact(lease.run), draw=1)

    root = told.engine.runs["r"]
    assert len(root.artifacts) == 2
    assert all(k.run == k.artifact.name and told.engine.runs[k.run].depth == 2 for k in root.artifacts)
    assert all(not run.artifacts for run in told.engine.runs.values() if run.parent)
    assert told.replayed().runs["r"].artifacts == root.artifacts


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (ArtifactBounds(most=2), "limits.run_artifacts"),
        (ArtifactBounds(bytes=25), "limits.run_artifact_bytes"),
    ],
)
def test_a_run_keeps_a_bounded_number_of_bounded_size(bounds: ArtifactBounds, said: str):
    """The step that passes the bound fails as a whole: none of its artifacts is kept."""
    told = story(chain(node("a"), node("b")))
    told.engine.keeping.artifacts = bounds
    told.submit()
    make(told, told.lease("a"), artifact("one"), artifact("two"))
    make(told, told.lease("b"), artifact("three"))

    run = told.engine.runs["r"]
    assert (run.status, run.failure) == (RunStatus.FAILED, FailureKind.RESOURCE_LIMIT)
    assert said in run.message and len(run.artifacts) == 2


def test_a_state_of_the_first_level_holds_no_artifacts():
    """The release before would lose them; the message says what to do."""
    told = Story(chain(node("a")))
    told.submit()
    lease = told.lease("a")
    make(told, lease, artifact())

    run = told.engine.runs["r"]
    assert (lease.level, run.failure) == (1, FailureKind.POLICY_DENIED)
    assert "hive-ray state upgrade" in run.message and not run.artifacts


def test_a_step_that_a_person_resolved_leaves_none():
    """Nobody saw what it made."""
    told = story(chain(node("a", idempotent=False)))
    told.submit()
    told.fail(told.lease("a"), FailureKind.TIMEOUT)
    told.resolve("happened", a=1)

    assert told.engine.runs["r"].status is RunStatus.SUCCEEDED
    assert not told.engine.runs["r"].artifacts


def test_the_answer_of_an_attempt_that_a_person_is_asked_about_leaves_its_artifacts():
    """It answers the question, so it is the attempt that counted."""
    told = story(chain(node("a", idempotent=False)))
    told.submit()
    lease = told.lease("a")
    told.fail(lease, FailureKind.TIMEOUT)
    make(told, lease, artifact("late.txt"))

    assert kept(told) == [("art-1", "late.txt", 1)]


def test_artifact_content_is_beside_the_event():
    """No readable field of an event holds a name."""
    told = story(chain(node("a")))
    told.submit()
    make(told, told.lease("a"), artifact("canary-name.txt"))

    assert all(b"canary-name" not in record.body for record in told.journal)
    assert any(b"canary-name" in record.content for record in told.journal)
