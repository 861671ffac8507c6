"""What is particular to the store in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hive_ray.errors import AlreadyExists, StoreError, StoreRefused
from hive_ray.state.file_store import FileStore
from hive_ray.state.store import open_store

WAYS = [0, 1, 2]


@pytest.fixture(params=WAYS, ids=["unnamed", "linked", "renamed"])
def lesser(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """A file store on a filesystem without O_TMPFILE, and one without link(2) either."""
    refuse = OSError(errno.EOPNOTSUPP, "not supported")

    def fail(*_: object, **__: object) -> None:
        raise refuse

    if request.param >= 1:
        monkeypatch.setattr(FileStore, "_create_unnamed", fail)
    if request.param >= 2:
        monkeypatch.setattr(FileStore, "_create_linked", fail)
    return FileStore(str(tmp_path / "state"))


def test_every_way_of_creating_is_exclusive_and_leaves_no_litter(lesser: FileStore, tmp_path: Path):
    """Fallbacks keep the contract: taken names are refused, nothing but the object remains."""
    lesser.probe()
    lesser.create("j/1", b"one")

    with pytest.raises(AlreadyExists):
        lesser.create("j/1", b"two")
    assert lesser.get("j/1") == b"one"
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert files == [tmp_path / "state" / "j" / "1"]


def test_a_folder_that_takes_no_writes_is_read_with_what_writers_left_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Old temporary files stay where they are: a mounted backup is opened all the same."""
    root = str(tmp_path / "state")
    FileStore(root).put("a/1", b"one")
    litter = tmp_path / "state" / ".tmp" / "1-1-1"
    litter.write_bytes(b"")
    os.utime(litter, (0, 0))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        assert FileStore(root).get("a/1") == b"one"
    FileStore(root)
    assert not litter.exists()


def test_filesystem_without_any_exclusive_creation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No way left: the probe says so."""

    def fail(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    for way in ("_create_unnamed", "_create_linked", "_create_renamed"):
        monkeypatch.setattr(FileStore, way, fail)

    with pytest.raises(StoreRefused, match="renameat2"):
        FileStore(str(tmp_path)).probe()


def test_opening_a_store_writes_nothing(tmp_path: Path):
    """A read-only command on a mistyped path leaves no folder behind."""
    store = open_store(f"file://{tmp_path}/typo")

    assert store.list("journal/0000/") == []
    assert not (tmp_path / "typo").exists()


def test_objects_are_private(tmp_path: Path):
    """Other users of the machine can read neither folder nor file."""
    FileStore(str(tmp_path / "s")).create("a/b", b".")

    assert (tmp_path / "s" / "a" / "b").stat().st_mode & 0o077 == 0
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0


def test_old_temporary_files_go_and_young_ones_stay(tmp_path: Path):
    """A dead writer's leftovers are removed at open; a live writer's file is not taken away."""
    temp = tmp_path / ".tmp"
    temp.mkdir()
    (temp / "old").write_bytes(b"x")
    (temp / "young").write_bytes(b"x")
    os.utime(temp / "old", (1, 1))
    store = FileStore(str(tmp_path))

    assert [path.name for path in temp.iterdir()] == ["young"]
    assert store.list("") == []


def test_of_many_objects_that_go_each_folder_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever writes into the folder of the journal waits for every sync of it."""
    store = FileStore(str(tmp_path))
    names = [f"{folder}/{number}" for folder in ("a", "b") for number in range(20)]
    for name in names:
        store.create(name, b".")
    store.create("a/stays", b".")
    synced: list[int] = []
    real = os.fsync

    def counted(fd: int) -> None:
        synced.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", counted)
    store.delete(*names, "a/absent", "c/absent")

    assert store.list("") == ["a/stays"]
    assert len(synced) == 2


def test_failed_folder_sync_keeps_the_object_from_being_taken_for_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A linked name whose folder was not synced may vanish in a crash: reads fail until a sync succeeds."""
    store = FileStore(str(tmp_path))
    store.create("j/1", b"one")
    real = os.fsync

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="disk failed"):
        store.create("j/2", b"two")
    with pytest.raises(StoreError, match="disk failed"):
        store.get("j/2")
    monkeypatch.setattr(os, "fsync", real)
    assert store.get("j/2") == b"two"


_LIMITED = """
import resource, sys
from hive_ray.errors import StoreError
from hive_ray.state.file_store import FileStore
store = FileStore(sys.argv[1])
store.create("j/1", b"one")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (store.create, store.put):
    try:
        write("j/2", bytes(100_000))
        print("written")
    except StoreError as error:
        print(error)
store.create("j/2", b"small")
print(store.list(""))
"""


def test_file_size_limit_is_a_clear_error_and_leaves_nothing_half_written(tmp_path: Path):
    """EFBIG names folder and remedy; the name stays free, and smaller writes go on."""
    script = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    out = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    lines = out.stdout.splitlines()

    assert [str(tmp_path) in line and "ulimit -f" in line for line in lines[:2]] == [True, True]
    assert lines[2] == "['j/1', 'j/2']"
    assert list((tmp_path / ".tmp").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path):
    """A filesystem of 256 KiB, where mounting is permitted."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("mounting is not permitted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_full_disk_is_a_clear_error_and_writing_goes_on_once_there_is_space(small_disk: Path):
    """ENOSPC names folder and remedy; nothing is half written; the same create succeeds later."""
    store = FileStore(str(small_disk))
    store.create("j/1", bytes(150_000))

    with pytest.raises(StoreError, match=f"{small_disk}.*free some space"):
        store.create("j/2", bytes(150_000))
    assert store.list("") == ["j/1"]
    store.delete("j/1")
    store.create("j/2", bytes(150_000))
    store.close()


def test_path_through_a_file_is_a_clear_error(tmp_path: Path):
    """state.url below a plain file: the remedy is named."""
    (tmp_path / "plain").write_text("x")
    store = FileStore(str(tmp_path / "plain"))

    with pytest.raises(StoreError, match=r"point state\.url at a folder"):
        store.create("j/1", b".")


def test_many_folders_do_not_exhaust_file_handles(tmp_path: Path):
    """Folders beyond the held ones are opened for each use only."""
    store = FileStore(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(150):
        store.create(f"blobs/run-{number}/x", b".")

    assert len(os.listdir("/proc/self/fd")) <= before + 65
    store.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(("operation", "naming"), [("create", "link"), ("put", "rename")])
def test_data_is_synced_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, naming: str
):
    """The order of system calls is what a power failure leaves whole."""
    store = FileStore(str(tmp_path))
    store.create("j/0", b".")
    store.put("j/00", b".")
    calls: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("fdatasync", "link", "rename", "fsync"):
        watch(name)
    getattr(store, operation)("j/1", b"one")

    assert calls == ["fdatasync", naming, "fsync"]


def test_a_store_is_probed_again_though_its_probes_folder_went(tmp_path: Path):
    """A recovery that broke behind the probe begins with it again; so does that of another controller."""
    store, other = (open_store(tmp_path.as_uri()) for _ in range(2))
    for one in (store, store, other, store):
        one.probe()
    store.create("probe/held", b"")
    shutil.rmtree(tmp_path / "probe")
    with suppress(StoreError):
        store.probe()
    store.probe()
