"""What a tool or function is told of its step, and what it may leave behind: artifacts and memory.

Nothing that is left here leaves the worker before the step has succeeded; an attempt that fails leaves
nothing.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hive_ray.core.artifacts import ID_PREFIX
from hive_ray.core.failures import FailureKind
from hive_ray.graph.memory_keys import BadAddress, parse_address
from hive_ray.workers.plain import plain_json
from hive_ray.workers.step_error import StepError

NAME_LIMIT = 200
"""Characters of an artifact's name."""
LEVEL = 2
"""Feature level of the state from which a step may leave something behind."""

KEY_PARAMETER = "idempotency_key"
"""A parameter of a tool or function by this name is given the key of the call, unless the graph gives one."""

_TYPE = re.compile(r"[a-z0-9][\w.+-]*/[\w.+-]+(; ?[\w-]+=[\w.+-]+)*", re.ASCII | re.IGNORECASE)
_ID = re.compile(rf"{ID_PREFIX}\d+")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Room:
    """How much a step may leave behind."""

    level: int = LEVEL
    artifact_bytes: int = 32 * _MIB
    """Bytes of one artifact."""
    artifacts: int = 256
    total_bytes: int = 256 * _MIB
    """Bytes of all artifacts of the step."""
    value_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A value of long-term memory as the step was given it; version 0: there is none."""

    value: Any
    version: int


@dataclass(frozen=True, slots=True)
class Written:
    """A change of long-term memory; ``deleted`` has no value. ``if_version`` -1: whatever stands there."""

    scope: str
    key: str
    value: Any
    deleted: bool
    if_version: int


@dataclass(frozen=True, slots=True)
class Made:
    """An artifact's bytes."""

    name: str
    media_type: str
    data: bytes


class Memory:
    """Long-term memory, as a step sees it.

    Keys are addresses (``agent:profile``), or the name of a declaration (``profile=agent:profile``). What is
    read must be declared, on the node or with ``@hive.tool(memory=[…])``; what is written need not be. Writes
    stand together with the step's success.
    """

    def __init__(
        self,
        found: Mapping[str, Found] | None = None,
        names: Mapping[str, str] | None = None,
        prefixes: tuple[str, ...] = (),
        room: Room | None = None,
    ) -> None:
        self._found = dict(found or {})
        self._names = dict(names or {})
        self._prefixes = prefixes
        self._room = room or Room()
        self.written: dict[str, Written] = {}
        """By address: what goes back with the outcome."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` if there is none.

        Raises:
            StepError: ``BAD_INPUT``: the key is not declared.
        """
        address = self._address(key)
        written = self.written.get(address)
        if written is not None:
            return default if written.deleted else written.value
        found = self._given(address)
        return found.value if found.version else default

    def version(self, key: str) -> int:
        """The version that the step was given; 0: there was no such key."""
        return self._given(self._address(key)).version

    def keys(self, prefix: str = "") -> list[str]:
        """Addresses of what was read and is there, in order."""
        there = {address for address, found in self._found.items() if found.version}
        there -= {address for address, written in self.written.items() if written.deleted}
        there |= {address for address, written in self.written.items() if not written.deleted}
        return sorted(address for address in there if address.startswith(prefix))

    def put(self, key: str, value: Any, *, if_version: int | None = None) -> None:
        """Write a JSON value.

        Args:
            if_version: the version that must still stand there when the step succeeds (0: none), else the
                step fails with ``CONFLICT`` and leaves nothing behind; an idempotent step is tried again.

        Raises:
            StepError: ``INVALID_OUTPUT``: not made of JSON types, or no address.
        """
        self._write(key, plain_json(value, f"memory {key}"), False, if_version)

    def delete(self, key: str, *, if_version: int | None = None) -> None:
        """Delete a key; one that is absent is no fault."""
        self._write(key, None, True, if_version)

    def _write(self, key: str, value: Any, deleted: bool, if_version: int | None) -> None:
        _needs_level(self._room, "long-term memory")
        address = self._address(key)
        scope, bare = _parsed(address)
        earlier = self.written.get(address)
        condition = -1 if if_version is None else if_version
        if earlier is not None and earlier.if_version >= 0:
            condition = earlier.if_version
        self.written[address] = Written(scope, bare, value, deleted, condition)

    def _address(self, key: str) -> str:
        if ":" not in key and key in self._names:
            return self._names[key]
        _parsed(key)
        return key

    def _given(self, address: str) -> Found:
        found = self._found.get(address)
        if found is not None:
            return found
        if address in self.written or any(address.startswith(prefix) for prefix in self._prefixes):
            return Found(None, 0)
        message = f"memory {address} is read and not declared; add it to the node's or the tool's memory"
        raise StepError(FailureKind.BAD_INPUT, message)


