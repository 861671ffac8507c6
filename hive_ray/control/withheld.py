"""Outcomes of runs that cannot be loaded: kept, and tried again, while everything else goes on.

They are not acknowledged, so their workers have them too, and hand them to the next incarnation.
"""

from __future__ import annotations

import logging

from hive_ray.core.fleet import AttemptRef
from hive_ray.core.messages import Outcome

log = logging.getLogger(__name__)

AGAIN_US = 10_000_000
"""Between two tries to load a run."""
MOST = 10_000
"""Outcomes that are kept; beyond, only their workers have them."""


class Withheld:
    """Outcomes by their attempts."""

    def __init__(self) -> None:
        self._outcomes: dict[AttemptRef, Outcome] = {}
        self._again_us = 0

    def keep(self, outcome: Outcome, mono_us: int) -> None:
        """Take an outcome whose run cannot be loaded."""
        if outcome.key not in self._outcomes:
            log.error("an outcome waits for its run, which cannot be loaded", extra={"run_id": outcome.run})
        if len(self._outcomes) < MOST:
            self._again_us = self._again_us if self._outcomes else mono_us + AGAIN_US
            self._outcomes[outcome.key] = outcome

    def take_due(self, mono_us: int) -> list[Outcome]:
        """All of them, if it is time to try again."""
        if not self._outcomes or mono_us < self._again_us:
            return []
        taken, self._outcomes = list(self._outcomes.values()), {}
        return taken
