"""Blocking work beside the event loop, as data: what to do, and what the shell does with the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Done(NamedTuple):
    """The work came to its end."""

    value: Any


class Broke(NamedTuple):
    """The work raised."""

    error: Exception


class Io(NamedTuple):
    """Work on the store that would hold the event loop up.

    Whoever drives the shell runs ``work`` (on a thread, or in place), then hands the result to
    ``Shell.io_ended``, which calls ``then``. A crash may come before, within or after it: the work must be
    harmless to repeat and to leave half done.
    """

    what: str
    """A few words for logs and traces."""
    work: Callable[[], Any]
    then: Callable[[Done | Broke], None]


def attempt(io: Io) -> Done | Broke:
    """Do the work once."""
    try:
        return Done(io.work())
    except Exception as error:  # noqa: BLE001 - whatever it was, the shell must learn that it did not happen
        return Broke(error)
