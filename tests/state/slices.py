"""Work that is done in slices, done at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")


def to_end(slices: Generator[None, None, Result]) -> Result:
    """Do all of it, and return what it returns."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value
