"""What a run's journal says, compared as the design compares it: but for attempts, times and ids."""

from __future__ import annotations

from typing import Any

import msgspec

from hive_ray.config import Settings
from hive_ray.core.messages import StepContent
from hive_ray.core.values import Value, decode
from hive_ray.state.access import content_codec, open_state
from hive_ray.state.records import Recorded
from tests.chaos.journal_reader import read_history

ATTEMPTS = ("StepStarted", "StepFailed", "RetryScheduled", "TimerFired", "LeaseReturned")
"""Events that only say how often something was tried."""
OF_ONE_RUN = frozenset(
    (
        "run",
        "request_id",
        "attempt",
        "worker",
        "epoch",
        "duration_us",
        "deadline_us",
        "digest",
        "approval",
        "key",
    )
)


def events_of(settings: Settings, run: str, *kinds: str) -> list[Recorded]:
    """Events of a run in order, of those kinds or all."""
    store = open_state(settings)
    events = read_history(store, codec=content_codec(settings)).events
    return [e for e in events if e.event.run == run and (not kinds or type(e.event).__name__ in kinds)]


def kinds_of(settings: Settings, run: str) -> list[str]:
    return [type(e.event).__name__ for e in events_of(settings, run)]


def attempts(settings: Settings, run: str) -> dict[tuple[int, int], int]:
    """Highest attempt of each step, by visit and call."""
    found = read_history(open_state(settings)).attempts()
    return {(serial, call): highest for (of_run, serial, call), highest in found.items() if of_run == run}


def essence(settings: Settings, run: str) -> list[tuple[str, Any, Any]]:
    """What happened in a run, without what may differ between two that are the same.

    Parallel branches end in any order, so that the events are sorted.
    """
    found = [e for e in events_of(settings, run) if type(e.event).__name__ not in ATTEMPTS]
    return sorted((_essence(e) for e in found), key=repr)


def _essence(recorded: Recorded) -> tuple[str, Any, Any]:
    fields = msgspec.structs.asdict(recorded.event)
    told = {key: value for key, value in fields.items() if key not in OF_ONE_RUN}
    return type(recorded.event).__name__, told, _content(recorded.content)


def _content(content: StepContent) -> dict[str, Any]:
    outputs = {key: _plain(value) for key, value in content.outputs.items()}
    return {"outputs": outputs, "facts": content.facts, "message": content.message, "route": content.route}


def _plain(value: Value) -> Any:
    return value.blob.rpartition("/")[2] if value.blob else decode(value)
