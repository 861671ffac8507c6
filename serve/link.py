"""Questions and commands to the controller: batched, and repeated while nobody is there to answer.

Submissions of one moment travel in one call. A command that may have been decided is repeated only if
the controller knows it again (a run id, an approval's answer); a client's message is not.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from hive_ray.control.envelope import Asked
from hive_ray.control.queries import Request, WatchRun
from hive_ray.control.views import Answer, RunView
from hive_ray.core.commands import Complete, Refused, Signal
from hive_ray.errors import Fault, InputError, Unavailable
from serve import caller

log = logging.getLogger(__name__)

Ask = Callable[[bytes], Awaitable[bytes]]
"""One call to the controller; raises ``Unavailable`` when it may or may not have happened."""
Close = Callable[[bytes], Awaitable[bytes]]

PATIENCE_S = 30.0
"""How long a request is repeated before it is answered 503."""
MOST = 1000
"""Requests in one call."""
IN_FLIGHT = 2
"""Calls at a time: while one waits for its commit, the next is already at the controller."""
PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

Waiting = tuple[msgspec.Raw, asyncio.Future[Answer]]
"""A request that has not left, as it will travel, and who waits for its answer."""
T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Answer]).decode


class Link:
    """The controller, as seen by one replica. Each request takes the credential of its caller along.

    Args:
        close: puts the envelope around a batch; without it the batch travels bare, as in tests.
    """

    def __init__(self, ask: Ask, patience_s: float = PATIENCE_S, close: Close | None = None) -> None:
        self._ask = ask
        self._close = close
        self._patience_s = patience_s
        self._waiting: list[Waiting] = []
        self._in_flight: set[asyncio.Task[None]] = set()

    async def send(self, request: Request, patience_s: float | None = None) -> Answer:
        """The controller's answer to one request.

        Args:
            patience_s: instead of the link's own.

        Raises:
            InputError: it cannot be sent: a number beyond 64 bits, half a character.
            Unavailable: nobody answered in time; what was asked may have happened.
        """
        data = _encoded(Asked(caller.current().caller, request))
        until = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        pause_s = PAUSE_S
        while True:
            try:
                answer = await self._once(request, data)
            except Unavailable:
                if isinstance(request, (Signal, Complete)) or time.monotonic() > until:
                    raise
            else:
                if not _passes(answer.refused) or time.monotonic() > until:
                    return answer
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def read(self, request: Request, shape: type[T], patience_s: float | None = None) -> T | Refused:
        """The answer's value in its shape, or the refusal."""
        answer = await self.send(request, patience_s)
        if answer.refused is not None:
            return answer.refused
        return msgspec.convert(answer.value, shape)

    async def run(self, request: Request) -> RunView | Refused:
        return await self.read(request, RunView)

    async def _once(self, request: Request, data: msgspec.Raw) -> Answer:
        if isinstance(request, WatchRun):
            # It waits at the controller: nothing else may wait with it.
            return (await self._call([data]))[0]
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((data, future))
        if len(self._waiting) == 1 and len(self._in_flight) < IN_FLIGHT:
            asyncio.get_running_loop().call_soon(self._send_batch)
        return await future

    def _send_batch(self) -> None:
        batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        if not batch:
            return
        task = asyncio.ensure_future(self._deliver(batch))
        self._in_flight.add(task)
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting:
            self._send_batch()

    async def _deliver(self, batch: list[Waiting]) -> None:
        try:
            answers = await self._call([data for data, _ in batch])
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:
            if not isinstance(error, Unavailable):
                log.error("the controller's answer cannot be used", exc_info=error)
                error = Unavailable(f"the controller's answer cannot be used: {type(error).__name__}")
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in pairs:
            if not future.done():
                future.set_result(answer)

    async def _call(self, requests: list[msgspec.Raw]) -> list[Answer]:
        body = _encode(requests)
        answers = _decode(await self._ask(await self._close(body) if self._close else body))
        if len(answers) == 1 and answers[0].refused is not None:
            # One refusal of the whole batch: the controller is not ready, or did not know the seal.
            return answers * len(requests)
        return answers


def _encoded(asked: Asked) -> msgspec.Raw:
    """One by one: a request that cannot be sent must not keep the others of its moment."""
    try:
        return msgspec.Raw(_encode(asked))
    except (OverflowError, ValueError) as error:
        fault = Fault("request", f"cannot be sent: {error}", "use integers of 64 bits and whole characters")
        raise InputError("request", [fault]) from error


def _passes(refused: Refused | None) -> bool:
    return refused is not None and refused.problem == "unavailable"
