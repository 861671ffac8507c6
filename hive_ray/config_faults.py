"""What pydantic found wrong, as faults: the key's path, the problem, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hive_ray.errors import Fault


def faults_of(error: ValidationError, root: type[BaseModel]) -> list[Fault]:
    """One fault for each error, in the order of the keys."""
    return [_fault(detail, root) for detail in error.errors(include_url=False)]


def _fault(detail: ErrorDetails, root: type[BaseModel]) -> Fault:
    place = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "hive.yaml"
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return Fault(
                place, "unknown key", _nearest(str(detail["loc"][-1]), _keys(root, detail["loc"][:-1]))
            )
        case "missing":
            return Fault(place, "is missing", f"add {detail['loc'][-1]}")
        case "fault":
            return Fault(place, context["problem"], context["remedy"])
        case _:
            return Fault(place, _problem(detail), _remedy(detail["msg"]))


def _problem(detail: ErrorDetails) -> str:
    found = detail["input"]
    if isinstance(found, str | int | float | bool) or found is None:
        return f"is {found!r:.60}"
    return f"is a {'mapping' if isinstance(found, Mapping) else type(found).__name__}"


def _remedy(message: str) -> str:
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    if expected == message:
        return message
    if "dictionary or instance" in expected or expected == "mapping":
        return "write a mapping (key: value lines)"
    return f"should be {expected}"


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"


def _keys(annotation: Any, loc: Sequence[int | str]) -> list[str]:
    """The keys that are known at a place below ``annotation``."""
    model = annotation
    for part in loc:
        model = _below(model, part)
    return sorted(model.model_fields) if _is_model(model) else []


def _below(annotation: Any, part: int | str) -> Any:
    if _is_model(annotation):
        return _plain(annotation.model_fields[str(part)].annotation)
    items = [arg for arg in get_args(annotation) if arg is not Ellipsis]
    return _plain(items[-1])


def _plain(annotation: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(annotation) in (Union, UnionType):
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
