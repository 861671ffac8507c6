"""Reading many objects in order, ahead of their use where the store is far away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from hive_ray.errors import Corrupt, ObjectMissing
from hive_ray.state.store import Store

_READERS = 8
_READ_AHEAD = 16


def read_in_order(store: Store, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield each object's name and bytes; raises ``Corrupt`` for one that is gone."""
    if store.inline:
        yield from ((name, read_listed(store, name)) for name in names)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[tuple[str, Future[bytes]]] = deque()
        for name in names:
            ahead.append((name, pool.submit(read_listed, store, name)))
            if len(ahead) == _READ_AHEAD:
                yield _oldest(ahead)
        while ahead:
            yield _oldest(ahead)


def read_listed(store: Store, name: str) -> bytes:
    """Read an object that must be there, since something names it."""
    try:
        return store.get(name)
    except ObjectMissing as error:
        raise Corrupt(name, "missing, though it is referred to") from error


def read_range(store: Store, name: str, offset: int, length: int) -> bytes:
    """Read a part of an object that must be there, since something names it."""
    try:
        return store.get_range(name, offset, length)
    except ObjectMissing as error:
        raise Corrupt(name, "missing, though it is referred to") from error


def _oldest(ahead: deque[tuple[str, Future[bytes]]]) -> tuple[str, bytes]:
    name, read = ahead.popleft()
    return name, read.result()
