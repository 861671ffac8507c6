"""The record of a running installation: ``.hive/up.json`` next to ``hive.yaml``, and who may write it.

Whoever runs an installation holds a lock on ``.hive/up.lock`` for as long as it lives, so that the record
of a killed one is told from a living one. Every process of an installation carries its token in its
environment: what a killed supervisor left behind is found by it, and nobody else's process ever is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hive_ray import config
from hive_ray.errors import ConfigError, Conflict, Fault
from hive_ray.state.owner import process_start

TOKEN_VARIABLE = "HIVE_RAY_UP"
"""Carries the installation's token."""
END_S = 30.0
"""How long a supervisor may take to end by itself."""
_POLL_S = 0.05


class Record(msgspec.Struct, frozen=True):
    """Where a running installation is.

    Attributes:
        start: the supervisor's start in clock ticks after boot: a reused pid is not mistaken for it.
        ray_address: of the cluster's GCS; ``dashboard_url`` is where ``ray job submit`` connects.
        joined: the cluster was there before and stays.
    """

    token: str
    pid: int
    start: int
    url: str = ""
    ray_address: str = ""
    dashboard_url: str = ""
    cluster: str = ""
    controller_pid: int = 0
    epoch: int = 0
    joined: bool = False
    config: str = ""
    log: str = ""
    started_at_us: int = 0
    temporary: tuple[str, ...] = ()
    """Folders that end with it: secrets handed over, sockets."""
    admin_key_file: str = ""
    """Holds an admin key that this start made; empty if it made none."""


class Place:
    """The folder of one installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hive = folder / ".hive"
        self.log = self.hive / "log" / "supervisor.log"
        self.admin_key = self.hive / "admin.key"
        """API key of whoever owns this folder, if `up` made one."""
        self._record = self.hive / "up.json"
        self._lock = self.hive / "up.lock"

    def lock(self) -> int | None:
        """Take the lock: a file descriptor to keep open, or None if a living process has it."""
        self.hive.mkdir(parents=True, exist_ok=True)
        held = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        return held

    def write(self, record: Record) -> None:
        """Replace the record at once."""
        draft = self._record.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        draft.chmod(0o600)
        draft.replace(self._record)

    def read(self) -> Record | None:
        """The record that is there, of a living installation or a killed one."""
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except msgspec.MsgspecError as error:
            fault = Fault(str(self._record), f"is not a record: {error}", "remove this file")
            raise ConfigError("record", [fault]) from error

    def running(self) -> Record | None:
        """The record of a living installation."""
        record = self.read()
        return record if record is not None and is_alive(record.pid, record.start) else None

    def forget(self) -> None:
        self._record.unlink(missing_ok=True)


def place_of(file: Path | None = None) -> Place:
    """The installation of a configuration file, or of the current folder."""
    found = file or config.locate()
    return Place((found.resolve().parent if found else Path.cwd()).resolve())


def refuse_second(place: Place) -> Conflict:
    """What to say when a living process holds the lock."""
    record = place.read()
    if record is None:
        return Conflict(f"{place.hive}: another `up` is starting here; wait for it")
    where = f"at {record.url}" if record.url else "and is starting"
    return Conflict(
        f"{place.hive}: hive-ray runs here already (process {record.pid}) {where}; use it, or end it "
        "with `hive-ray down`"
    )


def is_alive(pid: int, start: int) -> bool:
    """Whether that very process still runs."""
    return pid > 0 and process_start(pid) == start


def carriers(token: str) -> Iterator[int]:
    """Processes of an installation, as far as this user may look."""
    mark = f"{TOKEN_VARIABLE}={token}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:
            # Ended meanwhile, or somebody else's.
            continue


def end_carriers(token: str, timeout_s: float = 10.0) -> int:
    """End every process of an installation; returns how many there were."""
    found: set[int] = set()
    until = time.monotonic() + timeout_s
    while living := [pid for pid in carriers(token) if process_start(pid) is not None]:
        for pid in living:
            _signal(pid, signal.SIGKILL)
        found.update(living)
        if time.monotonic() > until:
            break
        time.sleep(_POLL_S)
    return len(found)


def end(place: Place, timeout_s: float = END_S) -> Record | None:
    """End the installation of a place, or what a killed one left behind; returns what it was."""
    record = place.read()
    if record is None:
        return None
    if is_alive(record.pid, record.start):
        _signal(record.pid, signal.SIGTERM)
        until = time.monotonic() + timeout_s
        while is_alive(record.pid, record.start) and time.monotonic() < until:
            time.sleep(_POLL_S)
    clean(place, record)
    return record


def left_behind(record: Record) -> str:
    """What a killed supervisor leaves on a cluster that is not ours to end, and how to end it; or nothing."""
    if not record.joined or not record.ray_address:
        return ""
    again = shlex.join(["hive-ray", "up", "--address", record.ray_address])
    return (
        f"its supervisor was killed, so its controller and workers are still on the Ray cluster "
        f"{record.ray_address}, which it had joined. End them with: {again} && hive-ray down (in the "
        "environment of the first `up`: a cluster with a token needs RAY_AUTH_MODE and its token there)"
    )


def clean(place: Place, record: Record) -> None:
    """Remove every trace of an installation that ended."""
    end_carriers(record.token)
    for folder in record.temporary:
        shutil.rmtree(folder, ignore_errors=True)
    place.forget()


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
