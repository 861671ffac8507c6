"""Literal secrets in a graph are faults: graphs are stored, shown and shared, secrets are not.

Only the place is ever named, never the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from hive_ray.errors import Fault

_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{16,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_KEY = re.compile(
    r"(?:^|[_-])(?:api[_-]?key|password|passwd|token|secret|private[_-]?key|access[_-]?key)$", re.IGNORECASE
)
_NAMES_OF_KEYS = ("routes", "input_mapping")
"""Objects whose keys name routes and memory keys: ``{"reset_password": "reset"}`` holds no secret."""

_REFERENCE = re.compile(r"^(?:env|file|vault):\S+$")
_REMEDY = "name it by reference in hive.yaml: env:NAME, file:NAME or vault:PATH"


def literal_secrets(data: Any, place: str = "") -> Iterator[Fault]:
    """A fault for every string that looks like a secret, in its value or by the name of its key."""
    if isinstance(data, str):
        if _TOKEN.search(data):
            yield Fault(place or "graph", "a literal secret (token pattern)", _REMEDY)
    elif isinstance(data, Mapping):
        yield from _in_object(cast("Mapping[Any, Any]", data), place)
    elif isinstance(data, list):
        for index, item in enumerate(cast("list[Any]", data)):
            yield from literal_secrets(item, f"{place}.{_label(item, index)}" if place else f"[{index}]")


def _in_object(data: Mapping[Any, Any], place: str) -> Iterator[Fault]:
    for key, value in data.items():
        inner = f"{place}.{key}" if place else str(key)
        if key in _NAMES_OF_KEYS and isinstance(value, Mapping):
            yield from literal_secrets(list(cast("Mapping[Any, Any]", value).values()), inner)
        elif isinstance(value, str) and _KEY.search(str(key)) and value and not _REFERENCE.match(value):
            yield Fault(inner, "a literal secret (by the name of its key)", _REMEDY)
        else:
            yield from literal_secrets(value, inner)
        if isinstance(key, str) and _TOKEN.search(key):
            yield Fault(place or "graph", "a literal secret (token pattern in a key)", _REMEDY)


def _label(item: Any, index: int) -> str:
    if isinstance(item, Mapping):
        fields = cast("Mapping[str, Any]", item)
        named = fields.get("id", fields.get("node_id"))
        if isinstance(named, str):
            return named
    return str(index)
