"""A process that compacts beside a busy controller, which keeps its interpreter to itself.

It is a child of the controller's process, on what the machine has left over, and talks with it through its
standard input and output: frames of a length and msgpack. The first frame holds the settings; keys it finds
by them as every process does, so none is ever handed over. When its input ends, because it was dismissed or
its controller is gone, it ends too, within a piece as well: whatever a piece leaves half done is harmless.
"""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO

import msgspec

from hive_ray.config import Settings
from hive_ray.errors import HiveError, StoreError
from hive_ray.observe.logging import configure
from hive_ray.state.access import content_codec, open_keyring, open_state
from hive_ray.state.history import HistoryManifest
from hive_ray.state.pieces import Piece, pieces_of

LENGTH_BYTES = 4
NICE = 19
MOST_S = 600.0
"""A piece that takes longer will never end: its process was stopped, or its store does not answer."""
END_S = 5.0
"""How long a historian may take to end before it is killed."""


class Compacted(msgspec.Struct, frozen=True):
    """What a historian answers: the manifest, or why there is none."""

    manifest: HistoryManifest | None = None
    error: str = ""


class Historian:
    """The controller's side; one call at a time, each blocks.

    Args:
        settings: as JSON.
    """

    def __init__(self, settings: bytes, partition: int) -> None:
        self._settings = settings
        self._partition = partition
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """0: there is none now."""
        return self._process.pid if self._process is not None else 0

    def compact(self, piece: Piece) -> HistoryManifest:
        """Have one piece compacted; begins a process if there is none.

        Raises:
            StoreError: it was not compacted, or nobody knows.
        """
        try:
            compacted = self._ask(self._running(), piece)
        except (OSError, msgspec.MsgspecError) as error:
            self.dismiss()
            raise StoreError(f"the process that compacts the journal broke: {error}") from error
        if compacted.manifest is None:
            raise StoreError(compacted.error)
        return compacted.manifest

    def _ask(self, process: subprocess.Popen[bytes], piece: Piece) -> Compacted:
        assert process.stdin is not None and process.stdout is not None
        _send(process.stdin, _encode(piece))
        if not select.select([process.stdout], [], [], MOST_S)[0]:
            raise OSError(f"no answer in {MOST_S:g} s")
        answer = _receive(process.stdout)
        if answer is None:
            raise OSError(f"it ended with status {process.wait(END_S)}")
        return _decode_compacted(answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", "hive_ray.control.historian", str(self._partition)]
            # Where this process found the package and what it was configured with: Ray adds to both.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            pipe = subprocess.PIPE
            # In a group of its own for signals, but no session: Linux shares the processor between sessions
            # first, and what is nice to another is not nice to this one (sched(7), autogroup).
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, env=environment, process_group=0
            )
            _give_way(self._process.pid)
            assert self._process.stdin is not None
            _send(self._process.stdin, self._settings)
        return self._process

    def dismiss(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _give_way(pid: int) -> None:
    """Have a process that just began run on what is left over, its second of imports too.

    Where Linux has it, as SCHED_IDLE: a nice process is still let finish its slice of 4 ms.
    """
    os.setpriority(os.PRIO_PROCESS, pid, NICE)
    if sys.platform == "linux":
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next frame; None at the end."""
    head = pipe.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "big")
    data = pipe.read(size)
    return data if len(data) == size else None


_encode = msgspec.msgpack.Encoder().encode
_decode_compacted = msgspec.msgpack.Decoder(Compacted).decode
_decode_piece = msgspec.msgpack.Decoder(Piece).decode


# --- the process ---------------------------------------------------------------------------------


def _hear(pipe: IO[bytes], asked: queue.SimpleQueue[bytes]) -> None:
    while (data := _receive(pipe)) is not None:
        asked.put(data)
    os._exit(0)


def main() -> None:
    """Compact what is asked for until nobody asks any more."""
    # Whatever a library prints must not stand between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings_json = _receive(sys.stdin.buffer)
    if settings_json is None:
        return
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(sys.stdin.buffer, asked), daemon=True).start()
    partition = int(sys.argv[1])
    settings = Settings.model_validate_json(settings_json)
    configure(settings, f"historian/{partition}")
    store = open_state(settings)
    pieces = pieces_of(store, partition, content_codec(settings, open_keyring(settings, store)))
    while True:
        piece = _decode_piece(asked.get())
        try:
            compacted = Compacted(pieces.compact(piece))
        except (HiveError, OSError) as error:
            compacted = Compacted(error=str(error))
        _send(answers, _encode(compacted))


if __name__ == "__main__":
    main()
