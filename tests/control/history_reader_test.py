"""The events of a run over HTTP's reader: the same pages whether they lie in the journal or in history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from hive_ray.control.views import RunView, run_view
from hive_ray.core.commands import Cancel
from hive_ray.state.content import PlainCodec
from hive_ray.state.memory_store import MemoryStore, forget_memory
from serve.history import History
from tests.control.driver import Driver
from tests.state.compaction_test import compact_all, covered, lived


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    yield MemoryStore("history-reader")
    forget_memory("history-reader")


def viewed(driver: Driver, run: str) -> RunView:
    return run_view(driver.engine, driver.engine.runs[run])


def read(history: History, view: RunView, after_seq: int = 0, limit: int = 500) -> list[dict[str, Any]]:
    return asyncio.run(history.events(view, after_seq, limit))


def test_pages_are_the_same_before_and_after_compaction(store: MemoryStore):
    """From every seq on, in pages of every size, with the node of each event."""
    driver = lived(store)
    driver.command(Cancel("a1", "enough"))
    before = viewed(driver, "a1")
    reader = History(store, PlainCodec())
    expected = [read(reader, before, event["seq"], 3) for event in read(reader, before)]
    assert {event["node"] for page in expected for event in page if "serial" in event} == {"a", "h"}

    driver.engine.compacted = compact_all(store, covered(driver)).covered
    driver.command(Cancel("a2", "its segments are trimmed"))

    after = viewed(driver, "a1")
    reader = History(store, PlainCodec())
    assert [read(reader, after, event["seq"], 3) for event in read(reader, after)] == expected


def test_a_view_from_before_a_compaction_still_finds_its_events(store: MemoryStore):
    """Its segments are gone; the reader looks for a newer manifest."""
    driver = lived(store)
    view = viewed(driver, "a1")
    expected = read(History(store, PlainCodec()), view)

    reader = History(store, PlainCodec())
    compact_all(store, covered(driver))

    assert read(reader, view) == expected


def test_a_run_forgets_the_segments_that_became_history(store: MemoryStore):
    """However long a run lives, it names no more segments than the journal keeps."""
    driver = lived(store)
    assert len(driver.engine.runs["b1"].segments) > 2
    driver.engine.compacted = compact_all(store, covered(driver)).covered

    driver.command(Cancel("b1", "enough"))

    assert driver.engine.runs["b1"].segments == [driver.shell.journal.number]
