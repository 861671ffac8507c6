"""Whatever rules there are and whatever happens: no step starts that they forbid, and every run ends."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hive_ray.core import events as ev
from hive_ray.core import people
from hive_ray.core.commands import Resolve
from hive_ray.core.messages import StepContent
from hive_ray.graph.compiled import CompiledGraph
from hive_ray.graph.policies import Effect, RulePlan
from tests.core.histories import History, Move, graphs, moves
from tests.core.histories_test import PROFILE
from tests.core.observer import deciding_changes_nothing
from tests.core.story import values

ABOUT: tuple[dict[str, Any], ...] = (
    {"kinds": ("tool",)}, {"tools": ("send",)}, {"tools": ("*e*",)}, {"kinds": ("function",)},
    {"kinds": ("llm",)},
    {"nodes": ("n1",)},
)  # fmt: skip
WHENS = ("", "", "memory.k", "not memory.k", "not input.l", "broken")


@st.composite
def rules_(draw: st.DrawFn) -> tuple[RulePlan, ...]:
    """Denials are about some steps only, or nothing would be left to happen."""
    effects = (Effect.DENY, Effect.ALLOW, Effect.DEGRADE, *[Effect.REQUIRE_APPROVAL] * 3, *[Effect.ROUTE] * 2)
    found: list[RulePlan] = []
    for number in range(draw(st.integers(1, 4))):
        effect = draw(st.sampled_from(effects))
        about = draw(st.sampled_from(ABOUT[:3] if effect == Effect.DENY else ({}, *ABOUT)))
        pool, level = draw(st.sampled_from(("function", "llm"))), draw(st.integers(1, 3))
        when = draw(st.sampled_from(WHENS))
        found.append(RulePlan(f"r{number}", effect, when, pool=pool, level=level, **about))
    return tuple(found)


class RuledHistory(History):
    """People mostly allow what they are asked about."""

    def __init__(self, top: CompiledGraph, rules: tuple[RulePlan, ...]) -> None:
        super().__init__(top, 60)
        self.plan(policies=rules)

    def _on_answer(self, a: int, b: int) -> None:
        waits = [(r, v.wait) for r in self.engine.runs.values() for v in r.visits.values() if v.wait]
        if not waits or waits[a % len(waits)][1].reason != "policy":
            super()._on_answer(a, b)
            return
        run, wait = waits[a % len(waits)]
        wanted = ("edit", "approve", "approve", "reject")[b % 4]
        decision = wanted if wanted in people.answers(wait) else "approve"
        given = StepContent(outputs=values(k=b % 8 < 4, said="hm"))
        self.tell(Resolve(run.id, wait.approval, decision, given if decision == "edit" else StepContent()))


@settings(PROFILE)
@given(graphs(), rules_(), moves)
def test_no_step_starts_that_the_rules_forbid(
    graph: CompiledGraph, rules: tuple[RulePlan, ...], moves: list[Move]
) -> None:
    """A denied one never; one that they ask about when a person said yes; and journal and snapshots give the
    same state again."""
    history = RuledHistory(graph, rules)
    with deciding_changes_nothing():
        for move in moves:
            history.play(move)
        history.check_replay()
        history.finish()
    history.check_replay()
    history.check_nothing_ran_twice()
    check_starts(history)


Key = tuple[str, int, int]


def check_starts(history: History) -> None:
    """Every start stands behind the last word of the rules about it, and no rule asks twice."""
    forbidden: dict[Key, str] = {}
    asked: dict[str, Key] = {}
    by: set[tuple[Key, str]] = set()
    for _, _, event, _ in history.events():
        match event:
            case ev.PolicyDecided():
                key = (event.run, event.serial, event.call)
                assert event.effect != "allow" or key not in forbidden
                if event.effect == "require_approval":
                    assert (key, event.rule) not in by, f"{event.rule} asks about {key} a second time"
                    by.add((key, event.rule))
                if event.effect in ("deny", "require_approval"):
                    assert forbidden.get(key) != "deny"
                    forbidden[key] = event.effect
            case ev.ApprovalRequested(reason="policy"):
                asked[event.approval] = (event.run, event.serial, event.call)
            case ev.ApprovalResolved(approval=approval) if approval in asked:
                if event.decision in ("approve", "edit"):
                    del forbidden[asked[approval]]
            case ev.StepStarted():
                key = (event.run, event.serial, event.call)
                assert key not in forbidden, f"{key} was started: {forbidden[key]}"
            case _:
                pass
