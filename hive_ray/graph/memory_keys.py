"""Addresses in long-term memory, as people write them: ``agent:profile``, ``team:faq/*``.

A declaration may name what it reads (``profile=agent:customer/{customer_id}``): an LLM node finds the value
under that name among its inputs, a tool asks its memory for it. ``{input}`` stands for a small input of the
node, ``*`` at the end for every key that begins so.
"""

from __future__ import annotations

import re

from hive_ray.graph.compiled import MemoryPlan, MemoryScope

KEY_LIMIT = 200
"""Characters of a key."""
SCOPES = tuple(scope.value for scope in MemoryScope)

_KEY = re.compile(r"[\w.@:+-]+(/[\w.@:+-]+)*")
_NAME = re.compile(r"[A-Za-z_]\w*")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_REMEDY = "write SCOPE:KEY, SCOPE:PREFIX* or NAME=SCOPE:KEY; SCOPE is one of " + ", ".join(SCOPES)
_KEY_REMEDY = (
    f"use up to {KEY_LIMIT} letters, digits and _ . @ : + - in parts divided by single slashes; no part is "
    "'.' or '..'"
)


class BadAddress(ValueError):
    """An address that means nothing; says what is wrong and what would be right."""

    def __init__(self, problem: str, remedy: str = _REMEDY) -> None:
        super().__init__(f"{problem} ({remedy})")
        self.problem = problem
        self.remedy = remedy


def check_key(key: str) -> str:
    """The key itself; raises ``BadAddress``."""
    parts = key.split("/")
    if len(key) > KEY_LIMIT or not _KEY.fullmatch(key) or "." in parts or ".." in parts:
        raise BadAddress(f"'{key[:80]}' is no key of long-term memory", _KEY_REMEDY)
    return key


def check_scope(scope: str, where: str = "") -> MemoryScope:
    """The scope of that name; raises ``BadAddress``."""
    if scope not in SCOPES:
        raise BadAddress(f"unknown scope '{scope[:80]}'{where}")
    return MemoryScope(scope)


def parse_address(text: str) -> tuple[MemoryScope, str]:
    """Scope and key of ``agent:profile``; raises ``BadAddress``."""
    scope, colon, key = text.partition(":")
    if not colon:
        raise BadAddress(f"'{text[:80]}' has no scope")
    return check_scope(scope, f" in '{text[:80]}'"), check_key(key)


def parse_declaration(text: str) -> MemoryPlan:
    """What a node or tool says that it reads; raises ``BadAddress``."""
    name, equals, address = text.partition("=") if _is_named(text) else ("", "", text)
    if equals and not _NAME.fullmatch(name):
        raise BadAddress(f"'{name[:80]}' is no name", "use letters, digits and _, not a digit first")
    scope, colon, key = address.partition(":")
    if not colon:
        raise BadAddress(f"'{text[:80]}' has no scope")
    known = check_scope(scope, f" in '{text[:80]}'")
    prefix = key.endswith("*")
    if prefix and name:
        raise BadAddress(f"'{text[:80]}' gives one name to many keys", "leave the name out")
    bare = key.removesuffix("*")
    filled = _PLACEHOLDER.sub("x", bare)
    if bare or not prefix:
        check_key(filled.rstrip("/") if prefix else filled)
    return MemoryPlan(known, bare, prefix, name or bare, tuple(_PLACEHOLDER.findall(bare)))


def _is_named(text: str) -> bool:
    return "=" in text.partition(":")[0]
