"""What the routes share: settings, the link to the controller, graphs, history, blobs."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from hive_ray.config import Settings
from hive_ray.control.queries import GetRun, Request
from hive_ray.control.replaying import Forgiving
from hive_ray.control.views import RunView
from hive_ray.core.commands import Fork, Refused, Submit
from hive_ray.core.keys import NO_KEY, conversation_key
from hive_ray.core.messages import StepContent
from hive_ray.core.values import INLINE_LIMIT_BYTES, Value, stored
from hive_ray.core.values import decode as decode_value
from hive_ray.errors import Unavailable
from hive_ray.graph.compiled import LOOPS, CompiledGraph, extract_facts
from hive_ray.graph.json_bounds import not_finite
from hive_ray.state.access import content_codec, open_blobs, open_keyring, open_state
from hive_ray.state.blobs import BlobRef
from hive_ray.state.run_events import RunEvents
from serve.acceptance import Acceptance
from serve.history import History
from serve.identities import Identities
from serve.link import Ask, Link
from serve.problems import Problem, invalid, refused
from serve.sealing import Closing, Sealing, plain_digest

PARTITION_BITS = 12
_encode = msgspec.msgpack.Encoder().encode


class Backend:
    """One replica's view of the installation.

    Args:
        ask: one call to the controller.
        standing: the controller's readiness and counters.
    """

    def __init__(self, settings: Settings, ask: Ask, standing: Callable[[], Awaitable[bytes]]) -> None:
        store = open_state(settings)
        keyring = open_keyring(settings, store)
        self.settings = settings
        self.link = Link(ask, close=Closing(settings, keyring))
        self.identities = Identities(settings, keyring, lambda: self.link)
        self.store = store
        self.keyring = keyring
        self.codec = content_codec(settings, keyring)
        self.blobs = open_blobs(settings, store, keyring)
        self.sealing = Sealing(keyring, self.standing)
        self.acceptance = Acceptance(settings, self.blobs, self.sealing.state_key)
        self.history = History(store, self.codec)
        self.run_events = RunEvents(store, Forgiving(self.codec), 0)
        self.requests: dict[tuple[str, int], int] = {}
        """Answers by method and status."""
        self._standing = standing

    async def standing(self) -> dict[str, Any]:
        """What the controller says of itself.

        Raises:
            Unavailable: it does not answer.
        """
        return msgspec.msgpack.decode(await self._standing())

    async def view(self, request: Request) -> RunView:
        """The run that a command or question is about.

        Raises:
            Problem: the controller refused.
        """
        found = await self.link.run(request)
        if isinstance(found, Refused):
            raise refused(found)
        return found

    async def run(self, run_id: str) -> RunView:
        return await self.view(GetRun(run_id))

    async def begun(self, command: Submit | Fork) -> RunView:
        """The run that a command begins.

        Raises:
            Problem: the controller refused, or whether the run began is not known; it names the run.
        """
        try:
            found = await self.link.run(command)
        except Unavailable as error:
            said = (
                f"{error}; whether run {command.run} began is not known: look at it, or repeat under its key"
            )
            raise Problem(503, "unavailable", said, (), 1.0, command.run) from error
        if isinstance(found, Refused):
            raise refused(found, command.run if found.problem == "unavailable" else "")
        return found

    async def read(self, request: Request, shape: type[Any]) -> Any:
        """The value of an answer in its shape.

        Raises:
            Problem: the controller refused.
        """
        found = await self.link.read(request, shape)
        if isinstance(found, Refused):
            raise refused(found)
        return found

    # --- values ----------------------------------------------------------------------------------

    async def content(
        self,
        run_id: str,
        graph: CompiledGraph,
        values: Mapping[str, Any],
        message: str = "",
        key: bytes = NO_KEY,
    ) -> StepContent:
        """Values as a command carries them: large ones as blobs, written before the command leaves.

        Args:
            key: reference to the key that seals them.
        """
        outputs = {name: await self._value(run_id, value, key) for name, value in values.items()}
        return StepContent(outputs=outputs, facts=extract_facts(graph, values), message=message)

    async def _value(self, run_id: str, value: Any, key: bytes) -> Value:
        data = _encode(value)
        if len(data) <= INLINE_LIMIT_BYTES:
            return Value(data, "", len(data))
        ref = await asyncio.to_thread(self.blobs.put, run_id, data, key)
        return stored(value, ref.name, ref.size)

    async def loaded(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Whole values, blobs included."""
        return {key: await self._loaded(value) for key, value in values.items()}

    async def _loaded(self, value: Value) -> Any:
        if not value.blob:
            return decode_value(value)
        data = await asyncio.to_thread(self.blobs.get, BlobRef(value.blob, value.size))
        return value.whole_or_item(msgspec.msgpack.decode(data))


def new_run_id(partition: int = 0) -> str:
    """A UUIDv7 (RFC 9562) whose last bits are the run's partition."""
    at_ms = time.time_ns() // 1_000_000
    chance = secrets.randbits(74 - PARTITION_BITS)
    high, low = chance >> (62 - PARTITION_BITS), chance & ((1 << (62 - PARTITION_BITS)) - 1)
    number = at_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low << PARTITION_BITS | partition
    return str(uuid.UUID(int=number))


def digest_of(body: Any) -> str:
    """By which a repeated request is told from a different one, without a secret."""
    return plain_digest(msgspec.json.encode(body, order="sorted"))


def answer_key(view: RunView, graph: CompiledGraph, reason: str, node: str = "") -> bytes:
    """Reference to the key under which a person's answer lies: what is said in an agent loop goes with it."""
    asked = {wait.node for wait in view.waits if wait.reason == reason and node in ("", wait.node)}
    loops = [plan for plan in graph.nodes if plan.id in asked and plan.kind in LOOPS]
    is_said = bool(loops) and not all(plan.record for plan in loops)
    return conversation_key(view.content_key) if is_said else view.content_key


def check_size(values: Mapping[str, Any], limit: int, place: str) -> None:
    """Refuse values that are together larger than ``limit`` bytes of msgpack, or that JSON cannot say.

    Raises:
        Problem: 413, or 422 for numbers that no msgpack holds, NaN and infinities.
    """
    try:
        data = _encode(values)
    except (OverflowError, ValueError) as error:
        raise invalid(place, str(error), "use integers of at most 64 bits") from error
    if bad := not_finite(data, values, place):
        raise invalid(bad, "is NaN or an infinity, which JSON cannot say", "use a finite number or null")
    size = len(data)
    if size > limit:
        raise invalid(
            place,
            f"is {size} bytes, more than {limit}",
            "send a reference to the data instead, or raise limits.max_input_bytes",
            413,
        )


__all__ = ["Backend", "Unavailable", "check_size", "digest_of", "new_run_id"]
