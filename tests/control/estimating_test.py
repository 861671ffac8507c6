"""What a run can cost, before anything of it runs."""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.control.estimating import Amount, Known, charged_to, estimate, total
from hive_ray.core.accounts import Experience
from hive_ray.core.admission import price
from hive_ray.core.bounds import first_prompt_bytes
from hive_ray.core.values import inline
from hive_ray.graph.compiled import FallbackKind, FallbackPlan, NodePlan, RetryPlan
from tests.core.graphs import MODEL, agent, chain, edge, graph, llm, mapping, nested, node, tool

NOTHING = Known({}, {})
PRICED = msgspec.structs.replace(
    MODEL, input_nanousd_per_mtok=3_000_000_000, output_nanousd_per_mtok=15_000_000_000
)
ONCE = RetryPlan(max_retries=0)


def asking(id: str, *inputs: str, **fields: Any) -> NodePlan:
    known: dict[str, Any] = {"model": PRICED, "input_keys": inputs, "retry": ONCE}
    return llm(id, **(known | fields))


def test_a_node_in_no_cycle_costs_its_call_once_and_its_retries_at_worst():
    """Expected is the call alone."""
    plan = chain(
        node("a", cost_nanousd=5, retry=RetryPlan(max_retries=2)), node("b", cost_nanousd=7, idempotent=False)
    )

    cost = estimate(plan, {}, NOTHING).cost

    assert (total(cost.worst).nanousd, total(cost.expected).nanousd) == (3 * 5 + 7, 12)
    assert cost.unbounded == ()


def test_a_cycle_is_bounded_by_the_visits_of_its_nodes_and_the_steps_of_the_run():
    """The dearest visits fill what steps there are."""
    plan = graph(
        [node("a", cost_nanousd=5, retry=ONCE), node("b", cost_nanousd=7, retry=ONCE, max_visits=3)],
        [edge("a", "b"), edge("b", "a")],
    )
    plan = msgspec.structs.replace(plan, max_steps=10)

    found = estimate(plan, {}, NOTHING)

    assert [one.visits for one in found.nodes] == [10, 3]
    assert total(found.cost.worst).nanousd == 3 * 7 + 7 * 5
    assert total(found.cost.expected).nanousd == 12


def test_a_call_on_known_inputs_has_the_bound_that_admission_reserves():
    """Every byte a token, and all the output that it may have."""
    one = asking("a", "ticket")
    plan = chain(one)

    cost = estimate(plan, {"ticket": "x" * 100}, NOTHING).cost

    tokens = first_prompt_bytes(plan.nodes[0], PRICED, {"ticket": inline("x" * 100)})
    assert total(cost.worst) == Amount(price(PRICED, tokens), tokens + PRICED.max_tokens)
    assert cost.unbounded == ()


def test_an_input_that_another_node_writes_has_no_bound_but_the_models_context():
    """It is named, with what would bound it."""
    plan = chain(asking("a", "ticket"), asking("b", "a"))

    without = estimate(plan, {"ticket": "x"}, NOTHING).cost
    within = estimate(plan, {"ticket": "x"}, Known({}, {"small": 5_000})).cost

    assert without.unbounded == ("b: the size of a is not known; models.small.context_tokens would bound it",)
    assert within.unbounded == ()
    assert total(within.worst).nanousd > price(PRICED, 5_000)


def test_a_conversation_is_as_long_as_turns_and_context_let_it():
    """Calls of a priced tool have no limit in a turn, and are named."""
    plan = chain(agent("a", tool("t", cost_nanousd=2), model=PRICED, max_turns=4, retry=ONCE))

    cost = estimate(plan, {}, Known({}, {"small": 5_000})).cost

    assert cost.worst["llm", "model/small"].nanousd == 4 * price(PRICED, 5_000)
    assert cost.worst["function", "tool/t"].nanousd == 4 * 2
    assert cost.unbounded == ("a: calls of t in a turn have no limit",)


def test_a_map_costs_its_body_for_each_item_that_is_given_or_may_be():
    """A list that is not known yet has as many items as the map takes."""
    body = chain(node("do", cost_nanousd=3, retry=ONCE))
    plan = graph([mapping("m", "items", body, max_items=50)])
    plan = msgspec.structs.replace(
        plan, nodes=(msgspec.structs.replace(plan.nodes[0], input_keys=("items",)),), subgraphs=(body,)
    )

    given = estimate(plan, {"items": [1, 2, 3, 4]}, NOTHING).cost
    unknown = estimate(plan, {}, NOTHING).cost

    assert total(given.worst).nanousd == 12
    assert total(unknown.worst).nanousd == 150


def test_a_subgraph_costs_what_its_graph_does_and_names_what_lacks_a_bound():
    """By the way to it."""
    body = chain(node("do", cost_nanousd=3, retry=ONCE), asking("say", "do"))
    plan = graph([nested("s", body)], subgraphs=(body,))

    cost = estimate(plan, {}, NOTHING).cost

    assert cost.worst["function", ""].nanousd == 3
    assert cost.unbounded[0].startswith("s.say: the size of do is not known")


def test_a_fallback_adds_to_the_worst_case_only():
    """It is taken when the step has failed."""
    dear = msgspec.structs.replace(PRICED, model="dear")
    plan = chain(asking("a", "x", fallbacks=(FallbackPlan(FallbackKind.MODEL, (), model=dear),)))

    cost = estimate(plan, {"x": 1}, NOTHING).cost

    assert cost.worst["llm", "model/dear"] == cost.worst["llm", "model/small"]
    assert cost.expected["llm", "model/dear"] == Amount()


def test_experience_of_a_model_tells_what_is_expected():
    """Once enough of its calls were settled."""
    plan = chain(asking("a", "x"))
    few, many = Experience(4, 100), Experience(5, 100)

    costs = [estimate(plan, {"x": 1}, Known({"model/small": one}, {})).cost for one in (few, many)]

    worst = total(costs[0].worst).nanousd
    assert total(costs[0].expected).nanousd == worst
    assert total(costs[1].expected).nanousd == -(-worst * 100 // 1000)


def test_accounts_carry_their_own_share():
    """Those above the run all of it, pools and models what is called there."""
    plan = chain(asking("a", "x"), node("b", cost_nanousd=7, retry=ONCE))
    worst = estimate(plan, {"x": 1}, NOTHING).cost.worst

    shares = dict(charged_to(worst, "acme", "bot", "g"))

    assert shares["team/acme"] == shares["agent/acme/bot"] == shares["workflow/acme/g"] == total(worst)
    assert shares["pool/function"] == Amount(7, 0)
    assert shares["model/small"] == shares["pool/llm"] == worst["llm", "model/small"]
