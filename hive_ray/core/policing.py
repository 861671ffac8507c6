"""Policies applied to a step that is about to start: its facts, the decision, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import admission, agent_loop, routing
from hive_ray.core import events as ev
from hive_ray.core.events import Draft, draft
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent, StepKind
from hive_ray.core.policies import Decision, Matcher, Policies, Subject, decide
from hive_ray.core.run import Permit, Run, Step, Visit
from hive_ray.core.terms import Terms
from hive_ray.core.values import Value, decode
from hive_ray.graph.compiled import CompiledGraph, NodePlan, ToolPlan
from hive_ray.graph.policies import OPEN_FACTS, Effect, RulePlan

CONFIDENCE = "confidence"
"""Output or memory key under which a graph says how sure it is, from 0 to 1."""
MAPPING_LIMIT_BYTES = 65_536
"""Of all values together, where a condition reads ``args``, ``input`` or ``memory`` as a whole."""
NANO = 1_000_000_000

_WITH_MODEL = (StepKind.LLM, StepKind.DECIDE)
_NO_PERMIT = Permit()


class Situation(msgspec.Struct, frozen=True, gc=False):
    """A step that is about to start."""

    run: Run
    root: Run
    """The run that pays."""
    graph: CompiledGraph
    node: NodePlan
    visit: Visit
    step: Step
    inputs: dict[str, Value]
    """What it would be given."""
    terms: Terms
    """On which it would start."""


class Ruling(NamedTuple):
    """What policies say of a step."""

    told: Draft
    """The decision as an event."""
    verdict: admission.Refusal | admission.Ask | None = None
    """None: it may start as far as policies go."""
    routed: Draft | None = None
    """It runs in another pool."""
    level: int = 0
    """The rung of its model's ladder that it must be on at least."""


def concern_nobody(policies: Policies, situation: Situation) -> bool:
    """Whether it is known that no rule is about a step: the common case, told without looking at it."""
    run, step = situation.run, situation.step
    key = (run.graph, situation.visit.node, situation.terms.name, step.kind, run.team, run.agent)
    return policies.known(key) == ()


def rule(policies: Policies, matcher: Matcher, situation: Situation) -> Ruling | None:
    """What policies say of a step; None if no rule says anything."""
    run, step = situation.run, situation.step
    key = (run.graph, situation.visit.node, situation.terms.name, step.kind, run.team, run.agent)
    rules = policies.known(key)
    if rules is None:
        # Putting a map's results together is no work that anybody could forbid.
        rules = policies.about(_subject(situation)) if step.kind is not StepKind.COLLECT else ()
        policies.keep(key, rules)
    if not rules:
        return None
    permit = step.permit or _NO_PERMIT
    decision = decide(rules, StepFacts(situation).fact, matcher, permit.rules)
    return _ruling(situation, decision) if decision.says_something else None


def _subject(situation: Situation) -> Subject:
    run, step = situation.run, situation.step
    is_tool = step.kind is StepKind.TOOL
    return Subject(
        kind=str(step.kind),
        node=situation.node.id,
        graph=run.graph_name,
        tool=step.name if is_tool else "",
        tags=_tags(situation) if is_tool else (),
        model=situation.terms.name if step.kind in _WITH_MODEL else "",
        agent=run.agent,
        team=run.team,
    )


def _tool(situation: Situation) -> ToolPlan | None:
    """What is known of the tool that is called, be it the node's own or one that took its place."""
    node, name = situation.node, situation.step.name
    return agent_loop.tool_plan(node, name) or node.stand_in(name)


def _tags(situation: Situation) -> tuple[str, ...]:
    tool = _tool(situation)
    return tool.tags if tool is not None else ()


# --- facts ---------------------------------------------------------------------------------------


