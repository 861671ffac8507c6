"""Policies as data: rules that say what a step may do, and the facts that they may speak of.

``hive_ray.graph.rules`` makes them from ``hive.yaml``, ``hive_ray.core.policies`` decides by them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from hive_ray.graph.asking import AskPlan


class Effect(StrEnum):
    """What a rule does with a step for which it holds."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "require_approval"
    DEGRADE = "degrade"
    ROUTE = "route"


class RulePlan(msgspec.Struct, frozen=True, array_like=True):
    """One rule. It is about a step if each list of names that is not empty has one that fits.

    Names may hold ``*`` for any text.
    """

    id: str
    effect: Effect
    when: str = ""
    """The condition as its author wrote it; empty: it holds always."""
    cel: str = ""
    """The same over the variables of ``reads``."""
    reads: tuple[tuple[str, str], ...] = ()
    """(CEL variable, name of the fact) pairs."""
    tools: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """Of tools; one of a tool's tags must fit."""
    nodes: tuple[str, ...] = ()
    """Node ids, or ``graph/node``."""
    models: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """Of steps: ``function``, ``tool``, ``llm``, ``decide``."""
    reason: str = ""
    """What people, and LLMs whose call is denied, are told."""
    asks: AskPlan | None = None
    """Whom ``require_approval`` asks; None: whoever is asked by default."""
    pool: str = ""
    """Of ``route``."""
    level: int = 0
    """Of ``degrade``: rung of the ladder, from 1."""
    description: str = ""
    source: str = ""
    """The file that it stands in; empty: ``hive.yaml`` itself."""


DESTRUCTIVE_TAG = "destructive"
DESTRUCTIVE = RulePlan(
    id="destructive",
    effect=Effect.REQUIRE_APPROVAL,
    tags=(DESTRUCTIVE_TAG,),
    reason="it may destroy or overwrite something",
    description="built in: tools tagged destructive need approval unless a rule allows them",
    source="built in",
)
"""Stands behind all other rules; a rule that allows the step goes before it."""

TEXT_FACTS = (
    "node.id", "node.kind", "tool.name", "model", "kind", "pool", "graph", "agent", "team", "principal",
)  # fmt: skip
"""Always there; the empty text where a step has no such thing."""
LIST_FACTS = ("tool.tags",)
"""Lists of texts."""
NUMBER_FACTS = ("cost_usd", "confidence")
"""``confidence`` is null where nothing says it."""
OPEN_FACTS = ("args", "input", "memory")
"""Values by key, as deep as one likes; what is absent is null."""

ROOTS = tuple(
    dict.fromkeys(name.partition(".")[0] for name in (*TEXT_FACTS, *LIST_FACTS, *NUMBER_FACTS, *OPEN_FACTS))
)
"""What a fact's name begins with."""
