"""A backup is a consistent copy of a state at work; what is restored from it opens read-only."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive_ray.control.recovery import recover
from hive_ray.core.commands import Submit
from hive_ray.core.run import encode_run
from hive_ray.errors import Conflict, Corrupt, NotFound, StateRefused, StoreError
from hive_ray.graph.expressions import Evaluator
from hive_ray.state.backup import HEAD, Copied, backup, read_head, restore
from hive_ray.state.compaction import Compactor, Stamp, remove_covered
from hive_ray.state.content import PlainCodec
from hive_ray.state.history import HistoryManifest
from hive_ray.state.lineage import ANCHOR, LINEAGE, open_for_work, read_lineage
from hive_ray.state.memory_store import forget_memory
from hive_ray.state.segments import segment_name, segment_number
from hive_ray.state.store import Store, open_store
from hive_ray.state.verify import verify
from hive_ray.state.versions import empty_older, replace
from tests.control.driver import OWNER, Driver
from tests.core.graphs import chain, node
from tests.core.story import content
from tests.golden.states import looked_into, real_state
from tests.golden.verify_test import Moving
from tests.servers.moto_s3 import MotoS3Server

GRAPH = chain(node("a"), node("b"), id="g")
_NUMBERS = itertools.count()


@pytest.fixture
def state(tmp_path: Path) -> Store:
    store = real_state(tmp_path)
    open_for_work(store, "local", 1)
    return store


@pytest.fixture
def target() -> Iterator[Store]:
    name = f"backup{next(_NUMBERS)}"
    yield open_store(f"memory://{name}")
    forget_memory(name)


def _backed_up(source: Any, target: Store) -> Copied:
    clock = itertools.count(1_000)
    return backup(source, target, "local", lambda: next(clock))


def _runs(store: Store) -> dict[str, bytes]:
    """Every run of a state, encoded; recovering claims the journal, so of a copy only."""
    state = looked_into(store)
    recovered = recover(store, state.blobs, PlainCodec(), Evaluator(), 0, OWNER, 1_000_000)
    return {run.id: encode_run(run) for run in recovered.engine.runs.values()}


def _copied_names(store: Store) -> set[str]:
    """All but what only the original has: its anchor, and its owner's sign of life."""
    return set(store.list("")) - {ANCHOR, "journal/0000.heartbeat"}


def _segments(store: Store) -> list[int]:
    return [n for n in map(segment_number, store.list("journal/0000/")) if n is not None]


def test_a_backup_is_whole_and_holds_the_same_runs(state: Store, target: Store, tmp_path: Path):
    """Verified object by object, and recovered: byte for byte the same states."""
    copied = _backed_up(state, target)

    assert verify(looked_into(target)).findings == []
    assert copied.head.last == {0: max(_segments(state))}
    assert copied.head.finished_us > copied.head.begun_us
    assert _runs(target) == _runs(state)


def test_a_restored_backup_is_read_only(state: Store, target: Store, tmp_path: Path):
    """Its anchor stays behind, so that it never does again what its original does."""
    _backed_up(state, target)
    place = open_store((tmp_path / "restored").as_uri())

    restore(target, place)

    assert ANCHOR not in place.list("")
    assert read_lineage(place) == read_lineage(state)
    with pytest.raises(StateRefused, match="restored from a backup"):
        open_for_work(place, "local", 1)
    assert _runs(place) == _runs(state)


def test_a_backup_of_a_state_without_a_lineage_is_read_only_too(tmp_path: Path, target: Store):
    """A state that only an older release opened has none; its copy gets one."""
    old = real_state(tmp_path)

    _backed_up(old, target)
    again = _backed_up(old, target)

    assert LINEAGE not in old.list("")
    assert again.objects == 1
    with pytest.raises(StateRefused, match="restored from a backup"):
        open_for_work(target, "local", 1)


