"""From a node that ended to the nodes that start."""

from __future__ import annotations

import itertools

from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent
from hive_ray.core.run import RunStatus
from hive_ray.graph.compiled import NodeKind
from tests.core.graphs import chain, edge, graph, human, llm, node
from tests.core.story import Story, content


def abc(*edges: object) -> Story:
    return Story(graph([node("a"), node("b"), node("c")], edges))


def test_a_chain_runs_to_its_end():
    """Each node's outputs are the next one's memory, and the run succeeds at its last node."""
    story = Story(chain(node("a"), node("b", input_keys=("a",))))
    run = story.submit()

    story.succeed(story.lease("a"), a=7)
    lease = story.lease("b")
    assert lease.inputs == content(a=7).outputs
    story.succeed(lease, b=8)

    assert (run.status, run.reason) == (RunStatus.SUCCEEDED, "completed")
    assert story.memory() == {"a": 7, "b": 8}
    assert story.kinds() == [
        "RunSubmitted", "NodeEntered", "StepStarted", "StepSucceeded", "EdgesTaken",
        "NodeEntered", "StepStarted", "StepSucceeded", "EdgesTaken", "RunSucceeded",
    ]  # fmt: skip


def test_all_matching_edges_of_the_highest_priority_are_taken():
    """Lower ones are not, though they match too."""
    story = Story(
        graph(
            [node("a"), node("b"), node("c"), node("d")],
            [edge("a", "b"), edge("a", "c", priority=5), edge("a", "d", "always", priority=5)],
        )
    )
    story.submit()

    story.succeed(story.lease("a"))

    assert list(story.leases()) == ["c", "d"]


def test_a_broken_condition_below_a_matching_edge_does_not_matter():
    """Whatever the order of declaration: what is not taken is not asked."""
    story = abc(edge("a", "b", when="broken"), edge("a", "c", priority=1))
    story.submit()

    story.succeed(story.lease("a"))

    assert list(story.leases()) == ["c"]


def test_a_condition_is_anded_with_any_kind_of_edge():
    """on_failure, always and llm_decide edges obey their condition too."""
    for kind in ("always", "on_failure", "conditional"):
        story = abc(edge("a", "b", kind, when="go"), edge("a", "c", "always", when="not go"))
        story.submit(input={"go": False})
        story.fail(story.lease("a"))

        assert list(story.leases()) == ["c"], kind


def test_a_condition_without_a_value_fails_the_run_at_its_edge():
    """INVALID_OUTPUT, with the edge's id."""
    story = abc(edge("a", "b", when="broken"))
    run = story.submit()

    story.succeed(story.lease("a"))

    assert (run.status, run.failure, run.failed_at) == ("failed", "INVALID_OUTPUT", "a-b-0")
    assert "no such overload" in run.message


def test_a_failed_node_takes_its_on_failure_edge():
    """And the node behind it finds in memory what went wrong."""
    story = abc(edge("a", "b"), edge("a", "c", "on_failure"))
    run = story.submit()

    story.fail(story.lease("a"), FailureKind.AUTHENTICATION)
    story.run_to_end("c")

    assert run.status == "succeeded"
    assert story.memory()["_error"] == {"kind": "AUTHENTICATION", "node": "a", "message": "it broke"}


def test_a_failed_node_without_such_an_edge_fails_the_run():
    """The run names the node, the kind and the message."""
    story = abc(edge("a", "b"))
    run = story.submit()

    story.fail(story.lease("a"))

    assert (run.status, run.failure, run.failed_at, run.message) == ("failed", "BAD_INPUT", "a", "it broke")


def test_on_failure_edges_leave_a_success_alone():
    """A run that went well and has no other edge has succeeded with the reason no_edge."""
    story = abc(edge("a", "c", "on_failure"))
    run = story.submit()

    story.run_to_end("a")

    assert (run.status, run.reason) == ("succeeded", "no_edge")


def test_a_router_goes_where_its_answer_says():
    """An answer is the key of a route."""
    router = llm("a", NodeKind.ROUTER, routes=("billing", "bug"))
    edges = [edge("a", "b", "route", route="billing"), edge("a", "c", "route", route="bug")]
    story = Story(graph([router, node("b"), node("c")], edges))
    story.submit()

    story.report(story.lease("a"), StepContent(route="bug"))

    assert list(story.leases()) == ["c"]


def test_an_llm_decides_among_a_nodes_edges_in_a_step_of_its_own():
    """The node's outputs are in memory by then; edges that it does not name are not taken."""
    story = Story(
        graph(
            [llm("a"), node("b"), node("c")],
            [edge("a", "b", "llm_decide"), edge("a", "c", "llm_decide")],
        )
    )
    story.submit()

    story.succeed(story.lease("a"), a="draft")
    deciding = story.lease("a")
    assert (deciding.kind, deciding.outputs) == ("decide", content(a="draft").outputs)
    story.report(deciding, StepContent(chosen=("a-c-1",)))

    assert list(story.leases()) == ["c"]


