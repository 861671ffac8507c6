"""Maps and subgraphs: nodes whose work is done by child runs."""

from __future__ import annotations

from typing import Any

import pytest

from hive_ray.core.messages import StepContent
from hive_ray.graph.compiled import CompiledGraph
from tests.core.graphs import chain, edge, graph, mapping, nested, node
from tests.core.story import Story, content

BODY = chain(node("x", input_keys=("item",)), id="body")


def mapped(**plan: Any) -> CompiledGraph:
    return graph([mapping("m", "list", BODY, **plan)], subgraphs=(BODY,))


def begun(items: object = (1, 2, 3), **plan: Any) -> Story:
    story = Story(mapped(**plan))
    story.submit(input={"list": list(items) if isinstance(items, tuple) else items})
    return story


def test_a_map_runs_its_body_for_each_item_and_collects_in_order():
    """Whatever the order of finish; the collecting step is a worker's."""
    story = begun()
    leases = story.leases()
    assert [lease.inputs["item"] for lease in leases.values()] == [
        content(v=v).outputs["v"] for v in (1, 2, 3)
    ]

    for label in ("2:x", "0:x", "1:x"):
        story.succeed(leases[label], x=label)
    collecting = story.lease("m")
    assert collecting.kind == "collect"
    assert list(collecting.inputs.items()) == list(content(**{"0.x": "0:x"}).outputs.items()) + list(
        content(**{"1.x": "1:x"}).outputs.items()
    ) + list(content(**{"2.x": "2:x"}).outputs.items())
    story.succeed(collecting, m=["0:x", "1:x", "2:x"])

    assert story.engine.runs["r"].status == "succeeded"


def test_only_the_window_has_children():
    """The next item starts when one has ended."""
    story = begun((1, 2, 3, 4), window=2)
    leases = story.leases()
    assert list(leases) == ["0:x", "1:x"]

    story.succeed(leases["1:x"])

    assert list(story.leases()) == ["2:x"]
    assert len(story.engine.runs) == 4


def test_a_failed_item_fails_the_map_and_stops_the_others():
    """By default; the message names the item."""
    story = begun()
    leases = story.leases()

    story.fail(leases["1:x"])

    run = story.engine.runs["r"]
    assert (run.status, run.failure, run.message) == ("failed", "BAD_INPUT", "item 1: it broke")
    assert [story.engine.runs[f"r_1-{n}"].status for n in range(3)] == ["cancelled", "failed", "cancelled"]


@pytest.mark.parametrize(("policy", "kept"), [("skip", ["0.x", "2.x"]), ("collect", ["0.x", "1.!", "2.x"])])
def test_a_map_may_leave_failed_items_out_or_collect_their_errors(policy: str, kept: list[str]):
    """``skip`` and ``collect``."""
    story = begun(on_failure=policy)
    leases = story.leases()

    story.fail(leases["1:x"])
    story.succeed(leases["0:x"])
    story.succeed(leases["2:x"])

    assert list(story.lease("m").inputs) == kept


def test_an_empty_list_maps_to_an_empty_list():
    """The collecting step has no inputs."""
    assert begun(()).lease("m").inputs == {}


@pytest.mark.parametrize(
    ("items", "kind", "said"),
    [
        ("text", "BAD_INPUT", "list is a str"),
        (None, "BAD_INPUT", "list is a NoneType"),
        ((1, 2, 3), "LIMIT_EXCEEDED", "max_items = 2"),
    ],
)
def test_what_cannot_be_mapped_fails_the_node(items: object, kind: str, said: str):
    """Something that is no list; more items than the node allows."""
    run = begun(items, max_items=2).engine.runs["r"]

    assert (run.status, run.failure) == ("failed", kind)
    assert said in run.message


def test_a_missing_list_fails_the_node():
    """The message says where a list was expected."""
    story = Story(mapped())
    run = story.submit()

    assert (run.failure, "list is not in memory" in run.message) == ("BAD_INPUT", True)


def test_a_map_keeps_the_list_that_it_began_with():
    """A parallel branch that writes another one does not change it."""
    nodes = [node("a"), mapping("m", "list", BODY, window=1), node("w", output_keys=("list",))]
    story = Story(graph(nodes, [edge("a", "m"), edge("a", "w")], subgraphs=(BODY,)))
    story.submit(input={"list": [1, 2]})
    story.run_to_end("a")
    leases = story.leases()

    story.succeed(leases["w"], list=[])
    story.succeed(leases["0:x"])

    assert story.lease("1:x").inputs == content(item=2).outputs


