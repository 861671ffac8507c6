"""A state knows whose it is and where; a copy of it is not worked on until somebody adopts it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hive_ray.errors import Corrupt, StateRefused
from hive_ray.state import lineage
from hive_ray.state.lineage import ANCHOR, LINEAGE, adopt, open_for_work, read_lineage, standing
from hive_ray.state.memory_store import forget_memory
from hive_ray.state.store import Store, open_store

NOW_US = 1_700_000_000_000_000


def _folder(path: Path) -> Store:
    return open_store(path.as_uri())


@pytest.fixture
def state(tmp_path: Path) -> Store:
    store = _folder(tmp_path / "state")
    open_for_work(store, "production", NOW_US)
    return store


def _read_only(store: Store) -> str:
    found = standing(store)
    assert found is not None
    return found.read_only


def test_the_first_opening_names_the_state(tmp_path: Path):
    """Id, environment, place and time; a second opening finds the same."""
    store = _folder(tmp_path / "state")

    first = open_for_work(store, "production", NOW_US)

    assert (first.identity.environment, first.identity.url) == ("production", store.url)
    assert first.identity.since_us == NOW_US
    assert open_for_work(store, "production", NOW_US + 1) == first == read_lineage(store)


def test_two_controllers_that_open_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The loser of the race takes what the winner wrote."""
    store = _folder(tmp_path / "state")
    winner: list[lineage.Lineage] = []
    identity = lineage._identity

    def raced(store: Store, environment: str, now_us: int) -> lineage.Identity:
        monkeypatch.setattr(lineage, "_identity", identity)
        winner.append(open_for_work(_folder(tmp_path / "state"), environment, now_us))
        return identity(store, environment, now_us)

    monkeypatch.setattr(lineage, "_identity", raced)

    assert open_for_work(store, "production", NOW_US) == winner[0]


def test_another_environment_is_refused_by_both_names(state: Store):
    """Staging does not open production's state, and is told which setting to look at."""
    with pytest.raises(StateRefused, match=r"'production'.*'staging'.*`environment`.*`state.url`"):
        open_for_work(state, "staging", NOW_US)


def test_a_copied_folder_is_read_only(state: Store, tmp_path: Path):
    """Even by ``cp -a``, which keeps times and names; the message says of what it is a copy."""
    shutil.copytree(tmp_path / "state", tmp_path / "copy", copy_function=shutil.copy2)
    copy = _folder(tmp_path / "copy")

    with pytest.raises(StateRefused, match=r"copy is read-only: it is a copy of .*state.*state adopt"):
        open_for_work(copy, "production", NOW_US)
    assert _read_only(state) == ""


def test_a_copy_that_took_the_place_of_its_original_is_read_only(state: Store, tmp_path: Path):
    """The same URL does not make it the same state."""
    shutil.copytree(tmp_path / "state", tmp_path / "copy", copy_function=shutil.copy2)
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "copy").rename(tmp_path / "state")

    with pytest.raises(StateRefused, match="it is a copy of"):
        open_for_work(_folder(tmp_path / "state"), "production", NOW_US)


def test_a_folder_that_moved_is_the_same_state(state: Store, tmp_path: Path):
    """Renamed, or mounted at another path: nothing was copied."""
    (tmp_path / "state").rename(tmp_path / "moved")

    assert open_for_work(_folder(tmp_path / "moved"), "production", NOW_US).identity.url == state.url


def test_without_times_of_birth_the_url_tells_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Filesystems that keep none are treated as object stores are."""
    monkeypatch.setattr(lineage, "file_identity", lambda path: "")
    open_for_work(_folder(tmp_path / "state"), "production", NOW_US)
    shutil.copytree(tmp_path / "state", tmp_path / "copy")

    assert _read_only(_folder(tmp_path / "state")) == ""
    assert "it is a copy of" in _read_only(_folder(tmp_path / "copy"))


def test_objects_copied_to_another_bucket_are_read_only():
    """In object stores the URL is the place."""
    original, copy = open_store("memory://original"), open_store("memory://copy")
    open_for_work(original, "production", NOW_US)
    for name in original.list(""):
        copy.create(name, original.get(name))

    assert _read_only(original) == ""
    assert _read_only(copy) == "it is a copy of memory://original"
    forget_memory("original")
    forget_memory("copy")


def test_without_its_anchor_a_state_is_a_restored_backup(state: Store):
    """Backups leave the anchor out."""
    state.delete(ANCHOR)

    with pytest.raises(StateRefused, match="restored from a backup of"):
        open_for_work(state, "production", NOW_US)


def test_an_adopted_copy_has_an_identity_of_its_own(state: Store, tmp_path: Path):
    """With the old one as its parent; then it opens, and the original still does."""
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    copy = _folder(tmp_path / "copy")

    adopted = adopt(copy, "staging", NOW_US + 5)

    original = read_lineage(state)
    assert original is not None
    assert adopted.ancestors == (original.identity,)
    assert adopted.identity.id != original.identity.id
    assert open_for_work(copy, "staging", NOW_US) == adopted
    assert open_for_work(state, "production", NOW_US) == original


def test_a_copy_of_an_adopted_state_is_a_copy_again(state: Store, tmp_path: Path):
    """The new anchor is born at its adoption, not at its parent's creation."""
    adopt(state, "production", NOW_US)
    shutil.copytree(tmp_path / "state", tmp_path / "copy", copy_function=shutil.copy2)

    assert _read_only(state) == ""
    assert "it is a copy of" in _read_only(_folder(tmp_path / "copy"))


def test_a_crash_in_the_middle_of_an_adoption_leaves_the_copy_read_only(state: Store, tmp_path: Path):
    """The new anchor stands, the old lineage too: they do not belong together."""
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    copy = _folder(tmp_path / "copy")
    old = copy.get(LINEAGE)
    adopt(copy, "production", NOW_US)
    copy.put(LINEAGE, old)

    assert "belongs to another state" in _read_only(copy)


@pytest.mark.parametrize("data", [b"{}", b"no json", b'{"format": 1}'])
def test_a_damaged_lineage_stops_by_name(state: Store, data: bytes):
    """Nothing is guessed about whose state it is."""
    state.put(LINEAGE, data)

    with pytest.raises(Corrupt, match="lineage: no lineage"):
        open_for_work(state, "production", NOW_US)


def test_a_lineage_of_the_future_is_refused(state: Store):
    """By its format, before anything else is read from it."""
    state.put(LINEAGE, b'{"format": 2, "identity": 7}')

    with pytest.raises(Corrupt, match=r"newer release \(format 2, this one reads 1\)"):
        open_for_work(state, "production", NOW_US)
