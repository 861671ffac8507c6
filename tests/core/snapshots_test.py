"""A snapshot is taken run by run while things go on; with what follows in the journal it is all there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from hive_ray.core.commands import Cancel
from hive_ray.core.families import family_order
from hive_ray.core.messages import StepContent
from tests.core.graphs import chain, graph, human, mapping, nested, node
from tests.core.histories import Snapshot, state_of
from tests.core.story import Story


def family() -> Story:
    """A root, its child, and two grandchildren, all of which cost or wait for people."""
    inner = chain(node("x", cost_nanousd=10), human("h", "y"), id="inner")
    mid = graph([mapping("m", "list", inner)], id="mid", subgraphs=(inner,))
    story = Story(graph([nested("s", mid, input_keys=("list",))], subgraphs=(mid,)))
    story.submit(input={"list": [1, 2]}, budget_nanousd=100)
    return story


@pytest.mark.parametrize("gaps", list(itertools.combinations(range(6), 2)))
def test_what_children_cost_and_wait_for_is_counted_once_whenever_each_run_is_encoded(gaps: tuple[int, ...]):
    """Between any two slices something happens that changes a child and with it its ancestors."""
    story = family()
    happenings = iter(_happenings(story))
    snapshot = Snapshot(story.engine, slices=1)
    for number in range(6):
        if number in gaps:
            next(happenings)
        else:
            snapshot.advance(story.engine)
    while not snapshot.complete:
        snapshot.advance(story.engine)
    for _ in happenings:
        pass

    assert state_of(snapshot.restore(story)) == state_of(story.engine)


def _happenings(story: Story) -> Iterator[None]:
    """Leases, a cost, a cancelled item that fails the whole family, a late cost."""
    leases = story.leases()
    yield
    story.succeed(leases["0:x"], cost_nanousd=7)
    yield
    story.tell(Cancel("r_1-0_1-1"))
    yield
    story.report(leases["1:x"], StepContent(), cost_nanousd=3)
    yield


def test_runs_are_encoded_children_first_with_all_their_ancestors():
    """Also ancestors that have not changed since the last snapshot."""
    engine = family().engine

    assert family_order(engine.runs, ["", "r_1-0_1-0"]) == ["r_1-0_1-0", "r_1-0", "r", ""]
