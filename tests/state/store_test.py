"""One contract for the file, memory and object stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hive_ray.errors import AlreadyExists, ConfigError, ObjectMissing, StoreError, StoreRefused
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.store import Store, open_store, probe_create_if_absent
from tests.state.faults import S3_OPTIONS, once


def test_what_is_created_is_read_back_by_another_store(opener: Callable[[], Store]):
    """Bytes are the same, whoever opens the state."""
    opener().create("a/b.bin", b"\x00\xff" * 1000)

    assert opener().get("a/b.bin") == b"\x00\xff" * 1000


def test_second_create_is_refused_and_changes_nothing(store: Store):
    """Create-if-absent holds one after the other."""
    store.create("a/b", b"first")

    with pytest.raises(AlreadyExists, match="a/b"):
        store.create("a/b", b"second")
    assert store.get("a/b") == b"first"


def test_of_16_concurrent_creates_exactly_one_wins(opener: Callable[[], Store]):
    """Create-if-absent holds in a race; the loser's bytes appear nowhere."""
    stores = [opener() for _ in range(16)]

    def attempt(number: int) -> int | None:
        try:
            stores[number].create("race/x", b"%d" % number)
        except AlreadyExists:
            return None
        return number

    for _ in range(5):
        with ThreadPoolExecutor(16) as pool:
            winners = [number for number in pool.map(attempt, range(16)) if number is not None]
        assert len(winners) == 1
        assert stores[0].get("race/x") == b"%d" % winners[0]
        stores[0].delete("race/x")


def test_create_and_put_beyond_a_multipart_chunk_are_whole_and_conditional(store: Store):
    """Large objects obey create-if-absent too."""
    data = bytes(6 * 1024 * 1024)
    store.create("large", data)

    with pytest.raises(AlreadyExists):
        store.create("large", b"x" + data)
    assert store.get("large") == data


def test_put_replaces(store: Store):
    """The last put is what is read."""
    store.put("a/h", b"one")
    store.put("a/h", b"two")

    assert store.get("a/h") == b"two"


def test_absent_object_is_missing_by_name(store: Store):
    """The error names the object."""
    with pytest.raises(ObjectMissing, match="a/none"):
        store.get("a/none")


def test_range_is_exact_or_an_error(store: Store):
    """A short read is never handed out."""
    store.create("r", b"0123456789")

    assert store.get_range("r", 3, 4) == b"3456"
    with pytest.raises(StoreError):
        store.get_range("r", 8, 4)


def test_list_is_sorted_below_one_folder_and_behind_a_name(store: Store):
    """Neither neighbours nor the name itself are listed."""
    for name in ("j/0001/c", "j/0001/a", "j/0001/b", "j/0001.heartbeat", "j/00012/x", "k"):
        store.create(name, b".")

    assert store.list("j/0001/") == ["j/0001/a", "j/0001/b", "j/0001/c"]
    assert store.list("j/0001/", after="j/0001/a") == ["j/0001/b", "j/0001/c"]
    assert len(store.list("")) == 6
    assert store.list("nothing/") == []


def test_delete_is_final_and_repeatable(store: Store):
    """Deleting what is absent is no error."""
    store.create("a/d", b".")
    store.delete("a/d")
    store.delete("a/d")

    assert store.list("") == []


def test_probe_passes_and_leaves_nothing_behind(store: Store):
    """A good store is unchanged by its probe."""
    store.probe()

    assert store.list("") == []


class Overwriting(MemoryStore):
    """A store that ignores create-if-absent."""

    def create(self, name: str, data: bytes) -> None:
        self.put(name, data)


class Forgetful(MemoryStore):
    """A store that says it wrote."""

    def create(self, name: str, data: bytes) -> None:
        if self.list("lost/"):
            raise AlreadyExists(name)
        super().create("lost/x", data)


class Lying(MemoryStore):
    """A store that refuses the second create and writes it all the same."""

    def create(self, name: str, data: bytes) -> None:
        there = name in self.list("")
        self.put(name, data)
        if there:
            raise AlreadyExists(name)


