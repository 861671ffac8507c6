"""Stores that misbehave on purpose, and samples of journal rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hive_ray.state.segments import Columns
from hive_ray.state.store import Store

S3_OPTIONS = {"region": "us-east-1", "access_key_id": "test", "secret_access_key": "test"}

T = TypeVar("T")
Hook = Callable[[str, str], None]


class Faulty:
    """A store whose operations can be made to fail before or after they happen."""

    def __init__(self, inner: Store, before: Hook | None = None, after: Hook | None = None) -> None:
        self.inner = inner
        self.before = before
        self.after = after

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def inline(self) -> bool:
        return self.inner.inline

    def create(self, name: str, data: bytes) -> None:
        self._call("create", name, lambda: self.inner.create(name, data))

    def put(self, name: str, data: bytes) -> None:
        self._call("put", name, lambda: self.inner.put(name, data))

    def get(self, name: str) -> bytes:
        return self._call("get", name, lambda: self.inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._call("get_range", name, lambda: self.inner.get_range(name, offset, length))

    def list(self, prefix: str, after: str = "") -> list[str]:
        return self._call("list", prefix, lambda: self.inner.list(prefix, after))

    def delete(self, *names: str) -> None:
        for name in names:
            self._call("delete", name, partial(self.inner.delete, name))

    def probe(self) -> None:
        self.inner.probe()

    def close(self) -> None:
        self.inner.close()

    def _call(self, operation: str, name: str, work: Callable[[], T]) -> T:
        if self.before is not None:
            self.before(operation, name)
        result = work()
        if self.after is not None:
            self.after(operation, name)
        return result


def once(operation: str, error: Exception) -> Hook:
    """A hook that raises at the first call of one operation."""
    left = [error]

    def hook(called: str, name: str) -> None:
        if called == operation and left:
            raise left.pop()

    return hook


def rows(first_seq: int, count: int = 3) -> Columns:
    """Rows that continue a journal at a seq."""
    seqs = range(first_seq, first_seq + count)
    return Columns(
        seq=list(seqs),
        time_us=[1_700_000_000_000_000 + seq for seq in seqs],
        run=[f"run-{seq % 3}" for seq in seqs],
        kind=["StepStarted"] * count,
        body=[b"\x81\xa4node\xa1a" for _ in seqs],
        content=[b"\x00hello" if seq % 2 else b"" for seq in seqs],
    )
