"""A server in a process of its own: started, awaited until it answers, ended by its process group."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REPO = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
NODE_SCRIPTS = Path(__file__).parent / "node_modules" / ".bin"

START_TIMEOUT_S = 60.0
_POLL_S = 0.02
# Below Linux's and macOS's ephemeral ports, above those of Ray's workers.
_PORTS = range(20_000, 32_000)


class ServerProcess:
    """A running program. ``log`` holds what it printed."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                argv,
                cwd=REPO,
                env={**os.environ, **_path_with_node(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self, ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until ``ready()``; end the process and show its log when it dies or takes too long."""
        try:
            wait_until(lambda: self._alive() and ready(), timeout_s)
        except (TimeoutError, ChildProcessError) as error:
            self.close()
            raise RuntimeError(f"server did not start: {error}\n{self.log.read_text('utf-8')}") from error

    def _alive(self) -> bool:
        if self._process.poll() is not None:
            raise ChildProcessError(f"exit code {self._process.returncode}")
        return True

    def close(self) -> None:
        """End the process and its children; does nothing when it has ended already."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _path_with_node() -> dict[str, str]:
    """The npm servers start with ``env node``: the Node.js of .venv comes first."""
    return {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"}


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return as soon as the condition holds.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"condition did not hold within {timeout_s:g} s")
        time.sleep(_POLL_S)


def free_port() -> int:
    """A port on loopback that nobody listens on now, and that no outgoing connection will be given.

    The system takes ports of connections from its ephemeral range, also between this call and the moment
    when a server is told to listen; Ray's workers listen from 10002 to 19999.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", secrets.choice(_PORTS)))
            return probe.getsockname()[1]


def accepts(port: int) -> bool:
    """Whether somebody listens on that port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
