"""What a run's journal says, compared as the design compares it."""

from __future__ import annotations

from hive_ray.config import Settings
from hive_ray.state.access import open_state
from hive_ray.state.records import Recorded
from tests.chaos.journal_reader import read_history


def events_of(settings: Settings, run: str, *kinds: str) -> list[Recorded]:
    """Events of a run in order, of those kinds or all."""
    events = read_history(open_state(settings)).events
    return [e for e in events if e.event.run == run and (not kinds or type(e.event).__name__ in kinds)]


def kinds_of(settings: Settings, run: str) -> list[str]:
    return [type(e.event).__name__ for e in events_of(settings, run)]
