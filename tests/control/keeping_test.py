"""Long-term memory and artifacts under the shell: their segments, their snapshots, their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hive_ray.control import snapshotting
from hive_ray.control.queries import GetMemory, GetRun, ListMemory
from hive_ray.control.views import Answer, MemoryView
from hive_ray.core import events as ev
from hive_ray.core.artifacts import Artifact
from hive_ray.core.commands import DeleteMemory, PutMemory, Submit
from hive_ray.core.messages import Lease, MemoryWrite, Outcome, encode
from hive_ray.core.values import decode, inline
from hive_ray.graph.memory_keys import parse_declaration
from hive_ray.state.content import PlainCodec
from hive_ray.state.journal import Journal
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.records import read_row
from hive_ray.state.snapshots import load_latest
from hive_ray.state.store import Store
from tests.control.driver import Driver
from tests.core.graphs import chain, node
from tests.core.story import content

AGENT = "team/agent"
GRAPH = chain(node("a"), node("b", memory=(parse_declaration("agent:n"),)))
MADE = Artifact("report.txt", "text/plain", 3, "ab" * 32, "blobs/r/x", "a")


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    yield MemoryStore("keeping")
    forget_memory("keeping")


def put(driver: Driver, key: str, value: Any, **fields: Any) -> Answer:
    return driver.replies[driver.command(PutMemory("agent", AGENT, key, inline(value), **fields))]


def asked(driver: Driver, query: Any) -> Answer:
    call = driver.call()
    driver.shell.query(call, lambda engine: query.look(engine), driver.clock)
    driver.perform()
    return driver.replies[call]


def live(driver: Driver) -> None:
    """One run, whose first step leaves an artifact and two memories behind."""
    driver.command(Submit("r", "q", "team", "agent", GRAPH.version, content()))
    session = driver.attached().session
    held: list[Outcome] = []
    for n, label in enumerate(("a", "b", ""), start=1):
        call = driver.exchange(session, n, *held)
        if not label:
            return
        lease: Lease = driver.replies[call].leases[0]
        given = msgspec.structs.replace(content(**{label: 1}), artifacts=(MADE,) if label == "a" else ())
        writes = (
            tuple(MemoryWrite(scope, "n", inline(5)) for scope in ("agent", "run")) if label == "a" else ()
        )
        held = [Outcome(*lease.key, "", encode(given), name=label, memory=writes)]


def rows(store: Store) -> list[list[ev.Event]]:
    """The events of each segment."""
    found: list[list[ev.Event]] = []
    for segment in Journal(store, 0).read_segments(1):
        recorded = [read_row(segment.name, row, PlainCodec()) for row in segment.columns.rows()]
        found.append([item.event for item in recorded if item is not None])
    return found


def test_a_write_stands_in_the_segment_of_its_step_s_success(store: MemoryStore):
    """No crash can part them."""
    live(Driver(store, [GRAPH]))

    (segment,) = [s for s in rows(store) if any(isinstance(event, ev.MemoryWritten) for event in s)]
    kinds = [type(event).__name__ for event in segment]
    at = kinds.index("StepSucceeded")
    assert kinds[at : at + 3] == ["StepSucceeded", "MemoryWritten", "MemoryWritten"]


def test_what_was_written_is_answered_only_when_it_is_durable(store: MemoryStore):
    """As everything else that leaves the controller."""
    driver = Driver(store, [GRAPH])
    driver.holds_writes = True
    call = driver.command(PutMemory("agent", AGENT, "n", inline(1)))
    assert call not in driver.replies

    driver.release()
    answer = driver.replies[call]
    assert isinstance(answer.value, MemoryView) and answer.value.version == 1


def test_keys_are_listed_in_order_in_pages(store: MemoryStore):
    """Behind a key, with a prefix."""
    driver = Driver(store, [GRAPH])
    for key in ("b/2", "a", "b/1", "c"):
        put(driver, key, key)

    def keys(**fields: Any) -> list[str]:
        return [view.key for view in asked(driver, ListMemory("agent", AGENT, **fields)).value]

    assert keys() == ["a", "b/1", "b/2", "c"]
    assert keys(after="a", limit=2) == ["b/1", "b/2"]
    assert keys(prefix="b/") == ["b/1", "b/2"]
    assert asked(driver, ListMemory("agent", "team/other")).value == []
    refused = asked(driver, GetMemory("agent", AGENT, "zz")).refused
    assert refused is not None and refused.problem == "not_found"


def test_a_snapshot_and_the_journal_give_memory_and_artifacts_back(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
):
    """Some of it from items, some from events behind them; what was deleted stays away."""
    driver = Driver(store, [GRAPH])
    live(driver)
    for number in range(4):
        put(driver, f"k{number}", number)
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)
    for _ in range(4):
        driver.pass_time(1_000)
    monkeypatch.undo()
    driver.command(DeleteMemory("agent", AGENT, "k1"))
    put(driver, "k2", "later")

    snapshot = load_latest(store, 0)
    assert snapshot is not None and sum(key.startswith("entry/") for key in snapshot.items) == 5
    again = Driver(store, [GRAPH])
    assert again.engine.keeping.shelves.by_name == driver.engine.keeping.shelves.by_name
    assert again.engine.runs["r"].artifacts == driver.engine.runs["r"].artifacts != []
    assert again.engine.runs["r"].shelf == driver.engine.runs["r"].shelf
    entries = again.engine.keeping.shelves.by_name[f"agent/{AGENT}"].entries
    assert {key: decode(e.value) for key, e in entries.items()} == {
        "n": 5, "k0": 0, "k2": "later", "k3": 3,
    }  # fmt: skip


def test_the_next_snapshot_leaves_out_what_was_deleted(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """Also where the deletion is only known from the journal behind the last one."""
    driver = Driver(store, [GRAPH])
    put(driver, "gone", 1)
    put(driver, "stays", 2)
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)
    for _ in range(4):
        driver.pass_time(1_000)
    monkeypatch.undo()
    driver.command(DeleteMemory("agent", AGENT, "gone"))

    again = Driver(store, [GRAPH])
    put(again, "more", 3)
    monkeypatch.setattr(snapshotting, "EVERY_SEGMENTS", 2)
    for _ in range(6):
        again.pass_time(1_000)
    snapshot = load_latest(store, 0)
    assert snapshot is not None
    assert sorted(key for key in snapshot.items if key.startswith("entry/")) == [
        f"entry/2/agent/{AGENT}",
        f"entry/4/agent/{AGENT}",
    ]


def test_a_run_s_view_names_its_artifacts(store: MemoryStore):
    """Whoever shows a run needs nothing else."""
    driver = Driver(store, [GRAPH])
    live(driver)

    view = asked(driver, GetRun("r")).value
    assert [(kept.id, kept.artifact) for kept in view.artifacts] == [("art-1", MADE)]