def test_ten_thousand_items_that_end_at_once_do_not_nest():
    """Items whose own map has no list fail as they begin; one decision holds them all."""
    inner = graph([mapping("inner", "missing", BODY)], id="inner", subgraphs=(BODY,))
    story = Story(graph([mapping("m", "list", inner, on_failure="skip")], subgraphs=(inner,)))
    story.check = lambda: None  # type: ignore[method-assign]

    story.submit(input={"list": [0] * 10_000})

    assert story.lease("m").inputs == {}


def test_a_sibling_that_fails_at_once_leaves_nothing_begun():
    """Its map fails, and items that were born with it are cancelled before they start."""
    inner = graph([mapping("inner", "missing", BODY)], id="inner", subgraphs=(BODY,))
    story = Story(graph([mapping("m", "list", inner)], subgraphs=(inner,)))

    run = story.submit(input={"list": [0, 0]})

    assert run.status == "failed"
    assert story.kinds("r_1-1") == ["RunSubmitted", "RunCancelled"]


# --- subgraphs -------------------------------------------------------------------------------------


def test_a_subgraph_runs_as_one_node():
    """Its outputs are the node's, under the node's own keys."""
    story = Story(
        graph(
            [nested("s", BODY, output_keys=("x",)), node("z")], [edge("s", "z", when="x")], subgraphs=(BODY,)
        )
    )
    run = story.submit()

    story.succeed(story.lease("0:x"), x="yes", more=1)
    story.run_to_end("z")

    assert (run.status, story.memory()) == ("succeeded", {"x": "yes", "z": "z!"})


def test_a_failed_subgraph_fails_its_node_with_its_kind():
    """And the parent may take an on_failure edge."""
    story = Story(
        graph([nested("s", BODY), node("z")], [edge("s", "z", "on_failure")], subgraphs=(BODY,)),
    )
    run = story.submit()

    story.fail(story.lease("0:x"))
    assert story.memory()["_error"]["kind"] == "BAD_INPUT"
    story.run_to_end("z")

    assert run.status == "succeeded"


def test_subgraphs_are_limited_in_depth():
    """LIMIT_EXCEEDED from the innermost, which every level hands up."""
    body = BODY
    for level in range(9):
        body = graph([nested("s", body)], id=f"level{level}", subgraphs=(body,))
    story = Story(body)

    run = story.submit()

    assert (run.status, run.failure, len(story.engine.runs)) == ("failed", "LIMIT_EXCEEDED", 9)


def test_cancel_reaches_every_descendant():
    """What runs in them is orphaned."""
    outer = graph([nested("s", graph([nested("t", BODY)], id="mid", subgraphs=(BODY,)))], subgraphs=())
    mid = graph([nested("t", BODY)], id="mid", subgraphs=(BODY,))
    story = Story(outer, mid)
    story.submit()
    lease = story.lease("0:x")

    story.tell_cancel()

    assert [run.status for run in story.engine.runs.values()] == ["cancelled"] * 3
    assert len(story.engine.runs[lease.run].orphans) == 1


def test_the_budget_of_children_is_the_roots():
    """Their reservations and costs are its own, and none of them can pass its ceiling."""
    body = chain(node("x", cost_nanousd=60), id="body")
    story = Story(graph([mapping("m", "list", body)], subgraphs=(body,)))
    run = story.submit(input={"list": [1, 2]}, budget_nanousd=100)

    lease = story.lease("0:x")
    assert (run.reserved_nanousd, story.leases()) == (60, {})
    story.succeed(lease, cost_nanousd=50)

    assert (run.spent_nanousd, run.status, run.failure) == (50, "running", "")
    story.leases()
    assert (run.status, run.failure) == ("failed", "BUDGET_EXCEEDED")


def test_a_childs_late_cost_is_charged_to_a_root_that_has_ended():
    """Money does not know terminal states."""
    body = chain(node("x", cost_nanousd=60), id="body")
    story = Story(graph([nested("s", body)], subgraphs=(body,)))
    run = story.submit(budget_nanousd=100)
    lease = story.lease("0:x")
    story.tell_cancel()
    assert run.reserved_nanousd == 60

    story.report(lease, StepContent(), cost_nanousd=10)

    assert (run.reserved_nanousd, run.spent_nanousd) == (0, 10)


def test_a_run_whose_children_work_is_running():
    """Though no step of its own was ever leased."""
    assert begun().engine.runs["r"].status == "running"