@pytest.mark.parametrize("kind", [Overwriting, Forgetful, Lying])
def test_store_that_cannot_carry_a_journal_is_refused(kind: type[MemoryStore]):
    """The probe sees a second create that is let through, and a write that is gone."""
    bad = kind("refused")

    with pytest.raises(StoreRefused, match="memory://refused"):
        bad.probe()
    assert bad.list("probe/") == []
    forget_memory("refused")


def test_unreachable_store_is_refused_by_the_probe_with_the_cause():
    """The probe's refusal carries what the store said."""
    store = MemoryStore("down", before=once("create", StoreError("connection refused")))

    with pytest.raises(StoreRefused, match="connection refused"):
        probe_create_if_absent(store)
    forget_memory("down")


@pytest.mark.parametrize("name", ["../x", "a/../b", "/a", "a//b", "a/", "", ".tmp/x", "a/.hidden", "a\nb"])
def test_names_that_leave_the_root_are_a_bug(store: Store, name: str):
    """No operation follows a name out of the store or into its hidden files."""
    for operation in (store.get, store.delete, lambda n: store.create(n, b""), lambda n: store.put(n, b"")):
        with pytest.raises(ValueError, match="object name"):
            operation(name)


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "state", "", "file://relative/x", "file://", "s3://", "s3:///x", "memory://"]
)
def test_unusable_url_is_refused_by_its_key(url: str):
    """The error names state.url and says what would be right."""
    with pytest.raises(ConfigError, match=r"state\.url.*://"):
        open_store(url)


def test_unknown_option_is_refused():
    """A misspelt option is not ignored."""
    with pytest.raises(ConfigError, match="end_point"):
        open_store("s3://bucket/x", options={"end_point": "http://127.0.0.1:1"})
    with pytest.raises(ConfigError, match=r"state\.region"):
        open_store("memory://x", options={"region": "r"})


@pytest.mark.parametrize("url", ["gs://bucket/x", "az://container/x"])
def test_clouds_open_without_a_request(url: str):
    """Opening sends nothing, so bad credentials show at the probe."""
    options = {"az": {"account_name": "a", "account_key": "YQ=="}, "gs": {"skip_signature": "true"}}

    assert open_store(url, options=options[url[:2]]).inline is False


def test_unreachable_s3_is_a_store_error_within_its_deadline():
    """Connection refused: no hang, and the message names url and remedy."""
    store = open_store("s3://state/x", options={**S3_OPTIONS, "endpoint": "http://127.0.0.1:9"})

    with pytest.raises(StoreError, match=r"s3://state/x/a.*endpoint"):
        store.get("a")


def test_s3_without_the_bucket_is_a_store_error_and_refused(s3_endpoint: str):
    """A missing bucket does not look like a missing object at start-up."""
    store = open_store("s3://nobucket/x", options={**S3_OPTIONS, "endpoint": s3_endpoint})

    with pytest.raises(StoreRefused):
        store.probe()


_CREATE = """
import sys
from hive_ray.errors import AlreadyExists
from hive_ray.state.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    try:
        store.create(f"race/{number:04d}", sys.argv[2].encode())
        print(number)
    except AlreadyExists:
        pass
"""


def test_racing_processes_win_each_file_once(tmp_path: Path):
    """Across processes, 200 names have 200 winners in all, and each file holds its winner's bytes."""
    url = f"file://{tmp_path}/state"
    command = [sys.executable, "-c", _CREATE, url]
    racers = [
        subprocess.Popen(
            [*command, f"p{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    wins = [racer.communicate(timeout=60)[0].split() for racer in racers]

    assert sorted(int(number) for won in wins for number in won) == list(range(200))
    store = open_store(url)
    for number, won in enumerate(wins):
        assert all(store.get(f"race/{int(name):04d}") == b"p%d" % number for name in won)
    store.close()
