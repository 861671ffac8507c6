"""Cases for policies: steps described by hand, decided offline, held against what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import msgspec
from pydantic import ValidationError

from hive_ray import config
from hive_ray.config_base import Section
from hive_ray.config_faults import faults_of
from hive_ray.config_policies import PoliciesSettings, named, rules_of
from hive_ray.control.planning import plan_of
from hive_ray.core.policies import Decision, Policies, Subject, decide
from hive_ray.core.policing import checked_confidence
from hive_ray.core.values import INLINE_LIMIT_BYTES
from hive_ray.errors import ConfigError, Fault
from hive_ray.graph.expressions import Evaluator
from hive_ray.graph.policies import OPEN_FACTS, RulePlan
from hive_ray.graph.rules import plan_rules

Json = Any
NOTHING = "none"
"""What is expected where no rule decides: the step may start."""


class PolicyCase(Section):
    """A step, and what the rules should say of it. What is left out is empty."""

    name: str = ""
    expect: Literal["allow", "deny", "require_approval", "none"]
    """`none`: no rule decides, so the step may start."""
    rule: str | None = None
    """The rule that should decide."""
    route: str | None = None
    """The pool that it should be sent to; empty: none."""
    degrade: int | None = None
    """The rung that it should be put on; 0: none."""
    kind: Literal["function", "tool", "llm", "decide"] | None = None
    """By default `tool` where a tool is named, `llm` where a model is, else `function`."""
    tool: str = ""
    tags: tuple[str, ...] = ()
    model: str = ""
    node: str = "node"
    node_kind: str = ""
    graph: str = "graph"
    agent: str = ""
    team: str = "default"
    pool: str = ""
    principal: str = ""
    args: Mapping[str, Json] = {}
    input: Mapping[str, Json] = {}
    memory: Mapping[str, Json] = {}
    cost_usd: float = 0.0
    confidence: Json = None

    @property
    def step_kind(self) -> str:
        return self.kind or ("tool" if self.tool else "llm" if self.model else "function")


class Tried(NamedTuple):
    """A case, and what came of it."""

    case: PolicyCase
    decision: Decision
    differs: tuple[str, ...]
    """In what it is not as expected."""


def read_rules(file: Path) -> tuple[tuple[RulePlan, ...], Json]:
    """The rules of a file of rules, or of a ``hive.yaml``, and the cases that it brings along.

    Raises:
        ConfigError: every fault, each with its place.
    """
    data = config.read_yaml(file)
    if "rules" not in data and "policies" in data:
        return plan_of(config.load(file)).policies, []
    rules = rules_of(file.name, data)
    unknown = sorted(set(data) - {"rules", "cases"})
    if unknown:
        raise ConfigError(str(file), [Fault(unknown[0], "unknown key", "known keys: rules, cases")])
    try:
        settings = PoliciesSettings.model_validate({"rules": rules})
    except ValidationError as error:
        whole = {"policies": {"rules": rules}}
        faults = [
            Fault(f"policies.{fault.place}", fault.problem, fault.remedy)
            for fault in faults_of(error, PoliciesSettings)
        ]
        raise ConfigError(str(file), named(faults, whole)) from error
    return plan_rules(settings.rules), data.get("cases", [])


def read_cases(given: str) -> Json:
    """Cases as they are given: JSON itself, or a YAML or JSON file; one case, or a list under ``cases``.

    Raises:
        ConfigError: it cannot be read.
    """
    if given.lstrip()[:1] in ("{", "["):
        try:
            return _listed(msgspec.json.decode(given))
        except msgspec.DecodeError as error:
            raise ConfigError("--case", [Fault("--case", f"is not JSON: {error}", "give a case")]) from error
    return _listed(config.read_yaml(Path(given)))


def _listed(found: Json) -> Json:
    if not isinstance(found, Mapping):
        return found
    told = cast("Mapping[str, Json]", found)
    return told["cases"] if "cases" in told else [dict(told)]


def cases_of(found: Json, place: str) -> list[PolicyCase]:
    """Raises ``ConfigError`` with every fault of the cases, by their names or numbers."""
    if not isinstance(found, list) or not found:
        raise ConfigError(place, [Fault("cases", "no cases", "write cases: [{tool: …, expect: …}]")])
    cases: list[PolicyCase] = []
    faults: list[Fault] = []
    for number, item in enumerate(cast("list[Json]", found)):
        try:
            cases.append(PolicyCase.model_validate(item))
        except ValidationError as error:
            told = cast("Mapping[str, Json]", item).get("name") if isinstance(item, Mapping) else None
            where = f"cases.{told or number}"
            faults += [
                Fault(f"{where}.{fault.place}", fault.problem, fault.remedy)
                for fault in faults_of(error, PolicyCase)
            ]
    if faults:
        raise ConfigError(place, faults)
    return cases


def try_case(rules: Sequence[RulePlan], case: PolicyCase) -> Tried:
    """What the rules, and the built-in one behind them, say of a case."""
    subject = Subject(
        kind=case.step_kind,
        node=case.node,
        graph=case.graph,
        tool=case.tool,
        tags=case.tags,
        model=case.model,
        agent=case.agent,
        team=case.team,
    )
    policies = Policies(rules)
    decision = decide(policies.about(subject), lambda name: _fact(case, name), Evaluator())
    return Tried(case, decision, tuple(_differences(case, decision)))


def _differences(case: PolicyCase, decision: Decision) -> list[str]:
    decided = decision.rule.id if decision.rule is not None else ""
    pairs = [
        ("effect", case.expect, decision.effect or NOTHING),
        ("rule", case.rule, decided),
        ("route", case.route, decision.pool),
        ("degrade", case.degrade, decision.level),
    ]
    return [
        f"{what} is {found or NOTHING}, expected {wanted or NOTHING}"
        for what, wanted, found in pairs
        if wanted is not None and wanted != found
    ]


def _fact(case: PolicyCase, name: str) -> Json:
    root, _, rest = name.partition(".")
    if root in OPEN_FACTS:
        values = case.input or case.args if root == "input" else getattr(case, root)
        return _deep(name, values, rest)
    named = {
        "node.id": case.node,
        "node.kind": case.node_kind,
        "tool.name": case.tool,
        "kind": case.step_kind,
    }
    if name in named:
        return named[name]
    if name == "tool.tags":
        return list(case.tags)
    return checked_confidence(case.confidence) if name == "confidence" else getattr(case, name)


def _deep(name: str, values: Mapping[str, Json], path: str) -> Json:
    """As a run has it: what would be a blob there is too large for a condition here."""
    for key, value in values.items():
        size = len(msgspec.msgpack.encode(value))
        if size > INLINE_LIMIT_BYTES and path.partition(".")[0] in ("", key):
            raise ValueError(f"the value of {name} is too large for a condition ({size} bytes)")
    found: Json = dict(values)
    for part in path.split(".") if path else ():
        found = found.get(part) if isinstance(found, dict) else None
    return found