def _parsed(address: str) -> tuple[str, str]:
    try:
        scope, key = parse_address(address)
    except BadAddress as error:
        raise StepError(FailureKind.BAD_INPUT, f"memory: {error}") from error
    return str(scope), key


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Who calls, and what a step may leave behind: handed to a parameter annotated with it."""

    run_id: str
    request_id: str
    node: str
    attempt: int
    idempotency_key: str
    """The same for every attempt of one call: give it to the system behind the tool."""
    team: str
    agent: str
    memory: Memory = field(default_factory=Memory)
    """Long-term memory: what was declared to be read, and what the step writes."""
    room: Room = field(default_factory=Room)
    made: dict[str, Made] = field(default_factory=dict[str, Made])
    """Artifacts by name; stored when the step has succeeded."""

    def artifact(self, name: str, data: bytes | str | Path, *, type: str = "") -> str:
        """Leave a file behind with the run; returns its name.

        Args:
            name: what people ask for it by; a second one of the name within the step takes its place.
            data: bytes, text (stored as UTF-8), or the path of a file, which is read at once.
            type: media type; guessed from the name if absent.

        Raises:
            StepError: ``INVALID_OUTPUT`` for a name or type that cannot be, ``RESOURCE_LIMIT`` for too much.
        """
        _needs_level(self.room, "an artifact")
        _check_name(name)
        content = _bytes_of(name, data, self.room)
        self.made[name] = Made(name, _media_type(name, data, type), content)
        self._check_room(name)
        return name

    def _check_room(self, name: str) -> None:
        total = sum(len(made.data) for made in self.made.values())
        if len(self.made) > self.room.artifacts:
            why = f"more than {self.room.artifacts} artifacts in one step (limits.run_artifacts)"
            raise StepError(FailureKind.RESOURCE_LIMIT, why)
        if total > self.room.total_bytes:
            why = f"artifacts of {total} bytes in one step, more than {self.room.total_bytes}"
            raise StepError(FailureKind.RESOURCE_LIMIT, f"{why} (limits.run_artifact_bytes)")


def _needs_level(room: Room, what: str) -> None:
    if room.level < LEVEL:
        why = f"{what} needs state feature level {LEVEL}, and this state is at {room.level}"
        raise StepError(FailureKind.POLICY_DENIED, f"{why}: run `hive-ray state upgrade`")


def _check_name(name: str) -> None:
    allowed = bool(name) and len(name) <= NAME_LIMIT and name.isprintable() and name.strip() == name
    if not allowed or "/" in name or "\\" in name or name in (".", "..") or _ID.fullmatch(name):
        why = (
            f"an artifact cannot be named {name[:80]!r}: use up to {NAME_LIMIT} printable characters without "
            f"slashes, and nothing like {ID_PREFIX}1"
        )
        raise StepError(FailureKind.INVALID_OUTPUT, why)


def _bytes_of(name: str, data: bytes | str | Path, room: Room) -> bytes:
    size = _size(name, data)
    if size > room.artifact_bytes:
        why = f"artifact {name!r} has {size} bytes, more than {room.artifact_bytes}"
        raise StepError(FailureKind.RESOURCE_LIMIT, f"{why} (limits.artifact_bytes)")
    match data:
        case Path():
            return _read(name, data)
        case str():
            return data.encode("utf-8", "surrogatepass")
        case _:
            return bytes(data)


def _size(name: str, data: bytes | str | Path) -> int:
    match data:
        case Path():
            try:
                return data.stat().st_size
            except OSError as error:
                raise _unreadable(name, data, error) from error
        case str():
            return len(data.encode("utf-8", "surrogatepass"))
        case _:
            return len(memoryview(data).cast("B"))


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(name, path, error) from error


def _unreadable(name: str, path: Path, error: OSError) -> StepError:
    why = f"artifact {name!r}: {path} cannot be read: {error.strerror or error}"
    return StepError(FailureKind.INVALID_OUTPUT, why)


def _media_type(name: str, data: bytes | str | Path, given: str) -> str:
    if given and not (_TYPE.fullmatch(given) and len(given) <= 100):
        why = f"artifact {name!r}: {given[:80]!r} is no media type; 'application/pdf' would be one"
        raise StepError(FailureKind.INVALID_OUTPUT, why)
    fallback = "text/plain" if isinstance(data, str) else "application/octet-stream"
    found = given or mimetypes.guess_type(name)[0] or fallback
    is_our_text = isinstance(data, str) and found.startswith("text/") and "charset" not in found
    return f"{found}; charset=utf-8" if is_our_text else found