def test_a_second_backup_copies_only_what_is_new(state: Store, target: Store):
    """Objects never change, but for the head and the lineage."""
    first = _backed_up(state, target)
    Driver(state, [])
    second = _backed_up(state, target)

    assert first.objects > 500
    # The new epoch record, and the lineage.
    assert second.objects == 2
    assert second.head.last[0] == first.head.last[0] + 1
    assert verify(looked_into(target)).faults == []


def test_what_the_state_deleted_leaves_the_backup(state: Store, target: Store):
    """Segments that compaction made into history, snapshots that were replaced."""
    _backed_up(state, target)
    _compact(state)

    _backed_up(state, target)

    assert _segments(target) == _segments(state)
    assert set(target.list("")) == _copied_names(state) | {HEAD}
    assert verify(looked_into(target)).findings == []


def _compact(store: Store) -> None:
    compactor = Compactor(store, 0, lambda runs: [])
    remove_covered(store, compactor.compact(HistoryManifest(0), 300, Stamp(1, 1, 1_700_000_000_000_000)))


@pytest.mark.parametrize("at", [1, 50, 299])
def test_compaction_in_the_middle_begins_the_copy_again(
    state: Store, target: Store, at: int, monkeypatch: pytest.MonkeyPatch
):
    """Segments vanish while they are copied; the copy takes the history that has their events instead."""
    monkeypatch.setattr("hive_ray.state.backup.COPIERS", 1)
    moving = Moving(state, segment_name(0, at), lambda: _compact(state))

    _backed_up(moving, target)

    assert verify(looked_into(target)).findings == []
    assert target.list("history/") == state.list("history/") != []
    assert _segments(target) == _segments(state)


def test_events_that_come_meanwhile_are_wholly_in_or_wholly_out(state: Store, target: Store):
    """The end of the journal is fixed when it is listed; what comes behind waits for the next backup."""
    last = max(_segments(state))
    moving = Moving(state, segment_name(0, last), lambda: Driver(state, []))

    _backed_up(moving, target)

    assert max(_segments(target)) == last
    assert max(_segments(state)) == last + 1
    assert verify(looked_into(target)).findings == []


def test_a_page_of_keys_that_is_made_meanwhile_is_in_the_copy(state: Store, target: Store):
    """Whatever a copied event is sealed with is there; a key that is erased meanwhile still is."""
    replace(state, "keys/pages/aa/", 1, b"first page, all of its keys")
    replace(state, "keys/pages/bb/", 1, b"second page")

    def move() -> None:
        replace(state, "keys/pages/aa/", 2, b"first page, one key less")
        empty_older(state, "keys/pages/aa/")
        replace(state, "keys/pages/cc/", 1, b"third page")

    _backed_up(Moving(state, segment_name(0, 5), move), target)

    assert target.list("keys/") == ["keys/pages/aa/000001", "keys/pages/bb/000001", "keys/pages/cc/000001"]
    assert target.get("keys/pages/aa/000001") == b"first page, all of its keys"


def test_an_erased_key_leaves_the_next_backup(state: Store, target: Store):
    """The version that still had it is emptied in the copy as in the state."""
    replace(state, "keys/pages/aa/", 1, b"all of its keys")
    _backed_up(state, target)
    replace(state, "keys/pages/aa/", 2, b"one key less")
    empty_older(state, "keys/pages/aa/")

    _backed_up(state, target)

    assert target.get("keys/pages/aa/000001") == b""
    assert target.get("keys/pages/aa/000002") == b"one key less"


def test_backups_of_a_state_at_work_are_consistent(tmp_path: Path):
    """Runs go on in another thread while backups are made: each can be recovered, and has lost nothing."""
    url = (tmp_path / "state").as_uri()
    driver = Driver(open_store(url), [GRAPH])
    source = open_store(url)
    acknowledged: list[str] = []
    stop = threading.Event()

    def work() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            run = f"r{number}"
            driver.command(Submit(run, "q", "team", "agent", GRAPH.version, content(x=1)))
            acknowledged.append(run)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        copies: list[tuple[int, Store]] = []
        for number in range(5):
            before = len(acknowledged)
            copy = open_store((tmp_path / f"copy{number}").as_uri())
            _backed_up(source, copy)
            copies.append((before, copy))
    finally:
        stop.set()
        worker.join()

    for before, copy in copies:
        assert set(acknowledged[:before]) <= set(_runs(copy))


