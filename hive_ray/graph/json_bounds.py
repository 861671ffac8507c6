"""Is a value plain JSON, of bounded depth, that every encoder here can write?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

from hive_ray.errors import Fault

Json = Any

DEPTH_LIMIT = 64
"""Nesting of objects and lists in one graph's file."""


def not_json(value: Json, place: str = "", depth: int = 0) -> Iterator[Fault]:
    """A fault for every part that is not JSON, or nested too deep."""
    if depth > DEPTH_LIMIT:
        yield Fault(place, f"nested deeper than {DEPTH_LIMIT} levels", "flatten it")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Json]", value).items():
            yield from _bad_key(key, place)
            yield from not_json(item, f"{place}.{key!s}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Json]", value)):
            yield from not_json(item, f"{place}[{index}]", depth + 1)
    else:
        yield from _bad_scalar(value, place)


def not_finite(packed: bytes, value: Json, place: str) -> str:
    """Where the first NaN or infinity stands in a value, else nothing.

    Args:
        packed: the value's msgpack form, in which such a number shows at a glance.
    """
    # One byte is found 20 times faster than two, and most values hold no float at all.
    if b"\xcb" not in packed or (b"\xcb\x7f" not in packed and b"\xcb\xff" not in packed):
        return ""
    return next(_not_finite(value, place), "")


def _not_finite(value: Json, place: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Json]", value).items():
            yield from _not_finite(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Json]", value)):
            yield from _not_finite(item, f"{place}[{index}]")


def _bad_key(key: object, place: str) -> Iterator[Fault]:
    if not isinstance(key, str):
        yield Fault(place or "graph", f"a key of type {type(key).__name__}", "write keys as text")
    else:
        yield from _bad_scalar(key, place or "graph")


def _bad_scalar(value: Json, place: str) -> Iterator[Fault]:
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            yield Fault(
                place.encode("utf-8", "replace").decode(),
                "half of a surrogate pair",
                "write whole characters",
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield Fault(place, "a number that is not finite", "use a finite number")
    elif value is not None and not isinstance(value, bool | int):
        yield Fault(place, f"a value of type {type(value).__name__}", "use JSON's types only")
