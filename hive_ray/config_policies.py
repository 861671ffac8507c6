"""``policies`` in ``hive.yaml``: rules about what a step may do, there or in files of their own.

A file is read once, when ``hive.yaml`` is: what travels on are its rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from hive_ray.config_approvals import EscalationSettings, Owner
from hive_ray.config_base import Name, Section, refuse
from hive_ray.errors import ConfigError, Fault

RULES_LIMIT = 1000
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Patterns = tuple[Pattern, ...]
EffectName = Literal["allow", "deny", "require_approval", "degrade", "route"]
StepKindName = Literal["function", "tool", "llm", "decide"]


class RuleSettings(Section):
    """One rule. It is about a step if each of `tools`, `tags`, `nodes`, `models`, `agents`, `teams`, `kinds`
    that it gives names something of the step; names may hold `*`."""

    id: Name
    """Stands in the events of its decisions."""
    when: str = ""
    """Condition in CEL over the step's facts; without one the rule holds for every step that it is about."""
    then: EffectName
    """`allow`, `deny`, `require_approval`, `degrade` or `route`."""
    tools: Patterns = ()
    """Names of tools."""
    tags: Patterns = ()
    """Tags of tools; `destructive` is one of those that MCP servers give."""
    nodes: Patterns = ()
    """Ids of nodes, or `graph/node`."""
    models: Patterns = ()
    """Names of models, as in `models`."""
    agents: Patterns = ()
    """Names of agents."""
    teams: Patterns = ()
    """Names of teams."""
    kinds: tuple[StepKindName, ...] = ()
    """Kinds of steps: `function`, `tool`, `llm`, `decide` (a model chooses among edges)."""
    owner: Owner = ""
    """`require_approval`: principal or role that is asked; by default as in `approvals`."""
    reason: str = ""
    """Why: told to whoever is asked, and to the model whose call is denied."""
    deadline_s: PositiveFloat | None = None
    """`require_approval`: seconds until nobody is asked any more; by default as in `approvals`."""
    four_eyes: bool | None = None
    """`require_approval`: two people are needed; by default as in `approvals`."""
    escalate: tuple[EscalationSettings, ...] = ()
    """`require_approval`: who is asked after the owner, one after the other."""
    pool: str = ""
    """`route`: the pool in which the step runs instead."""
    level: PositiveInt | None = None
    """`degrade`: the rung of the degrade ladder, 1 by default."""
    description: str = ""
    """For people who read the rules."""
    file: str = ""
    """The file that it was read from; not to be written."""

    @model_validator(mode="after")
    def _only_its_own(self) -> RuleSettings:
        for key, effect in _OWN.items():
            if (
                key in self.model_fields_set
                and self.then != effect
                and getattr(self, key) not in ("", None, ())
            ):
                refuse(f"{key} means nothing with then: {self.then}", f"{key} belongs to {effect}: remove it")
        if self.then == "route" and not self.pool:
            refuse("route without pool", "name the pool in which the step runs instead")
        return self


_OWN = {
    "owner": "require_approval", "deadline_s": "require_approval", "four_eyes": "require_approval",
    "escalate": "require_approval", "pool": "route", "level": "degrade",
}  # fmt: skip
"""Keys that one effect only knows."""


class PoliciesSettings(Section):
    """Rules in order. A list of rules may be written in the place of this mapping."""

    rules: tuple[RuleSettings, ...] = Field(default=(), max_length=RULES_LIMIT)
    """The rules of `hive.yaml` itself, in order."""
    files: tuple[str, ...] = ()
    """Files with a mapping `rules`, which follow in order; paths as seen from `hive.yaml`."""

    @model_validator(mode="after")
    def _distinct(self) -> PoliciesSettings:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                refuse(f"two rules have the id {rule.id!r}", "name one differently")
            seen.add(rule.id)
        return self


Read = Callable[[Path], Mapping[str, Any]]
Json = Any


def with_files(data: Mapping[str, Any], folder: Path, read: Read) -> Mapping[str, Any]:
    """The mapping of ``hive.yaml`` with the rules of the files that it names among its own.

    Args:
        read: reads one YAML file.

    Raises:
        ConfigError: a file cannot be read, or is no list of rules.
    """
    policies = data.get("policies")
    if isinstance(policies, list):
        return {**data, "policies": {"rules": policies}}
    if not isinstance(policies, Mapping):
        return data
    section = cast("Mapping[str, Json]", policies)
    files, rules = section.get("files"), section.get("rules", ())
    if not isinstance(files, list) or not isinstance(rules, list | tuple):
        return data  # what is wrong is told by its shape
    found = [*cast("list[Json]", rules)]
    for name in cast("list[Json]", files):
        found += rules_of(str(name), read(folder / str(name)))
    rest = {key: value for key, value in section.items() if key not in ("files", "rules")}
    return {**data, "policies": {**rest, "rules": found}}


def rules_of(name: str, data: Mapping[str, Any]) -> list[Json]:
    """The rules of a file, each told where it came from.

    Raises:
        ConfigError: it holds no list of rules.
    """
    rules = data.get("rules")
    if not isinstance(rules, list):
        raise ConfigError(name, [Fault(f"{name}: rules", "is not a list of rules", "write rules: [{id: …}]")])
    told = cast("list[Json]", rules)
    return [{**rule, "file": name} if isinstance(rule, Mapping) else rule for rule in told]


_PLACE = re.compile(r"^policies\.rules\.(\d+)(?:\.(.+))?$")


def named(faults: list[Fault], data: Mapping[str, Any]) -> list[Fault]:
    """Faults of rules, told by the rule's id and file in the place of its number."""
    rules = data.get("policies", {}).get("rules", []) if isinstance(data.get("policies"), Mapping) else []
    return [Fault(_place(fault.place, rules), fault.problem, fault.remedy) for fault in faults]


def _place(place: str, rules: list[Json]) -> str:
    found = _PLACE.match(place)
    if found is None or int(found[1]) >= len(rules):
        return place
    rule = rules[int(found[1])]
    if not isinstance(rule, Mapping):
        return place
    told = cast("Mapping[str, Json]", rule)
    return rule_place(str(told.get("file", "")), str(told.get("id") or found[1]), found[2] or "")


def rule_place(file: str, rule: str, key: str = "") -> str:
    """Where a person finds a rule: ``policies.big-refunds.when``, or in ``rules/money.yaml``."""
    tail = f".{key}" if key else ""
    return f"{file}: {rule}{tail}" if file else f"policies.{rule}{tail}"
