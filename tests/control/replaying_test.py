"""A run derived from its journal once more, and held against what others show of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hive_ray.control.replaying import Replay, Shown, Verdict
from hive_ray.core import events as ev
from hive_ray.core.commands import RaiseLevel
from hive_ray.core.messages import MemoryWrite, StepContent
from hive_ray.core.run import Run, decode_run, encode_run
from hive_ray.core.values import inline
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.state.records import Recorded
from tests.core.forking_test import EVERYTHING, GIVEN, steps
from tests.core.graphs import chain, human, node
from tests.core.story import Story, content


def lived() -> Story:
    """A run with a fan-out, a join, a loop and maps, to its end."""
    story = Story(EVERYTHING, slots=64)
    story.submit(input=GIVEN)
    for _ in steps(story, "r"):
        pass
    return story


def graphs(*tops: CompiledGraph) -> dict[str, CompiledGraph]:
    return {graph.version: graph for top in tops for graph in (top, *top.subgraphs)}


def events(story: Story) -> list[Recorded]:
    return [Recorded(*told) for told in story.events() if told[2].run]


def replayed(story: Story, *shown: Run, told: list[Recorded] | None = None) -> Verdict:
    replay = Replay("r", graphs(EVERYTHING), [Shown("controller", run) for run in shown])
    return replay.verdict(events(story) if told is None else told)


def copy(run: Run) -> Run:
    return decode_run(encode_run(run))


def test_a_replay_gives_what_the_controller_shows_at_any_moment():
    """Children's money included; each state is compared at its own seq."""
    story = Story(EVERYTHING, slots=64)
    run = story.submit(input=GIVEN)
    shown = [copy(run)]
    for _ in steps(story, "r"):
        shown.append(copy(run))

    verdict = replayed(story, *shown)

    assert verdict.ok, verdict
    assert verdict.events == len(events(story))
    assert len(verdict.compared) == len(shown)
    assert verdict.seq == run.seq


def test_a_fork_is_replayed_from_its_own_events():
    """Its first event holds what it began with."""
    story = lived()
    forked = story.fork("m")
    assert isinstance(forked, Run)
    for _ in steps(story, "f"):
        pass
    own = [told for told in events(story) if told.event.run.startswith("f")]

    verdict = Replay("f", graphs(EVERYTHING), [Shown("controller", forked)]).verdict(own)

    assert verdict.ok, verdict


def _spent(run: Run) -> None:
    run.spent_nanousd += 1


def _memory(run: Run) -> None:
    run.memory["a"] = inline("something else")


def _visits(run: Run) -> None:
    run.visit_counts[0] = 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_spent, "spent_nanousd is 0 by the journal and 1 in the state, of the controller"),
        (_memory, "memory.a differs, of the controller"),
        (_visits, "visit_counts.0 is 1 by the journal and 9 in the state"),
    ],
)
def test_the_first_field_that_differs_is_named(change: Callable[[Run], None], said: str):
    """Of content only the place is shown."""
    story = lived()
    shown = copy(story.engine.runs["r"])
    change(shown)

    verdict = replayed(story, shown)

    assert not verdict.ok
    assert verdict.difference.startswith(said)


def remembering() -> Story:
    """A run that has written into its long-term memory."""
    story = Story(chain(node("a")))
    story.engine.command(RaiseLevel(2), story.now)
    story.submit()
    story.report(story.lease("a"), content(a=1), memory=(MemoryWrite("run", "mail/ada", inline("a secret")),))
    return story


def test_of_memory_only_that_it_differs_is_told():
    """Keys and values are content; names of artifacts too."""
    story = remembering()
    shown = copy(story.engine.runs["r"])
    assert shown.shelf is not None
    shown.shelf.entries["mail/ada"] = msgspec.structs.replace(shown.shelf.entries["mail/ada"], version=9)

    verdict = Replay("r", graphs(*story.graphs), [Shown("snapshot", shown)]).verdict(events(story))

    assert verdict.difference == f"shelf differs, of the snapshot at event {shown.seq}"


def test_a_forgotten_run_that_wrote_memory_is_replayed():
    """What its erased content told is not there, and not compared."""
    story = remembering()
    told = [
        recorded._replace(content=StepContent()) if isinstance(recorded.event, ev.MemoryWritten) else recorded
        for recorded in events(story)
    ]

    replay = Replay("r", graphs(*story.graphs), [Shown("controller", story.engine.runs["r"])])

    assert replay.verdict(told, erased=1).ok


def test_an_event_that_is_missing_is_found():
    """The state that the rest gives is not the one that is shown, or the rest does not follow.

    What a map tells of its window leaves no trace once it has ended: only the journal's numbers miss it.
    """
    story = lived()
    run = story.engine.runs["r"]
    told = events(story)
    for number in range(len(told)):
        if told[number].event.run != "r" or isinstance(told[number].event, ev.MapProgressed):
            continue
        verdict = replayed(story, run, told=told[:number] + told[number + 1 :])
        assert not verdict.ok, told[number]


def rewritten(story: Story, kind: type[ev.Event], **fields: Any) -> list[Recorded]:
    told = events(story)
    at = next(n for n, one in enumerate(told) if isinstance(one.event, kind) and one.event.run == "r")
    told[at] = told[at]._replace(event=msgspec.structs.replace(told[at].event, **fields))
    return told


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (ev.NodeEntered, {"node": 99}, "the graph has 8 nodes"),
        (ev.NodeEntered, {"node_id": "renamed"}, "enters renamed; node 0 of the graph is a"),
        (ev.NodeEntered, {"step": "llm"}, "it begins with function"),
        (ev.EdgesTaken, {"edge_ids": ("x", "y")}, "takes x to node 1; edge 0 of the graph is a-b-0"),
        (ev.EdgesTaken, {"edges": (77, 78)}, "the graph has 9 edges"),
        (ev.EdgesTaken, {"node_id": "z"}, "it leaves a"),
        (ev.RunSubmitted, {"graph": "other"}, "needs graph other, which is not there"),
        (ev.StepStarted, {"serial": 55}, "does not fit the state before it"),
    ],
)
def test_a_journal_that_does_not_fit_its_graph_is_detected(
    kind: type[ev.Event], fields: dict[str, Any], said: str
):
    """Named by the event; nothing behind it is applied."""
    story = lived()
    verdict = replayed(story, told=rewritten(story, kind, **fields))

    assert said in verdict.misfit
    assert verdict.misfit.startswith("event ")


def test_the_end_of_another_node_is_detected():
    """A visit ends at the node that it entered."""
    top = chain(human("h", "approved"))
    story = Story(top)
    story.submit()
    story.resolve("approve")

    told = rewritten(story, ev.NodeSucceeded, node_id="x")

    assert "ends x; visit 1 is at h" in Replay("r", graphs(top), []).verdict(told).misfit


def test_a_run_that_the_journal_does_not_know_is_no_run():
    """Nothing was derived."""
    verdict = Replay("r", {}, []).verdict([])

    assert verdict.misfit == "the journal holds no event of this run"
