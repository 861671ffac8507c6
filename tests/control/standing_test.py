"""What people see as a run's status, and why."""

from __future__ import annotations

from hive_ray.control.queries import ListRuns
from hive_ray.control.standing import standing
from hive_ray.control.views import run_view
from tests.core.graphs import chain, edge, graph, human, mapping, nested, node
from tests.core.story import Story

ASKING = chain(human("ask", "approved"), id="asking")


def parent() -> Story:
    story = Story(chain(nested("outer", ASKING), subgraphs=(ASKING,)), ASKING)
    story.submit()
    return story


def told(story: Story) -> tuple[str, str]:
    stands = standing(story.engine, story.engine.runs["r"])
    return stands.status, stands.reason


def test_a_parent_whose_only_child_waits_is_waiting_for_the_childs_reason():
    """It looked as if it were at work."""
    story = parent()
    (child,) = story.engine.children["r"]
    view = run_view(story.engine, story.engine.runs["r"])

    assert told(story) == ("waiting", f"child run {child}: approval: may it go out?")
    assert [(wait.run_id, wait.node) for wait in view.waits] == [(child, "ask")]
    assert [line.run_id for line in ListRuns(status="waiting").look(story.engine).value] == ["r"]


def test_a_parent_with_another_branch_at_work_is_running():
    """Only when nothing goes on without a person does it wait."""
    nodes = [node("start"), nested("outer", ASKING), node("other")]
    story = Story(graph(nodes, [edge("start", "outer"), edge("start", "other")], subgraphs=(ASKING,)), ASKING)
    story.submit()
    story.run_to_end("start")
    assert told(story)[0] == "running"

    story.run_to_end("other")
    assert told(story)[0] == "waiting"


def test_a_map_waits_when_all_that_live_of_it_wait():
    """Of many reasons a few are told."""
    story = Story(chain(mapping("each", "list", ASKING), subgraphs=(ASKING,)), ASKING)
    story.submit(input={"list": [1, 2, 3, 4, 5]})

    status, reason = told(story)
    assert status == "waiting"
    assert reason.count("child run") == 3 and reason.endswith("and 2 more")
