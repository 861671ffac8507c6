"""A new ``hive.yaml`` beside the one at work: what would change at once, and what at the next start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple, cast

from pydantic import BaseModel

from hive_ray.config import SecretRef, Settings
from hive_ray.control.planning import LIVE
from hive_ray.core.plan import Changes, ControlPlan

_OF_A_START = ("auth.door_secret",)
"""Keys that `up` sets for each start."""


class Undone(NamedTuple):
    """What a person changed and the new plan says otherwise than the old one did."""

    field: str
    name: str


def undone(old: ControlPlan, new: ControlPlan, changes: Changes) -> list[Undone]:
    """The changes of people that end when a plan takes the place of another."""
    return [
        Undone(field, name)
        for field in ("accounts", "rates", "runs")
        for name in getattr(changes, field)
        if getattr(old, field).get(name) != getattr(new, field).get(name)
    ]


def needs_restart(running: Settings, new: Settings) -> list[str]:
    """Keys that differ and hold only from the next start on."""
    return [key for key in _differing("", running, new) if not _matches(key, (*LIVE, *_OF_A_START))]


def _differing(place: str, old: Any, new: Any) -> Iterator[str]:
    """The innermost keys that differ; of what is missing on one side, the key itself."""
    pairs = _members(old), _members(new)
    if pairs[0] is None or pairs[1] is None:
        if not _same(place, old, new):
            yield place
        return
    for key in dict.fromkeys([*pairs[0], *pairs[1]]):
        inner = f"{place}.{key}" if place else key
        if key in pairs[0] and key in pairs[1]:
            yield from _differing(inner, pairs[0][key], pairs[1][key])
        else:
            yield inner


def _members(value: Any) -> dict[str, Any] | None:
    if isinstance(value, BaseModel):
        return {name: inner for name, inner in value if name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in cast("Mapping[Any, Any]", value).items()}
    return None


def _same(place: str, old: Any, new: Any) -> bool:
    if isinstance(old, SecretRef) and isinstance(new, SecretRef):
        # `up` hands a variable over in a file of its name: see ``serve.supervisor.hand_over_secrets``.
        handed_over = new.scheme == "env" and old.scheme == "file" and PurePath(old.name).name == new.name
        return old == new or handed_over
    if place == "tools.modules":
        # `run` adds the tools.py beside its graph.
        return set(cast("tuple[str, ...]", new)) <= set(cast("tuple[str, ...]", old))
    return old == new or (place == "state.url" and not new)


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(_fits(key.split("."), pattern.split(".")) for pattern in patterns)


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Names may hold dots: what stands between is one name."""
    if "*" not in pattern:
        return parts[: len(pattern)] == pattern
    return parts[0] == pattern[0] and parts[-1] == pattern[-1] and len(parts) >= len(pattern)
