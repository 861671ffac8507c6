"""The link to the controller, on a scripted one: what is batched, and what is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hive_ray.control.envelope import decode_asked
from hive_ray.control.queries import GetRun
from hive_ray.control.views import Answer
from hive_ray.core.commands import Refused, Signal
from hive_ray.core.messages import StepContent
from hive_ray.errors import Unavailable
from serve.link import Link

pytestmark = pytest.mark.anyio


class Controller:
    """Answers each batch by a function, and remembers the batches."""

    def __init__(self, answer: Callable[[int, Any], Answer]) -> None:
        self.batches: list[int] = []
        self._answer = answer

    async def ask(self, data: bytes) -> bytes:
        requests = [asked.request for asked in decode_asked(data)]
        self.batches.append(len(requests))
        await asyncio.sleep(0)
        return msgspec.msgpack.encode([self._answer(len(self.batches), request) for request in requests])


async def test_requests_of_one_moment_travel_together():
    """One call, one answer each, in order."""
    controller = Controller(lambda _call, request: Answer(request.run))
    link = Link(controller.ask)

    answers = await asyncio.gather(*(link.send(GetRun(str(number))) for number in range(50)))

    assert [answer.value for answer in answers] == [str(number) for number in range(50)]
    assert controller.batches == [50]


async def test_a_recovering_controller_is_asked_again():
    """``unavailable`` passes: the caller sees the answer only."""

    def answer(call: int, _request: Any) -> Answer:
        return Answer("there") if call == 3 else Answer(refused=Refused("unavailable", "recovering", 1.0))

    controller = Controller(answer)

    found = await Link(controller.ask).send(GetRun("r"))

    assert found.value == "there"
    assert len(controller.batches) == 3


async def test_patience_ends():
    """A controller that stays away is told to the caller."""
    controller = Controller(lambda _call, _request: Answer(refused=Refused("unavailable", "away", 1.0)))

    found = await Link(controller.ask, patience_s=0.1).send(GetRun("r"))

    assert found.refused is not None
    assert found.refused.message == "away"


async def test_a_clients_message_is_never_repeated():
    """It may have been heard: a repeat could be taken for a second message."""
    calls: list[int] = []

    async def ask(_data: bytes) -> bytes:
        calls.append(1)
        raise Unavailable("gone in the middle")

    with pytest.raises(Unavailable):
        await Link(ask).send(Signal("r", StepContent()))

    assert len(calls) == 1
