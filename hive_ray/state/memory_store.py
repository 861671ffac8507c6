"""A store in this process's memory, shared by name, with doors for injected faults."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable

from hive_ray.errors import AlreadyExists, ObjectMissing, StoreError
from hive_ray.state.store import checked_name, probe_create_if_absent

Hook = Callable[[str, str], None]
"""Called with (operation, name); what it raises is what the operation raises."""


class _Space:
    """What the stores of one name share: objects, and their names in order, since they are listed often."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.names: list[str] = []

    def write(self, name: str, data: bytes) -> None:
        if name not in self.objects:
            insort(self.names, name)
        self.objects[name] = bytes(data)

    def remove(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            del self.names[bisect_left(self.names, name)]

    def below(self, prefix: str, after: str) -> list[str]:
        start = bisect_right(self.names, after) if after > prefix else bisect_left(self.names, prefix)
        stop = bisect_left(self.names, prefix[:-1] + chr(ord(prefix[-1]) + 1)) if prefix else len(self.names)
        return self.names[start:stop]


_SPACES: dict[str, _Space] = {}
_LOCK = threading.Lock()


class MemoryStore:
    """Objects in a dict; two stores of one name see the same objects.

    Attributes:
        before: called ahead of an operation; raising there means that nothing happened.
        after: called behind it; raising there is a lost acknowledgement.
    """

    inline = True

    def __init__(self, name: str, *, before: Hook | None = None, after: Hook | None = None) -> None:
        self.url = f"memory://{name}"
        self.before = before
        self.after = after
        with _LOCK:
            self._space = _SPACES.setdefault(name, _Space())

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet."""
        self._enter("create", name)
        with _LOCK:
            if name in self._space.objects:
                raise AlreadyExists(f"{self.url}/{name} exists already")
            self._space.write(name, data)
        self._leave("create", name)

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        self._enter("put", name)
        with _LOCK:
            self._space.write(name, data)
        self._leave("put", name)

    def get(self, name: str) -> bytes:
        """Read a whole object; raises ``ObjectMissing``."""
        self._enter("get", name)
        with _LOCK:
            data = self._space.objects.get(name)
        if data is None:
            raise ObjectMissing(f"{self.url}/{name} does not exist")
        self._leave("get", name)
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Read a part of an object; raises ``StoreError`` if it is shorter."""
        data = self.get(name)[offset : offset + length]
        if len(data) != length:
            raise StoreError(f"{self.url}/{name} is shorter than {offset + length} bytes")
        return data

    def list(self, prefix: str, after: str = "") -> list[str]:
        """Name the objects below a folder that sort behind ``after``."""
        self._enter("list", prefix)
        with _LOCK:
            names = self._space.below(prefix, after)
        self._leave("list", prefix)
        return names

    def delete(self, *names: str) -> None:
        """Remove objects; one that is absent is no error."""
        for name in names:
            self._enter("delete", name)
            with _LOCK:
                self._space.remove(name)
            self._leave("delete", name)

    def probe(self) -> None:
        """Raise ``StoreRefused`` if create-if-absent is ignored."""
        probe_create_if_absent(self)

    def close(self) -> None:
        """Nothing to let go of; the objects stay until ``forget_memory``."""

    def _enter(self, operation: str, name: str) -> None:
        if operation != "list":
            checked_name(name)
        if self.before is not None:
            self.before(operation, name)

    def _leave(self, operation: str, name: str) -> None:
        if self.after is not None:
            self.after(operation, name)


def forget_memory(name: str) -> None:
    """Drop the objects of ``memory://name``, so that a test leaves nothing to the next."""
    with _LOCK:
        _SPACES.pop(name, None)