def test_a_terminal_node_ends_its_branch_whatever_its_edges():
    """The reason of the run's success is then terminal."""
    story = Story(graph([node("a", terminal=True), node("b")], [edge("a", "b")]))
    run = story.submit()

    story.run_to_end("a")

    assert (run.status, run.reason) == ("succeeded", "terminal")


def test_input_mappings_of_the_taken_edge_name_the_inputs():
    """A mapping renames what is in memory for the node behind the edge."""
    story = abc(edge("a", "b", input_mapping=(("question", "a"),)))
    story.submit()

    story.succeed(story.lease("a"), a="why")

    assert story.lease("b").inputs == content(question="why").outputs


# --- joins -----------------------------------------------------------------------------------------


def diamond() -> Story:
    """a divides into b and c-d; both lead to e."""
    return Story(
        graph(
            [node(name) for name in "abcde"],
            [edge("a", "b"), edge("a", "c"), edge("c", "d"), edge("b", "e"), edge("d", "e")],
        )
    )


def test_a_join_waits_for_the_longest_branch_and_starts_once():
    """The tokens of both branches are spent by one visit."""
    story = diamond()
    run = story.submit()
    story.run_to_end("a")
    leases = story.leases()

    story.succeed(leases["b"])
    assert story.leases() == {}
    story.succeed(leases["c"])
    story.run_to_end("d", "e")

    assert run.status == "succeeded"
    assert story.kinds().count("NodeEntered") == 5


