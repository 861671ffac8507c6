"""Starting a supervisor in a process session of its own, without Ray in this process.

The supervisor says one line on a pipe: where it is, or why it does not start.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from hive_ray.config import API_KEY_VARIABLE
from hive_ray.control.record import TOKEN_VARIABLE, Place, Record, end_carriers
from hive_ray.errors import ConfigError, Conflict, Fault, HiveError, KeysRefused, Unavailable

START_TIMEOUT_S = 120.0
SUPERVISOR = "serve.supervisor"


class UpOptions(msgspec.Struct, frozen=True):
    """How an installation is to be started.

    Attributes:
        address: of a running cluster to join; empty starts a local head.
        port: instead of ``http.port``; -1 means any free one.
        idle_exit_s: seconds without work after which it ends by itself; 0 never.
        modules: tool modules besides those of ``hive.yaml``.
        admin_key: make an admin key, whether or not there is one.
    """

    config: str = ""
    address: str = ""
    port: int = 0
    take_over: bool = False
    idle_exit_s: float = 0.0
    ha_proxy: bool | None = None
    modules: tuple[str, ...] = ()
    admin_key: bool = False


class Said(msgspec.Struct, frozen=True):
    """The supervisor's one line."""

    record: Record | None = None
    problem: str = ""
    faults: tuple[tuple[str, str, str], ...] = ()
    kind: str = ""


def launch(place: Place, options: UpOptions, timeout_s: float = START_TIMEOUT_S) -> Record:
    """Start an installation and wait until it is ready.

    Raises:
        ConfigError: what it was told is wrong; names the key.
        Conflict: one runs here already.
        Unavailable: something that it needs does not answer.
    """
    token = secrets.token_hex(16)
    reading, writing = os.pipe()
    argv = [sys.executable, "-P", "-m", SUPERVISOR, str(place.folder), str(writing)]
    process = subprocess.Popen(
        [*argv, msgspec.json.encode(options).decode()],
        cwd=place.folder,
        env=_environment(token),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        line = _first_line(reading, timeout_s)
    finally:
        os.close(reading)
    if not line:
        process.kill()
        process.wait()
        end_carriers(token)
        raise Unavailable(f"the supervisor ended without a word; see {place.log}")
    return _result(msgspec.json.decode(line, type=Said), process)


def _environment(token: str) -> dict[str, str]:
    """Ray's processes inherit it: the key of whoever calls `up` is not for the tools that run there."""
    inherited = {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE}
    return {**inherited, TOKEN_VARIABLE: token}


def _first_line(reading: int, timeout_s: float) -> bytes:
    until = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        chunk = os.read(reading, 65536) if ready else b""
        if not chunk:
            return b""
        data += chunk
    return data


def _result(said: Said, process: subprocess.Popen[bytes]) -> Record:
    if said.record is not None:
        return said.record
    process.wait()
    raise _error(said)


def _error(said: Said) -> HiveError:
    match said.kind:
        case "ConfigError":
            return ConfigError(said.problem, [Fault(*fault) for fault in said.faults])
        case "Conflict":
            return Conflict(said.problem)
        case "KeysRefused":
            return KeysRefused(said.problem)
        case _:
            return Unavailable(said.problem)


def say(writing: int, said: Said) -> None:
    """The supervisor's side: one line, then the pipe is closed."""
    os.write(writing, msgspec.json.encode(said) + b"\n")
    os.close(writing)


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def absolute(path: Path | None) -> str:
    return str(path.resolve()) if path else ""
