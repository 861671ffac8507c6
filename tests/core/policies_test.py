"""Decisions by rules, apart from runs: whose word counts, and which rules are asked at all."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hive_ray.core.policies import Policies, Subject, concerns, decide
from hive_ray.graph.policies import DESTRUCTIVE, Effect, RulePlan
from tests.core.graphs import Facts

NAMES = st.sampled_from(("a", "ab", "b", "a.b", "abc"))
PATTERNS = st.lists(st.sampled_from(("*", "a", "a*", "*b", "a.*", "*b*", "b")), max_size=2).map(tuple)
WHENS = st.sampled_from(("", "yes", "no", "broken", "not yes", "not no"))
FACTS = {"yes": True, "no": False}


def fact(name: str) -> Any:
    return FACTS[name]


@st.composite
def rule_plans(draw: st.DrawFn) -> list[RulePlan]:
    """Rules with selectors of every kind, and conditions with every kind of answer."""
    return [
        RulePlan(
            f"r{number}",
            draw(st.sampled_from(Effect)),
            draw(WHENS),
            tools=draw(PATTERNS),
            tags=draw(PATTERNS),
            nodes=draw(PATTERNS),
            agents=draw(PATTERNS),
            kinds=draw(st.sampled_from(((), ("tool",), ("llm",)))),
            pool=f"p{number}",
            level=draw(st.integers(1, 3)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]


SUBJECTS = st.builds(
    Subject,
    kind=st.sampled_from(("tool", "llm")),
    node=NAMES,
    graph=NAMES,
    tool=st.one_of(st.just(""), NAMES),
    tags=st.lists(NAMES, max_size=2).map(tuple),
    agent=NAMES,
    team=NAMES,
)


def rule(id: str, effect: str, when: str = "", **fields: Any) -> RulePlan:
    return RulePlan(id, Effect(effect), when, **fields)


def decided(*rules: RulePlan, answered: tuple[str, ...] = ()) -> str:
    return decide(rules, fact, Facts(), answered).effect


@given(rule_plans())
def test_a_matching_deny_wins_whatever_the_order(rules: list[RulePlan]):
    """And a deny without an answer counts as one that matches."""
    denies = any(one.effect == Effect.DENY and one.when in ("", "yes", "broken", "not no") for one in rules)
    orders = [list(order) for order in list(permutations(rules))[:24]]
    assert {decided(*order) == "deny" for order in orders} == {denies}


@given(rule_plans(), SUBJECTS)
def test_rules_found_by_index_decide_as_all_of_them_would(rules: list[RulePlan], subject: Subject):
    """What the index leaves out is what is not about the subject, and the order stays."""
    policies = Policies(rules)
    all_of_them = [one for one in (*rules, DESTRUCTIVE) if _about(one, subject)]

    policies.keep("key", policies.about(subject))
    found = policies.known("key")
    assert found is not None
    assert list(found) == all_of_them
    assert decide(found, fact, Facts()) == decide(all_of_them, fact, Facts())


def _about(rule: RulePlan, subject: Subject) -> bool:
    """The same by regular expressions, one selector after the other."""
    import re

    def fits(patterns: tuple[str, ...], names: list[str]) -> bool:
        texts = [re.escape(pattern).replace(r"\*", ".*") for pattern in patterns]
        return not texts or any(re.fullmatch(text, name) for text in texts for name in names if name)

    where = [subject.node, f"{subject.graph}/{subject.node}"]
    named = [(rule.tools, [subject.tool]), (rule.tags, list(subject.tags)), (rule.nodes, where)]
    named += [(rule.agents, [subject.agent]), (rule.kinds, [subject.kind])]
    return all(fits(patterns, names) for patterns, names in named)


@given(rule_plans())
def test_nothing_without_an_answer_allows(rules: list[RulePlan]):
    """Broken allows are as if they were not there; broken asks and denies as if they held."""
    sound = [one for one in rules if not (one.when == "broken" and one.effect == Effect.ALLOW)]
    firm = [rule(one.id, one.effect, "yes" if one.when == "broken" else one.when) for one in sound]
    kept = [one for one in firm if one.effect not in (Effect.ROUTE, Effect.DEGRADE)]
    assert decided(*rules) == decided(*kept)


def test_the_first_that_allows_or_asks_decides():
    allow, ask = rule("a", "allow", "yes"), rule("q", "require_approval", "yes")
    assert decided(allow, ask) == "allow"
    assert decided(ask, allow) == "require_approval"
    assert decided(rule("a", "allow", "no"), ask) == "require_approval"


def test_a_question_that_was_answered_with_yes_allows_and_a_deny_still_denies():
    ask, deny = rule("q", "require_approval"), rule("d", "deny")
    assert decided(ask, rule("other", "require_approval"), answered=("q",)) == "allow"
    assert decided(ask, answered=("other",)) == "require_approval"
    assert decided(ask, deny, answered=("q", "d")) == "deny"


def test_degrades_and_routes_apply_besides():
    rules = [
        rule("d1", "degrade", level=1),
        rule("a", "allow"),
        rule("d2", "degrade", level=3),
        rule("off", "degrade", "no", level=9),
        rule("broken", "route", "broken", pool="nowhere"),
        rule("r1", "route", pool="slow"),
        rule("r2", "route", pool="slower"),
    ]
    decision = decide(rules, fact, Facts())
    assert (decision.effect, decision.level, decision.pool) == ("allow", 3, "slow")
    assert decision.matched == ("d1", "a", "d2", "r1", "r2")
    assert [trouble.rule for trouble in decision.troubles] == ["broken"]


def test_tools_tagged_destructive_need_approval_unless_a_rule_allows_them():
    wipe = Subject("tool", "n", tool="wipe", tags=("destructive",))
    assert decided(*Policies().about(wipe)) == "require_approval"
    assert decided(*Policies([rule("ok", "allow", tools=("wipe",))]).about(wipe)) == "allow"
    assert decided(*Policies([rule("ok", "allow", "broken")]).about(wipe)) == "require_approval"
    assert decided(*Policies().about(Subject("tool", "n", tool="read"))) == ""
    assert decided(*Policies().about(Subject("llm", "n", model="destructive"))) == ""


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("a*c", "abc ac a.*c"),
        ("*", "a b"),
        ("a**", "abc ac a.*c a ab aa a.b axb"),
        ("*a*a*", "aa banana"),
        ("a.b", "a.b"),
    ],
)
def test_only_the_star_is_special_in_a_name(pattern: str, fits: str):
    for name in ("abc", "ac", "a.*c", "a", "b", "ab", "aa", "banana", "a.b", "axb"):
        about = concerns(rule("r", "deny", tools=(pattern,)), Subject("tool", "n", tool=name))
        assert about is (name in fits.split() or pattern == "*"), name
