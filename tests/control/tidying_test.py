"""Large values of long-term memory go when others have taken their place, and not before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive_ray.control import tidying
from hive_ray.core.commands import DeleteMemory, PutMemory
from hive_ray.core.keys import STATE_KEY
from hive_ray.core.longterm import blob_owner
from hive_ray.core.values import Value
from hive_ray.errors import StoreError
from hive_ray.state.blobs import BlobRef
from hive_ray.state.memory_store import MemoryStore, forget_memory
from tests.control.driver import Driver
from tests.control.parking_test import World, soon
from tests.state.keyrings import keyring

__all__ = ["soon"]

OWNER = "team/agent"
FOLDER = f"blobs/{blob_owner('agent', OWNER)}/"
HOUR_US = 3600 * 1_000_000


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    yield MemoryStore(request.node.name)
    forget_memory(request.node.name)


def world(store: MemoryStore) -> World:
    return World(store, keys=keyring(store))


def stored(driver: Driver, data: bytes) -> BlobRef:
    return driver.blobs.put(blob_owner("agent", OWNER), data, STATE_KEY)


def put(world: World, key: str, data: bytes) -> BlobRef:
    """Write a large value, as a replica does."""
    ref = stored(world.driver, data)
    value = Value(b"", ref.name, ref.size)
    assert world.told(PutMemory("agent", OWNER, key, value)).refused is None
    return ref


def test_values_that_were_overwritten_or_deleted_go_after_a_while(store: MemoryStore):
    """Whoever was given the old one has read it by then; what counts stays."""
    here = world(store)
    put(here, "a", b"old")
    gone = put(here, "b", b"deleted")
    kept = put(here, "a", b"new")
    here.told(DeleteMemory("agent", OWNER, "b"))
    here.driver.pass_time(HOUR_US // 2)
    here.driver.pass_time(tidying.EVERY_US)
    assert len(store.list(FOLDER)) == 3 and here.driver.blobs.get(gone) == b"deleted"

    here.driver.pass_time(HOUR_US)

    assert store.list(FOLDER) == [kept.name]
    assert here.driver.engine.keeping.shelves.by_name[f"agent/{OWNER}"].retired == {}


def test_a_value_that_comes_back_is_not_the_one_that_goes(store: MemoryStore):
    """The same bytes once more have a blob of their own."""
    here = world(store)
    first = put(here, "a", b"same")
    put(here, "a", b"other")
    again = put(here, "a", b"same")
    assert again.name != first.name

    here.driver.pass_time(2 * HOUR_US)

    assert store.list(FOLDER) == [again.name]
    assert here.driver.blobs.get(again) == b"same"


@pytest.mark.parametrize("snapshot", [False, True])
def test_what_is_to_go_is_remembered_over_a_crash(store: MemoryStore, snapshot: bool):
    """By the journal, or by the snapshot that took its place."""
    here = world(store)
    put(here, "a", b"old")
    kept = put(here, "a", b"new")
    if snapshot:
        here.grow()
        assert store.list("snapshots/")

    again = world(store)
    again.driver.pass_time(2 * HOUR_US)

    assert store.list(FOLDER) == [kept.name]


def test_a_store_that_fails_is_asked_again(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    """Nothing is forgotten before it is gone."""
    here = world(store)
    put(here, "a", b"old")
    kept = put(here, "a", b"new")
    failing = Failing(store)
    monkeypatch.setattr(store, "delete", failing.delete)
    here.driver.pass_time(2 * HOUR_US)
    assert failing.failed and len(store.list(FOLDER)) == 2
    monkeypatch.undo()

    here.driver.pass_time(tidying.EVERY_US)

    assert store.list(FOLDER) == [kept.name]


class Failing:
    """A store that deletes no blobs today."""

    def __init__(self, store: MemoryStore) -> None:
        self._delete = store.delete
        self.failed = False

    def delete(self, *names: str) -> None:
        if any(name.startswith(FOLDER) for name in names):
            self.failed = True
            raise StoreError("no")
        self._delete(*names)
