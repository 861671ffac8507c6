"""What Python code gives, as plain JSON types."""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.core.failures import FailureKind
from hive_ray.workers.step_error import StepError


def plain_json(value: Any, place: str) -> Any:
    """The value as plain JSON types; dates, enums, dataclasses and structs become what JSON has for them.

    Raises:
        StepError: ``INVALID_OUTPUT``: JSON has nothing for it.
    """
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_as_base)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StepError(
            FailureKind.INVALID_OUTPUT, f"{place} returned what JSON cannot hold: {error}"
        ) from error


def _as_base(value: Any) -> Any:
    """Libraries subclass text and numbers (headers of ``email``, ``numpy.float64``): the bases are JSON."""
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case _:
            raise TypeError(f"objects of type {type(value).__name__}")