def test_a_join_does_not_wait_for_a_branch_that_ended_elsewhere():
    """A branch whose node failed into another path, or matched no edge, cannot reach the join any more."""
    story = Story(
        graph(
            [node(name) for name in "abcd"],
            [edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d", when="go")],
        )
    )
    run = story.submit(input={"go": False})
    story.run_to_end("a")
    leases = story.leases()
    story.succeed(leases["b"])

    story.succeed(leases["c"])
    story.run_to_end("d")

    assert run.status == "succeeded"


def test_fan_out_inside_fan_out_joins_at_each_level():
    """The inner join ends before the outer one starts."""
    story = Story(
        graph(
            [node(name) for name in "abcdefg"],
            [
                edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("b", "e"),
                edge("d", "f"), edge("e", "f"), edge("f", "g"), edge("c", "g"),
            ],
        )
    )  # fmt: skip
    run = story.submit()
    story.run_to_end("a")
    outer = story.leases()
    story.succeed(outer["b"])
    inner = story.leases()
    story.succeed(outer["c"])
    story.succeed(inner["d"])
    assert story.leases() == {}
    story.succeed(inner["e"])
    story.run_to_end("f", "g")

    assert (run.status, run.serial) == ("succeeded", 7)


def test_a_join_inside_a_cycle_starts_once_in_each_round():
    """Its own successors do not hold it back, nor do they start it twice."""
    story = Story(
        graph(
            [node(name) for name in "abcd"],
            [edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d"), edge("d", "a", when="again")],
        )
    )
    run = story.submit(input={"again": True})
    for again in (True, True, False):
        story.run_to_end("a")
        for lease in story.leases().values():
            story.succeed(lease)
        story.succeed(story.lease("d"), again=again)

    assert (run.status, run.serial) == ("succeeded", 12)


def test_branches_inside_a_cycle_run_side_by_side_and_join():
    """Also one that the cycle leads back to, and whatever the order in which nodes are declared."""
    story = Story(
        graph(
            [node(name) for name in ("start", "review", "draft", "research")],
            [
                edge("start", "draft"), edge("start", "research"), edge("draft", "review"),
                edge("research", "review"), edge("review", "draft", when="again"),
            ],
        )
    )  # fmt: skip
    run = story.submit()
    story.run_to_end("start")
    both = story.leases()
    assert sorted(both) == ["draft", "research"]

    story.succeed(both["research"])
    assert story.leases() == {}
    story.succeed(both["draft"])
    story.succeed(story.lease("review"), again=True)
    story.run_to_end("draft")
    story.succeed(story.lease("review"), again=False)

    assert run.status == "succeeded"


def test_joins_that_lead_to_each_other_do_not_wait_for_each_other():
    """The one that stands first on the way from the entry goes first; none of them hangs."""
    story = Story(
        graph(
            [node(name) for name in "abcd"],
            [edge("a", "b"), edge("a", "c"), edge("b", "c"), edge("c", "b", when="again"), edge("c", "d")],
        )
    )
    run = story.submit()

    story.run_to_end("a", "b", "c", "d")

    assert run.status == "succeeded"


def test_a_new_round_waits_for_every_branch_of_the_last_one():
    """A loop's first node is a join when several branches lead back to it."""
    story = Story(
        graph(
            [node(name, max_visits=2) for name in "abc"],
            [edge("a", "b"), edge("a", "c"), edge("b", "a"), edge("c", "a")],
        )
    )
    run = story.submit()
    story.run_to_end("a")
    leases = story.leases()

    story.succeed(leases["b"])
    assert story.leases() == {}
    story.succeed(leases["c"])
    story.run_to_end("a")

    assert run.visit_counts == {0: 2, 1: 2, 2: 2}


def test_a_self_loop_visits_its_node_again():
    """Until its condition no longer holds."""
    story = Story(graph([node("a")], [edge("a", "a", when="again")]))
    run = story.submit()

    story.succeed(story.lease("a"), again=True)
    story.succeed(story.lease("a"), again=False)

    assert (run.status, run.visit_counts) == ("succeeded", {0: 2})


def test_two_edges_to_one_node_make_one_visit():
    """Merged tokens: parallel edges do not run their target twice."""
    story = abc(edge("a", "b"), edge("a", "b", "always"))
    run = story.submit()

    story.run_to_end("a", "b")

    assert (run.status, run.serial) == ("succeeded", 2)


# --- parallel writes -------------------------------------------------------------------------------


def _value_of_k(story: Story, order: tuple[str, ...]) -> str:
    """Run to the end, always the earliest ready node of ``order``, and tell who wrote k."""
    run = story.submit()
    under_way = story.leases()
    while not run.terminal:
        name = next(name for name in order if name in under_way)
        story.succeed(under_way.pop(name), k=name)
        under_way |= story.leases()
    return story.memory()["k"]


def _values_of_k(names: str, *edges: object) -> set[str]:
    nodes = [node(name, output_keys=("k",)) for name in names]
    return {_value_of_k(Story(graph(nodes, edges)), order) for order in itertools.permutations(names)}


def test_parallel_writes_merge_in_the_order_of_the_edges_not_of_finish():
    """The branch whose edge is declared last wins in every order of finish."""
    assert _values_of_k("abcd", edge("a", "c"), edge("a", "d"), edge("a", "b")) == {"b"}


def test_parallel_writes_of_long_branches_merge_by_the_edge_that_divided_them():
    """Though the edges inside the branches are declared the other way round."""
    edges = [edge("c", "d"), edge("a", "c"), edge("a", "b"), edge("d", "e")]
    assert _values_of_k("abcde", *edges) == {"b"}


def test_a_later_node_of_a_branch_overrides_an_earlier_one_of_it():
    """What follows wins over what came before, in every order of finish."""
    edges = [edge("c", "e"), edge("a", "b"), edge("a", "c"), edge("b", "d")]
    assert _values_of_k("abcde", *edges) == {"e"}


def test_a_branch_that_ends_by_itself_merges_in_declared_order():
    """Whether it ends before or after the other branch goes on."""
    edges = [edge("a", "c"), edge("a", "b"), edge("c", "d"), edge("d", "e")]
    assert _values_of_k("abcde", *edges) == {"b"}


def test_what_follows_a_join_overrides_all_branches():
    """The join's own write comes after all of them."""
    edges = [edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d")]
    assert _values_of_k("abcd", *edges) == {"d"}


# --- limits ----------------------------------------------------------------------------------------


def test_running_out_of_steps_is_a_failure():
    """LIMIT_EXCEEDED at the node that would have come next."""
    story = Story(graph([node("a"), node("b")], [edge("a", "b"), edge("b", "a")], max_steps=3))
    run = story.submit()

    story.run_to_end("a", "b", "a")

    assert (run.status, run.failure, run.failed_at) == ("failed", "LIMIT_EXCEEDED", "b")
    assert "max_steps" in run.message


def test_a_node_may_limit_its_own_visits():
    """Visit number max_visits + 1 fails the run."""
    story = Story(graph([node("a", max_visits=2)], [edge("a", "a")]))
    run = story.submit()

    story.run_to_end("a", "a")

    assert (run.status, run.failure, run.failed_at) == ("failed", "LIMIT_EXCEEDED", "a")


def test_a_wide_graph_is_not_limited_by_the_width_of_an_integer():
    """A join of 200 branches waits for all of them."""
    names = [f"n{number}" for number in range(200)]
    edges = [edge("a", name) for name in names] + [edge(name, "z") for name in names]
    story = Story(graph([node("a"), *map(node, names), node("z")], edges, max_steps=500), slots=300)
    run = story.submit()
    story.run_to_end("a")

    for lease in story.leases().values():
        story.succeed(lease)
    story.run_to_end("z")

    assert run.status == "succeeded"


def test_a_human_node_as_entry_leases_nothing():
    """It waits; no step is queued."""
    story = Story(chain(human("a", "approved"), node("b")))
    story.submit()

    assert story.leases() == {}
