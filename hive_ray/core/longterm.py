"""Long-term memory: values by key that outlive a step, on one shelf for each owner.

A shelf belongs to a run, an agent or a team. Every write gives its entry the shelf's next version, so a
version is never used twice, also where a key was deleted in between. The shelf of a run stands in the
(root) run; those of agents and teams are states of their own beside the fleet, each entry a snapshot item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.keys import STATE_KEY
from hive_ray.core.messages import ERASED, StepContent
from hive_ray.core.values import Value

ANY_VERSION = -1
"""A write that asks for no particular version before it."""
ABSENT = 0
"""The version of a key that is not there."""

_OF_STATE = "memory-"
_SHELF = "shelf/"
_ENTRY = "entry/"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One value."""

    key: str
    value: Value
    version: int
    number: int
    """The version at which the key was first written since it was last absent: names its snapshot item."""
    at_us: int
    writer: str
    """The attempt (``run:serial.call.attempt``) or principal that wrote it."""
    request: str = ""
    """Id of the request that wrote it from outside: its repeat is answered, not done again."""
    seq: int = 0
    """Sequence number of the event that wrote it."""


class Shelf(msgspec.Struct):
    """The long-term memory of one owner."""

    scope: str
    owner: str
    version: int = 0
    """Of the last write or deletion."""
    entries: dict[str, Entry] = {}
    seq: int = 0
    retired: dict[str, int] = {}
    """Blobs of values that were overwritten or deleted, and when: of agents and teams only."""


class Bounds(msgspec.Struct, frozen=True):
    """What long-term memory may hold."""

    entries: int = 10_000
    """Keys on one shelf."""
    value_bytes: int = 256 * 1024
    read_bytes: int = 1024 * 1024
    """Bytes that one step may read by its declarations."""


def shelf_name(scope: str, owner: str) -> str:
    return f"{scope}/{owner}"


def owner_of(scope: str, root: str, team: str, agent: str) -> str:
    """Whose shelf of a scope a run's steps use."""
    match scope:
        case "run":
            return root
        case "agent":
            return f"{team}/{agent}"
        case _:
            return team


def blob_owner(scope: str, owner: str) -> str:
    """Whose blobs the large values of a shelf are: a run's own go with it, others outlive every run."""
    if scope == "run":
        return owner
    return f"{_OF_STATE}{scope}-{hashlib.blake2b(owner.encode(), digest_size=16).hexdigest()}"


def blob_key(owner: str, run_key: bytes) -> bytes:
    """Reference to the key of an owner's blobs, as a run with that key knows it."""
    return STATE_KEY if run_key and owner.startswith(_OF_STATE) else run_key


def apply(
    shelf: Shelf, event: ev.MemoryWritten | ev.MemoryDeleted, content: StepContent, at_us: int, seq: int
) -> int:
    """Apply one event to its shelf; returns the number of the entry that it touched, 0 for none.

    A shelf restored from a fuzzy snapshot may be ahead of the event in some of its entries: they stay.
    """
    shelf.version = max(shelf.version, event.version)
    shelf.seq = max(shelf.seq, seq)
    if content is ERASED:
        return 0
    if not content.outputs:
        # The run was forgotten: what was written, and under which key, is told by nobody any more.
        return 0
    ((key, value),) = content.outputs.items()
    known = shelf.entries.get(key)
    if known is not None and known.version >= event.version:
        return 0
    if known is not None and known.value.blob and shelf.scope != "run":
        shelf.retired[known.value.blob] = at_us
    if isinstance(event, ev.MemoryDeleted):
        shelf.entries.pop(key, None)
        return known.number if known is not None else 0
    number = known.number if known is not None else event.version
    shelf.entries[key] = Entry(key, value, event.version, number, at_us, event.writer, event.request_id, seq)
    return number


