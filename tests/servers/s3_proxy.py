"""A proxy before an S3 server, which treats requests as a bad network or an overloaded server would.

It runs on a thread of the test's process, so that a test turns faults on and off by plain calls. Requests
are forwarded byte for byte: signatures stay valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self

_HEAD_LIMIT = 1 << 20
_NO_BODY = (204, 304)


class Fault(Enum):
    """What becomes of one request."""

    UNAVAILABLE = "503, not forwarded"
    THROTTLED = "429, not forwarded"
    CUT = "the connection ends before anything is forwarded"
    TORN = "half of the body is forwarded, then both connections end"
    SPOILED = "forwarded, then answered 500"
    UNANSWERED = "forwarded, then the connection ends without an answer"
    SLOW = "forwarded half a second late"


REFUSALS = {Fault.UNAVAILABLE: b"503 Slow Down", Fault.THROTTLED: b"429 Too Many Requests"}
SLOW_S = 0.5


class Storm(NamedTuple):
    """Faults at random: each kind with its share of all requests."""

    chance: random.Random
    shares: Mapping[Fault, float]

    def choose(self) -> Fault | None:
        drawn = self.chance.random()
        for fault, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return fault
        return None


class _Request(NamedTuple):
    method: str
    path: str
    head: bytes
    body: bytes


class S3Proxy:
    """Listens on a free port of loopback; ``endpoint`` takes the place of the server's own.

    Attributes:
        delay_s: added to every request.
        storm: faults at random, as long as it is set.
        requests: methods and paths of all requests, in order.
        lost: held requests whose client died.
    """

    def __init__(self, upstream: str, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.storm: Storm | None = None
        self.requests: list[tuple[str, str]] = []
        self.suffered: Counter[Fault] = Counter()
        self.lost = 0
        self._host, _, port = upstream.removeprefix("http://").partition(":")
        self._port = int(port)
        self._next: list[tuple[Fault, str, str]] = []
        self._held: tuple[str, str] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # --- what a test asks for --------------------------------------------------------------------

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def fail(self, fault: Fault, times: int = 1, method: str = "", path: str = "") -> None:
        """The next requests of that method whose path contains ``path`` meet a fault."""
        self._next += [(fault, method, path)] * times

    def calm(self) -> None:
        """No more faults."""
        self._next.clear()
        self.storm = None

    def hold(self, method: str = "", path: str = "") -> None:
        """From now on keep such requests, unforwarded and unanswered; those of clients that die are lost."""
        self._held = (method, path)

    def release(self) -> None:
        """Forward what was kept, and everything after."""
        self._held = None

    # --- serving ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=_HEAD_LIMIT)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One kept-alive connection of a client."""
        # Cancelled: the proxy ends while a client keeps its connection.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._answer(await _request(reader), reader, writer):
                await writer.drain()
        writer.close()

    async def _answer(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Treat one request; False ends the connection."""
        self.requests.append((request.method, request.path))
        await asyncio.sleep(self.delay_s)
        if not await self._released(request, reader):
            return False
        fault = self._fault(request)
        if fault is not None:
            self.suffered[fault] += 1
        match fault:
            case Fault.CUT:
                return False
            case Fault.TORN:
                await self._tear(request)
                return False
            case Fault.UNAVAILABLE | Fault.THROTTLED:
                writer.write(_empty(REFUSALS[fault]))
                return True
            case Fault.SLOW:
                await asyncio.sleep(SLOW_S)
            case _:
                pass
        answer = await self._forward(request)
        if fault is Fault.UNANSWERED:
            return False
        writer.write(_empty(b"500 Internal Server Error") if fault is Fault.SPOILED else answer)
        return True

    async def _released(self, request: _Request, reader: asyncio.StreamReader) -> bool:
        """Wait while such requests are held; False if the client is gone by then."""
        while self._held is not None and _fits(request, *self._held):
            if reader.at_eof():
                self.lost += 1
                return False
            await asyncio.sleep(0.01)
        return True

    def _fault(self, request: _Request) -> Fault | None:
        for position, (fault, method, path) in enumerate(self._next):
            if _fits(request, method, path):
                del self._next[position]
                return fault
        storm = self.storm
        return storm.choose() if storm is not None else None

    async def _forward(self, request: _Request) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=_HEAD_LIMIT)
        try:
            writer.write(request.head + request.body)
            return await _response(reader, request.method)
        finally:
            writer.close()

    async def _tear(self, request: _Request) -> None:
        _, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(request.head + request.body[: len(request.body) // 2])
        await writer.drain()
        writer.close()


def _fits(request: _Request, method: str, path: str) -> bool:
    return method in ("", request.method) and path in request.path


def _empty(status: bytes) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"


def _fields(head: bytes) -> dict[bytes, bytes]:
    lines = head.split(b"\r\n")[1:-2]
    return {key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines)}


async def _request(reader: asyncio.StreamReader) -> _Request:
    head = await reader.readuntil(b"\r\n\r\n")
    method, path, _ = head.split(b" ", 2)
    body = await reader.readexactly(int(_fields(head).get(b"content-length", b"0")))
    return _Request(method.decode(), path.decode(), head, body)


async def _response(reader: asyncio.StreamReader, method: str) -> bytes:
    """A whole answer as it came; its length is told by a field, by chunks, or by the connection's end."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = _fields(head)
    if method == "HEAD" or int(head.split(b" ", 2)[1]) in _NO_BODY:
        return head
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return head + await _chunks(reader)
    if b"content-length" in fields:
        return head + await reader.readexactly(int(fields[b"content-length"]))
    body = await reader.read(-1)
    return head[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    read = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        read += line + await reader.readexactly(size + 2)
        if size == 0:
            return read
