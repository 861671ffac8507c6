"""The process that compacts beside a busy controller: what it does, and when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hive_ray.config import Settings
from hive_ray.control.historian import Historian
from hive_ray.control.io import Io, attempt
from hive_ray.control.keeping import HERE_AGAIN_US, KEEP_US, Keeper
from hive_ray.errors import StoreError
from hive_ray.state.compaction import Stamp
from hive_ray.state.content import PlainCodec
from hive_ray.state.history import HistoryManifest, newest_manifest
from hive_ray.state.memory_store import MemoryStore
from hive_ray.state.pieces import Piece, pieces_of
from hive_ray.state.retention import Retention
from hive_ray.state.store import Store, open_store
from tests.control.parking_test import kept_engine
from tests.state.compaction_test import covered, lived, rows_of

SECOND_US = 1_000_000
PATIENCE_S = 60.0
BEGIN = Piece(HistoryManifest(0), Stamp(7, 1, 1))


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    latest = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True


def settings(folder: Path) -> bytes:
    return Settings.model_validate({"state": {"url": f"file://{folder}/state"}}).model_dump_json().encode()


@pytest.fixture
def state(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/state")


def test_another_process_compacts_as_this_one_would(state: Store, tmp_path: Path):
    """No event is lost on the way, and its manifest is the newest one."""
    driver = lived(state)
    before, most = rows_of(state), covered(driver)
    historian = Historian(settings(tmp_path), 0)

    manifest = historian.compact(BEGIN)
    historian.dismiss()

    assert manifest.covered == most
    assert newest_manifest(state, 0) == manifest
    assert rows_of(state) == before


def test_a_process_that_was_killed_is_followed_by_another(state: Store, tmp_path: Path):
    """Whoever asked is told that nobody knows what became of its piece; dismissed processes are gone."""
    lived(state)
    historian = Historian(settings(tmp_path), 0)
    manifest = historian.compact(BEGIN)
    first = historian.pid
    os.kill(first, signal.SIGKILL)

    with pytest.raises(StoreError, match="broke"):
        historian.compact(Piece(manifest, Stamp(7, 2, 1)))
    assert historian.compact(Piece(manifest, Stamp(7, 3, 1), in_doubt=True)) == manifest
    second = historian.pid
    historian.dismiss()

    assert first != second
    assert is_gone(first)
    assert is_gone(second)


def test_it_runs_on_what_the_machine_has_left_over(state: Store, tmp_path: Path):
    """In the session of its controller: between sessions, Linux shares the processor evenly."""
    lived(state)
    historian = Historian(settings(tmp_path), 0)
    historian.compact(BEGIN)
    pid = historian.pid

    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    if sys.platform == "linux":
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    historian.dismiss()


def test_it_ends_with_its_controller(state: Store, tmp_path: Path):
    """Even if that is killed. What the settings say is in neither its arguments nor its environment."""
    lived(state)
    (tmp_path / "settings").write_bytes(settings(tmp_path))
    script = (
        "import sys, time\n"
        "from hive_ray.control.historian import Historian\n"
        "from tests.control.historian_test import BEGIN\n"
        "historian = Historian(open(sys.argv[1], 'rb').read(), 0)\n"
        "historian.compact(BEGIN)\n"
        "print(historian.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "settings")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        parent.kill()

    assert f"{tmp_path}/state".encode() not in shown
    until(lambda: is_gone(pid))


def test_a_store_that_fails_is_told_as_such(tmp_path: Path):
    """The process stays: it is not its fault."""
    state = open_store(f"file://{tmp_path}/state")
    lived(state)
    (tmp_path / "state" / "manifests").write_text("no folder")
    historian = Historian(settings(tmp_path), 0)

    with pytest.raises(StoreError, match="manifests"):
        historian.compact(BEGIN)
    assert not is_gone(historian.pid)
    historian.dismiss()


class Recorder:
    """Stands for the other process: it gives the manifest back, or breaks."""

    def __init__(self) -> None:
        self.asked: list[Piece] = []
        self.dismissed = 0
        self.breaks = False

    def compact(self, piece: Piece) -> HistoryManifest:
        self.asked.append(piece)
        if self.breaks:
            raise StoreError("killed")
        return piece.manifest

    def dismiss(self) -> None:
        self.dismissed += 1


class Busy:
    """A shell under load, and the keeper of its history."""

    def __init__(self) -> None:
        self.ios: list[Io] = []
        self.apart = Recorder()
        self.shell: Any = SimpleNamespace(
            mono_us=100 * SECOND_US,
            wall_us=0,
            durable_seq=0,
            journal=SimpleNamespace(number=1),
            do=self.ios.append,
            history_grew=lambda manifest: None,  # pyright: ignore[reportUnknownLambdaType]
            live_run_ids=list,
            engine=kept_engine(),
        )
        store = MemoryStore("historian")
        pieces = pieces_of(store, 0, PlainCodec())
        self.keeper = Keeper(store, pieces, Retention(), HistoryManifest(0), self.apart)
        self.ticks(2)

    def ticks(self, count: int) -> list[str]:
        """Ticks a second apart, with what they ask for done; names what that was."""
        done: list[str] = []
        for _ in range(count):
            self.keeper.advance(self.shell)
            while self.ios:
                io = self.ios.pop()
                done.append(io.what)
                io.then(attempt(io))
            self.shell.mono_us += SECOND_US
        return done

    def decide(self, events: int) -> None:
        self.shell.durable_seq += events
        self.shell.mono_us += SECOND_US

    def snapshot(self) -> None:
        self.keeper.snapshot_taken()


def test_a_busy_controller_has_another_process_compact_and_a_quiet_one_does_it_itself():
    """The other process is kept for a minute."""
    busy = Busy()
    busy.decide(100_000)
    busy.snapshot()
    busy.ticks(2)
    assert len(busy.apart.asked) == 1

    busy.shell.mono_us += KEEP_US
    busy.snapshot()
    done = busy.ticks(2)
    assert len(busy.apart.asked) == 1
    assert busy.apart.dismissed == 1
    assert done == ["compact the journal", "dismiss the historian"]


def test_where_that_process_broke_the_history_waits_for_a_while():
    """It gives way to the load again, and is in doubt about what the process left behind."""
    busy = Busy()
    busy.decide(100_000)
    busy.snapshot()
    busy.apart.breaks = True
    assert busy.ticks(1) == ["compact the journal"]
    busy.decide(100_000)
    busy.decide(100_000)
    assert busy.ticks(1) == []

    busy.apart.breaks = False
    busy.shell.mono_us += HERE_AGAIN_US
    busy.decide(10_000_000)
    assert busy.ticks(1) == ["compact the journal"]
    assert [piece.in_doubt for piece in busy.apart.asked] == [False, True]
