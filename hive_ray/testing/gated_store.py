"""Any store with the doors of ``MemoryStore``: what its hooks raise is what its operations raise."""

from __future__ import annotations

from hive_ray.state.memory_store import Hook
from hive_ray.state.store import Store


class GatedStore:
    """A store behind two hooks.

    Args:
        before: called ahead of an operation; raising there means that nothing happened.
        after: called behind it; raising there is a lost acknowledgement.
    """

    def __init__(self, store: Store, before: Hook, after: Hook) -> None:
        self._store = store
        self._before = before
        self._after = after
        self.url = store.url
        self.inline = store.inline

    def create(self, name: str, data: bytes) -> None:
        """As the store behind it."""
        self._before("create", name)
        self._store.create(name, data)
        self._after("create", name)

    def put(self, name: str, data: bytes) -> None:
        """As the store behind it."""
        self._before("put", name)
        self._store.put(name, data)
        self._after("put", name)

    def get(self, name: str) -> bytes:
        """As the store behind it."""
        self._before("get", name)
        data = self._store.get(name)
        self._after("get", name)
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """As the store behind it."""
        self._before("get", name)
        data = self._store.get_range(name, offset, length)
        self._after("get", name)
        return data

    def list(self, prefix: str, after: str = "") -> list[str]:
        """As the store behind it."""
        self._before("list", prefix)
        names = self._store.list(prefix, after)
        self._after("list", prefix)
        return names

    def delete(self, *names: str) -> None:
        """As the store behind it, one by one."""
        for name in names:
            self._before("delete", name)
            self._store.delete(name)
            self._after("delete", name)

    def probe(self) -> None:
        """As the store behind it."""
        self._before("probe", "")
        self._store.probe()

    def close(self) -> None:
        """As the store behind it."""
        self._store.close()