class Shelves:
    """The shelves of agents and teams, and which of their snapshot items changed.

    Items: ``shelf/{scope}/{owner}`` is a shelf without its entries, ``entry/{number}/{scope}/{owner}`` is one
    entry. No key is in an item's name: keys are content.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Shelf] = {}
        self.changed: dict[str, None] = {}
        """Names of items; whoever takes snapshots empties it."""
        self._numbers: dict[str, str] = {}
        """Item of an entry to its key."""

    def find(self, scope: str, owner: str) -> Shelf | None:
        return self.by_name.get(shelf_name(scope, owner))

    def apply(
        self, event: ev.MemoryWritten | ev.MemoryDeleted, content: StepContent, at_us: int, seq: int
    ) -> None:
        """Apply an event, unless a snapshot already shows it."""
        name = shelf_name(event.scope, event.owner)
        shelf = self.by_name.get(name)
        if shelf is None:
            shelf = self.by_name[name] = Shelf(event.scope, event.owner)
        number = apply(shelf, event, content, at_us, seq)
        self.changed[_SHELF + name] = None
        if number:
            item = f"{_ENTRY}{number}/{name}"
            self.changed[item] = None
            self._numbers[item] = next(iter(content.outputs))

    # --- snapshots -------------------------------------------------------------------------------

    def encode(self, item: str) -> Encoded | None:
        """An item as of now; None if its entry is gone."""
        if item.startswith(_SHELF):
            shelf = self.by_name[item.removeprefix(_SHELF)]
            return Encoded(shelf.seq, _encode(msgspec.structs.replace(shelf, entries={})))
        number, _, name = item.removeprefix(_ENTRY).partition("/")
        entry = self.by_name[name].entries.get(self._numbers.get(item, ""))
        if entry is None or entry.number != int(number):
            self._numbers.pop(item, None)
            return None
        return Encoded(entry.seq, _encode(entry))

    def restore(self, item: str, data: bytes) -> None:
        """Take an item of a snapshot, in any order.

        Raises:
            msgspec.MsgspecError: it does not decode.
        """
        if item.startswith(_SHELF):
            self._restore_shelf(_decode_shelf(data))
            return
        name = item.removeprefix(_ENTRY).partition("/")[2]
        scope, _, owner = name.partition("/")
        shelf = self.by_name.setdefault(name, Shelf(scope, owner))
        entry = _decode_entry(data)
        self._numbers[item] = entry.key
        known = shelf.entries.get(entry.key)
        if known is None or known.version < entry.version:
            shelf.entries[entry.key] = entry
        if known is not None:
            # The older of the two was deleted before the newer was written: its item is to be dropped.
            self.changed[f"{_ENTRY}{min(known.number, entry.number)}/{name}"] = None

    def _restore_shelf(self, head: Shelf) -> None:
        shelf = self.by_name.setdefault(shelf_name(head.scope, head.owner), head)
        shelf.version = max(shelf.version, head.version)
        shelf.seq = max(shelf.seq, head.seq)
        shelf.retired |= head.retired

    def blobs(self) -> Iterator[str]:
        """Every blob that an entry refers to, or referred to until it was overwritten or deleted."""
        for shelf in self.by_name.values():
            yield from shelf.retired
            yield from (entry.value.blob for entry in shelf.entries.values() if entry.value.blob)

    def retired_before(self, at_us: int, durable_seq: int) -> list[str]:
        """Blobs that nothing refers to since a time, and durably so."""
        return [
            blob
            for shelf in self.by_name.values()
            if shelf.seq <= durable_seq
            for blob, since_us in shelf.retired.items()
            if since_us < at_us
        ]

    def blobs_are_gone(self, blobs: Iterable[str]) -> None:
        """They were deleted: nobody needs to know of them any more."""
        gone = frozenset(blobs)
        for name, shelf in self.by_name.items():
            left = {blob: at_us for blob, at_us in shelf.retired.items() if blob not in gone}
            if len(left) < len(shelf.retired):
                shelf.retired = left
                self.changed[_SHELF + name] = None

    def items(self) -> Iterator[str]:
        """Every item of the present state."""
        for name, shelf in self.by_name.items():
            yield _SHELF + name
            yield from (f"{_ENTRY}{entry.number}/{name}" for entry in shelf.entries.values())


class Encoded(NamedTuple):
    """An item, and the seq that it reflects."""

    seq: int
    data: bytes


def is_item(name: str) -> bool:
    """Whether a snapshot item belongs to long-term memory."""
    return name.startswith((_SHELF, _ENTRY))


def owner_in(item: str) -> tuple[str, str]:
    """Scope and owner of an item."""
    name = item.removeprefix(_SHELF) if item.startswith(_SHELF) else item.split("/", 2)[2]
    scope, _, owner = name.partition("/")
    return scope, owner


_encode = msgspec.msgpack.Encoder().encode
_decode_shelf = msgspec.msgpack.Decoder(Shelf).decode
_decode_entry = msgspec.msgpack.Decoder(Entry).decode
