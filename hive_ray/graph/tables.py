"""The tables of a graph that is being compiled: conditions, facts, and the keys that its memory has."""

from __future__ import annotations

from dataclasses import dataclass, field

from hive_ray.graph.compiled import Expression


@dataclass(slots=True)
class Tables:
    keys: frozenset[str] = frozenset()
    expressions: list[Expression] = field(default_factory=list[Expression])
    facts: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