class StepFacts:
    """The facts of a step by name, each looked up when a rule reads it."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation

    def fact(self, name: str) -> Any:
        """A fact's value; null if there is no such thing.

        Raises:
            ValueError: it is there, and cannot be used.
        """
        root, _, rest = name.partition(".")
        if root in OPEN_FACTS:
            return _deep(name, self._values(root), rest)
        return self._confidence() if name == CONFIDENCE else _PLAIN[name](self._situation)

    def _values(self, root: str) -> Mapping[str, Value]:
        run, graph, visit, step, inputs = self._parts()
        match root:
            case "args":
                return {} if step.kind in _WITH_MODEL else inputs
            case "memory":
                return run.memory
            case _:
                return routing.inputs_of(run, graph, visit) if step.turn >= 0 else inputs

    def _parts(self) -> tuple[Run, CompiledGraph, Visit, Step, dict[str, Value]]:
        situation = self._situation
        run, graph, visit = situation.run, situation.graph, situation.visit
        step, inputs = situation.step, situation.inputs
        return run, graph, visit, step, inputs

    def _confidence(self) -> float | None:
        run, _, visit, _, _ = self._parts()
        set_so_far = visit.loop.outputs if visit.loop is not None else {}
        value = set_so_far.get(CONFIDENCE) or run.memory.get(CONFIDENCE)
        return checked_confidence(_small(CONFIDENCE, value) if value is not None else None)


def checked_confidence(said: Any) -> float | None:
    """Raises ``ValueError`` for what is neither null nor a number from 0 to 1."""
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said <= 1:
        raise ValueError("confidence is not a number from 0 to 1")
    return float(said)


_PLAIN: dict[str, Callable[[Situation], Any]] = {
    "node.id": lambda at: at.node.id,
    "node.kind": lambda at: str(at.node.kind),
    "tool.name": lambda at: at.step.name if at.step.kind is StepKind.TOOL else "",
    "tool.tags": lambda at: list(_tags(at)) if at.step.kind is StepKind.TOOL else [],
    "model": lambda at: at.terms.name if at.step.kind in _WITH_MODEL else "",
    "kind": lambda at: str(at.step.kind),
    "pool": lambda at: at.step.pool,
    "graph": lambda at: at.run.graph_name,
    "agent": lambda at: at.run.agent,
    "team": lambda at: at.run.team,
    "principal": lambda at: at.root.principal,
    "cost_usd": lambda at: at.root.spent_nanousd / NANO,
}


def _deep(name: str, values: Mapping[str, Value], path: str) -> Any:
    if not path:
        if sum(value.size for value in values.values()) > MAPPING_LIMIT_BYTES:
            raise ValueError(f"the values of {name} are too large for a condition")
        return {key: _small(f"{name}.{key}", value) for key, value in values.items()}
    key, *deeper = path.split(".")
    value = values.get(key)
    found = _small(f"{name.partition('.')[0]}.{key}", value) if value is not None else None
    for part in deeper:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _small(name: str, value: Value) -> Any:
    if value.blob:
        raise ValueError(f"the value of {name} is too large for a condition ({value.size} bytes)")
    return decode(value)


# --- what follows --------------------------------------------------------------------------------


def _ruling(situation: Situation, decision: Decision) -> Ruling:
    told = _told(situation, decision)
    step, rule = situation.step, decision.rule
    if rule is not None and decision.effect == Effect.DENY:
        return Ruling(told, _refusal(situation, rule))
    if rule is not None and decision.effect == Effect.REQUIRE_APPROVAL:
        return Ruling(told, _question(situation, rule))
    # Once: a rule that looks at the pool must not send a step to and fro.
    if decision.pool and decision.pool != step.pool and not step.routed:
        event = ev.StepRouted(situation.run.id, situation.visit.serial, step.call, decision.pool)
        return Ruling(told, None, Draft(event))
    return Ruling(told, level=decision.level)


def _told(situation: Situation, decision: Decision) -> Draft:
    rule = decision.rule.id if decision.rule is not None else ""
    event = ev.PolicyDecided(
        situation.run.id,
        situation.visit.serial,
        situation.step.call,
        decision.effect,
        rule,
        decision.matched,
        tuple(trouble.rule for trouble in decision.troubles),
        decision.level,
    )
    if not decision.troubles:
        return Draft(event)
    why = "; ".join(f"{trouble.rule}: {trouble.why}" for trouble in decision.troubles)
    said = agent_loop.is_conversation(situation.node, situation.visit, situation.step)
    return draft(event, StepContent(message=why), said)


def _refusal(situation: Situation, rule: RulePlan) -> admission.Refusal:
    why = f": {rule.reason}" if rule.reason else ""
    message = f"{_what(situation)} is denied by the policy {rule.id}{why}"
    return admission.Refusal(FailureKind.POLICY_DENIED, message)


def _question(situation: Situation, rule: RulePlan) -> admission.Ask:
    why = f": {rule.reason}" if rule.reason else ""
    message = f"{_what(situation)} needs approval by the policy {rule.id}{why}"
    return admission.Ask(
        "policy", message, form=_form(situation), shown=dict(situation.inputs), asks=rule.asks
    )


def _what(situation: Situation) -> str:
    step, place = situation.step, f"at node {situation.node.id}"
    match step.kind:
        case StepKind.TOOL:
            return f"the call of the tool {step.name} {place}"
        case StepKind.LLM | StepKind.DECIDE:
            return f"the call of the model {step.name} {place}"
        case _:
            return f"the function {step.name} {place}"


def _form(situation: Situation) -> bytes:
    """JSON Schema of other arguments, as far as they are known; a model's inputs cannot be edited."""
    if situation.step.kind in _WITH_MODEL:
        return b""
    tool = _tool(situation) if situation.step.kind is StepKind.TOOL else None
    known = tool.schema if tool is not None and tool.schema else situation.node.input_schema
    return known if known and (situation.step.turn < 0 or tool is not None) else ANY_ARGUMENTS


ANY_ARGUMENTS = b'{"type":"object"}'
