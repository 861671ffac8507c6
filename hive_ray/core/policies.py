"""Decisions by rules: what a step may do, before it starts.

Every rule that is about a step is asked, in order. Any that denies wins; else the first that allows or
requires approval decides; degrades and routes of all that hold apply besides. A rule whose condition has no
answer never allows: it denies, or requires approval, as if it held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from hive_ray.graph.policies import DESTRUCTIVE, Effect, RulePlan

SUBJECTS_LIMIT = 10_000
"""Subjects whose rules are kept; beyond, they are looked up anew."""

Fact = Callable[[str], Any]
"""A fact by its name; raises ``ValueError`` for one that cannot be used."""


class Matcher(Protocol):
    """Evaluates the conditions of rules; ``graph.expressions.Evaluator`` is the real one."""

    def matches(self, rule: RulePlan, fact: Fact) -> bool:
        """Raises ``ExpressionError``, a ``ValueError``, when the condition has no answer."""
        ...


class Subject(NamedTuple):
    """What rules find a step by; empty where it has no such thing."""

    kind: str
    node: str
    graph: str = ""
    tool: str = ""
    tags: tuple[str, ...] = ()
    model: str = ""
    agent: str = ""
    team: str = ""


class Trouble(NamedTuple):
    """A rule whose condition had no answer."""

    rule: str
    why: str


class Decision(NamedTuple):
    """What the rules say about a step."""

    effect: str = ""
    """``allow``, ``deny``, ``require_approval``; empty: no rule says anything, so it may start."""
    rule: RulePlan | None = None
    """The one that decides."""
    matched: tuple[str, ...] = ()
    """All that held, in order."""
    troubles: tuple[Trouble, ...] = ()
    pool: str = ""
    """Of the first route that held."""
    level: int = 0
    """The highest of the degrades that held."""

    @property
    def says_something(self) -> bool:
        return bool(self.matched or self.troubles)


class Policies:
    """Rules in order, found by what a step is; the built-in one stands last."""

    def __init__(self, rules: Sequence[RulePlan] = ()) -> None:
        self.rules = (*rules, DESTRUCTIVE)
        self._about: dict[Hashable, tuple[RulePlan, ...]] = {}

    def known(self, key: Hashable) -> tuple[RulePlan, ...] | None:
        """The rules of a subject that was looked up before, by any key that stands for it."""
        return self._about.get(key)

    def about(self, subject: Subject) -> tuple[RulePlan, ...]:
        """The rules that are about a subject, in order."""
        return tuple(rule for rule in self.rules if concerns(rule, subject))

    def keep(self, key: Hashable, rules: tuple[RulePlan, ...]) -> None:
        """What ``about`` found, under a key that stands for the subject."""
        if len(self._about) >= SUBJECTS_LIMIT:
            self._about.clear()
        self._about[key] = rules


def concerns(rule: RulePlan, subject: Subject) -> bool:
    """Whether a rule is about a subject, whatever its condition says."""
    return (
        _fits(rule.kinds, subject.kind)
        and _fits(rule.tools, subject.tool)
        and _fits(rule.models, subject.model)
        and _fits(rule.agents, subject.agent)
        and _fits(rule.teams, subject.team)
        and _fits(rule.nodes, subject.node, f"{subject.graph}/{subject.node}")
        and _fits(rule.tags, *subject.tags)
    )


def is_for_team(rule: RulePlan, team: str) -> bool:
    """Whether a rule can be about steps of a team."""
    return _fits(rule.teams, team)


def _fits(patterns: tuple[str, ...], *names: str) -> bool:
    """Whether one of the names fits one of the patterns; without patterns every name does."""
    return not patterns or any(_like(pattern, name) for pattern in patterns for name in names if name)


def _like(pattern: str, name: str) -> bool:
    """Only ``*`` is special: names of tools hold dots and brackets."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    *middle, last = rest
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def decide(
    rules: Sequence[RulePlan], fact: Fact, matcher: Matcher, answered: Collection[str] = ()
) -> Decision:
    """What the rules about a step say of it.

    Args:
        answered: rules whose question a person has answered with yes: they do not ask again.
    """
    asked = list(_asked(rules, fact, matcher))
    held = [rule for rule, holds, _ in asked if holds]
    deciding = _deciding(held)
    effect = deciding.effect if deciding is not None else ""
    if deciding is not None and effect == Effect.REQUIRE_APPROVAL and deciding.id in answered:
        effect = Effect.ALLOW
    return Decision(
        str(effect),
        deciding,
        tuple(rule.id for rule in held),
        tuple(Trouble(rule.id, why) for rule, _, why in asked if why),
        next((rule.pool for rule in held if rule.effect == Effect.ROUTE), ""),
        max((rule.level for rule in held if rule.effect == Effect.DEGRADE), default=0),
    )


def _asked(rules: Sequence[RulePlan], fact: Fact, matcher: Matcher) -> Iterator[tuple[RulePlan, bool, str]]:
    """Each rule, whether it holds, and why it had no answer if so."""
    for rule in rules:
        try:
            yield rule, matcher.matches(rule, fact), ""
        except ValueError as error:
            yield rule, rule.effect in (Effect.DENY, Effect.REQUIRE_APPROVAL), str(error)


def _deciding(held: Sequence[RulePlan]) -> RulePlan | None:
    """The first that denies, else the first that allows or asks."""
    denies = next((rule for rule in held if rule.effect == Effect.DENY), None)
    if denies is not None:
        return denies
    return next((rule for rule in held if rule.effect in (Effect.ALLOW, Effect.REQUIRE_APPROVAL)), None)
