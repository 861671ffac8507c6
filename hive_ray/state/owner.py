"""Who owns a journal: the process that wrote its newest epoch record, and whether it is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

STALE_AFTER_S = 20.0
HEARTBEAT_S = 5.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Owner(msgspec.Struct, frozen=True):
    """A controller's process, named so that another one can tell whether it ended.

    Attributes:
        node: the Ray node it runs on.
        boot_id: the kernel's name for this boot; with ``host`` it says whose pids these are.
        process_start: start time in clock ticks after boot, so that a reused pid is not mistaken for it.
        cluster: the Ray cluster it belongs to.
        started_at_us: wall clock, Unix microseconds.
    """

    pid: int
    node: str
    host: str
    boot_id: str
    process_start: int
    cluster: str
    started_at_us: int


class OwnerState(msgspec.Struct, frozen=True):
    """What the store tells about the newest owner.

    Attributes:
        number: the newest segment that was seen.
        seen_at_us: its newest sign of life, Unix microseconds by its own clock.
    """

    epoch: int
    owner: Owner
    number: int
    seen_at_us: int

    def may_be_replaced(self, now_us: int, stale_s: float = STALE_AFTER_S) -> bool:
        """Whether the owner's process ended or its signs of life are older than ``stale_s``."""
        return process_is_gone(self.owner) is True or now_us - self.seen_at_us > stale_s * 1e6


def this_process(node: str, cluster: str, now_us: int) -> Owner:
    """Describe the calling process."""
    pid = os.getpid()
    start = process_start(pid)
    return Owner(pid, node, socket.gethostname(), _boot_id(), start or 0, cluster, now_us)


def process_is_gone(owner: Owner) -> bool | None:
    """Whether an owner's process ended; None if that cannot be seen from this host."""
    if owner.host != socket.gethostname():
        return None
    if owner.boot_id != _boot_id():
        return True
    return process_start(owner.pid) != owner.process_start


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def process_start(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (see proc(5)), or None for a process that ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
