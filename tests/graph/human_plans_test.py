"""A human node's chain of owners and its end, from the graph and from what ``hive.yaml`` says."""

from __future__ import annotations

from typing import Any

from hive_ray.config import Settings
from hive_ray.graph.asking import Asked, AskPlan, Final
from hive_ray.graph.compiled import HumanPlan
from hive_ray.graph.compiler import compile_graph
from hive_ray.graph.environment import CompileEnvironment
from hive_ray.graph.load import parse_graph
from hive_ray.workers.environment import ask_defaults

HOUR_US = 3_600_000_000
APPROVALS: dict[str, Any] = {
    "default_deadline_s": 7200,
    "owner": "role:clerk",
    "escalate": [{"owner": "key:boss", "after_s": 3600}],
    "finally": "reject",
    "four_eyes": True,
}


def plan_of(approval: dict[str, Any], **configured: Any) -> HumanPlan:
    """What becomes of a node's ``approval`` where ``approvals`` is configured so."""
    settings = Settings.model_validate({"approvals": configured})
    # As the controller gets them.
    settings = Settings.model_validate_json(settings.model_dump_json())
    data = {"id": "g", "nodes": [{"id": "h", "approval": approval, "output_keys": ["approved", "amount"]}]}
    environment = CompileEnvironment(asks=ask_defaults(settings.approvals))
    human = compile_graph(parse_graph(data), environment).nodes[0].human
    assert human is not None
    return human


def test_a_node_that_says_nothing_takes_all_of_the_configuration():
    """Owner, chain, end and four eyes."""
    plan = plan_of({"reason": "may it go out?"}, **APPROVALS)

    chain = (Asked("role:clerk", HOUR_US), Asked("key:boss", HOUR_US))
    assert plan.asks == AskPlan(chain, Final.REJECT, True)
    assert (plan.deadline_us, plan.owner) == (2 * HOUR_US, "role:clerk")


def test_what_a_node_says_goes_before_the_configuration():
    """Each field by itself; an empty list is no escalation."""
    said = {"owner": "", "deadline_s": "30m", "escalate": [], "finally": "fail", "four_eyes": False}
    plan = plan_of({"reason": "may it go out?"} | said, **APPROVALS)

    assert plan.asks == AskPlan((Asked("", HOUR_US // 2),))


def test_each_owner_has_his_time_and_the_last_has_what_is_left():
    """``after_s`` counts from when the owner before was asked, ``deadline_s`` from the first asking."""
    steps = [{"owner": "user:b", "after_s": "10m"}, {"owner": "role:c", "after_s": "20m"}]
    plan = plan_of({"owner": "key:a", "deadline_s": "1h", "escalate": steps})

    assert [(asked.owner, asked.us // 60_000_000) for asked in plan.asking.chain] == [
        ("key:a", 10),
        ("user:b", 20),
        ("role:c", 30),
    ]


def test_a_mapping_is_the_answer_that_holds_without_one():
    """The decision's own key is filled in."""
    plan = plan_of({"finally": {"amount": "12"}})

    assert plan.asking.final is Final.ANSWER
    assert plan.default == b'{"amount":"12","approved":true}'


def test_a_plan_of_0_1_0_has_one_owner_and_fails():
    """It was compiled when there was nothing else."""
    assert HumanPlan("why", b"{}", HOUR_US, "boss").asking == AskPlan((Asked("boss", HOUR_US),))
