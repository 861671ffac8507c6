"""Values of long-term memory that were overwritten or deleted leave the store.

Small ones are in no object of their own. A large one is a blob, which stays for a while after its entry has
another value: a step that was given the old one may not have read it yet.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from hive_ray.control.io import Broke, Done, Io
from hive_ray.state.store import Store

if TYPE_CHECKING:
    from hive_ray.control.shell import Shell

log = logging.getLogger(__name__)

EVERY_US = 60_000_000
GRACE_US = 3600 * 1_000_000
"""From the write that took its place to the end of a blob; steps read what they are given at their begin."""
MOST = 500
"""Blobs that are deleted at a time."""


class Tidier:
    """Deletes blobs that no entry refers to any more, one bounded piece of work at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._busy = False
        self._again_us = 0

    def advance(self, shell: Shell) -> None:
        """Called every tick."""
        if self._busy or shell.mono_us < self._again_us:
            return
        self._again_us = shell.mono_us + EVERY_US
        shelves = shell.engine.keeping.shelves
        # What is not durable yet may never have been said.
        blobs = shelves.retired_before(shell.wall_us - GRACE_US, shell.durable_seq)[:MOST]
        if blobs:
            self._busy = True
            shell.do(Io("tidy memory", partial(self._delete, blobs), partial(self._deleted, shell, blobs)))

    def _delete(self, blobs: list[str]) -> None:
        self._store.delete(*blobs)

    def _deleted(self, shell: Shell, blobs: list[str], ended: Done | Broke) -> None:
        self._busy = False
        match ended:
            case Done():
                shell.engine.keeping.shelves.blobs_are_gone(blobs)
            case Broke(error):
                log.warning("old values of long-term memory are not deleted yet: %s", error)