@pytest.mark.parametrize("name", ["blobs/x/y", ANCHOR])
def test_a_place_that_holds_something_else_is_refused(state: Store, target: Store, name: str):
    """Nothing is overwritten: not somebody's files, not a state."""
    target.create(name, b"mine")

    with pytest.raises(Conflict, match="not empty"):
        _backed_up(state, target)
    assert target.list("") == [name]


def test_a_backup_of_another_state_is_refused(state: Store, target: Store, tmp_path: Path):
    """Two states cannot share a place for their backups."""
    other = open_store((tmp_path / "other").as_uri())
    open_for_work(other, "local", 1)
    _backed_up(state, target)

    with pytest.raises(Conflict, match="backup of another state"):
        _backed_up(other, target)


class Failing:
    """A store that fails at its n-th put."""

    def __init__(self, store: Store, at: int) -> None:
        self._store = store
        self._left = at

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._store, attribute)

    def put(self, name: str, data: bytes) -> None:
        self._left -= 1
        if not self._left:
            raise StoreError("the disk is full")
        self._store.put(name, data)


@pytest.mark.parametrize("at", [2, 40, 400])
def test_a_backup_that_broke_off_is_not_restored(state: Store, target: Store, tmp_path: Path, at: int):
    """It says so; backing up again completes it."""
    failing: Any = Failing(target, at)
    with pytest.raises(StoreError, match="disk is full"):
        _backed_up(state, failing)

    with pytest.raises(NotFound, match="did not come to its end"):
        restore(target, open_store((tmp_path / "restored").as_uri()))

    _backed_up(state, target)
    assert verify(looked_into(target)).findings == []
    restore(target, open_store((tmp_path / "restored").as_uri()))


def test_restoring_needs_a_backup_and_an_empty_place(state: Store, target: Store, tmp_path: Path):
    """A state is no backup; a place with anything in it is not touched."""
    place = open_store((tmp_path / "restored").as_uri())
    with pytest.raises(NotFound, match="is no backup"):
        restore(state, place)
    _backed_up(state, target)
    place.create("here/already", b"")

    with pytest.raises(Conflict, match="not empty"):
        restore(target, place)


def test_a_backup_that_lost_an_object_is_not_restored_in_silence(state: Store, target: Store, tmp_path: Path):
    """Its head tells how many there were."""
    head = _backed_up(state, target).head
    target.delete(target.list("graphs/")[0])

    with pytest.raises(Corrupt, match=f"tells of {head.objects} objects"):
        restore(target, open_store((tmp_path / "restored").as_uri()))


def test_a_state_that_lost_a_segment_cannot_be_copied_whole(state: Store, target: Store):
    """It is said, and what is there is not taken for a backup."""
    state.delete(segment_name(0, 20))

    with pytest.raises(Corrupt, match="state verify"):
        _backed_up(state, target)
    head = read_head(target)
    assert head is not None
    assert head.finished_us == 0


def test_a_backup_goes_from_a_folder_to_a_bucket_and_back(
    state: Store, moto_s3: MotoS3Server, tmp_path: Path
):
    """Any store to any store."""
    bucket = open_store(moto_s3.create_bucket(f"backup{next(_NUMBERS)}"), options=moto_s3.options())
    place = open_store((tmp_path / "restored").as_uri())

    _backed_up(state, bucket)
    restore(bucket, place)

    assert set(place.list("")) == _copied_names(state)
    assert verify(looked_into(place)).findings == []
