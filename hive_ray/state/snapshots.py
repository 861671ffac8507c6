"""Incremental snapshots: what every live run was at some seq, without writing again what did not change.

A snapshot is a manifest and the parts it points into; an item that did not change stays in an older part.
Snapshots are fuzzy: items are added while events go on, so each carries the seq it reflects, and recovery
applies to it only the events behind that. A part of which less than half is live is rewritten, and when
there are too many parts the smaller half is joined, which bounds space to twice the live bytes, write
amplification to 4, and the number of objects that recovery reads.

A part is several zstd frames after each other (an Arrow schema, batches of about 64 KiB, the end), so that
``zstd -d`` gives one Arrow stream and one item can be read by its frame's offset and length. Rows of a
part: one item, in the order added (``key`` string, ``seq`` int64, ``data`` binary). Rows of a manifest: one
live item, ordered by key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from hive_ray.core import features
from hive_ray.errors import AlreadyExists, Corrupt, StoreError, TooNew
from hive_ray.state import frames
from hive_ray.state.reading import read_in_order, read_listed, read_range
from hive_ray.state.store import Store

FORMAT = features.LATEST
"""As of segments: a snapshot's form is the feature level of its state."""
KEPT = 2
FRAME_BYTES = 64 * 1024
PART_BYTES = 4 * 1024 * 1024
MAX_PARTS = 64
SLICE_CELLS = 20_000
"""Of a table of contents, encoded in one slice, about 2 ms."""

_ITEMS = pa.schema([("key", pa.string()), ("seq", pa.int64()), ("data", pa.binary())])
_PLACES = pa.schema(
    [
        ("key", pa.string()),
        ("part", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("row", pa.int32()),
        ("size", pa.int64()),
        ("seq", pa.int64()),
    ]
)
_KEY = b"hive"
_DIGEST_BYTES = 16


class Item(NamedTuple):
    """One run's state (or another keyed state) as of ``seq``."""

    seq: int
    data: bytes


class Place(NamedTuple):
    """Where an item lies: row ``row`` of the frame at ``offset`` of ``part``; ``size`` is its raw bytes."""

    part: str
    offset: int
    length: int
    row: int
    size: int
    seq: int


class Part(msgspec.Struct, frozen=True, array_like=True):
    """An object that holds items; ``raw_bytes`` counts the data of all of them, live or not."""

    name: str
    size: int
    raw_bytes: int
    digest: str


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What a snapshot covers.

    Attributes:
        base_seq: every item reflects at least this seq, or had no event since the one it carries.
        segment_number: recovery reads the segments behind this one.
        epoch: who wrote it; two writers never share a name.
    """

    partition: int
    epoch: int
    base_seq: int
    segment_number: int
    format: int = features.FIRST


class Manifest(NamedTuple):
    """A snapshot's table of contents.

    Attributes:
        live: how many raw bytes of each part it points into.
    """

    name: str
    header: SnapshotHeader
    parts: dict[str, Part]
    places: dict[str, Place]
    live: dict[str, int]


class Snapshot(NamedTuple):
    """A snapshot as read back."""

    manifest: Manifest
    items: dict[str, Item]


class Finished(NamedTuple):
    """What a snapshot adds to the store.

    Attributes:
        table: the manifest as an Arrow stream.
    """

    parts: list[tuple[str, bytes]]
    table: bytes
    manifest: Manifest

    def objects(self) -> list[tuple[str, bytes]]:
        """What to create, in this order: the manifest comes last."""
        return [*self.parts, (self.manifest.name, frames.compress(self.table, dense=True))]


class SnapshotWriter:
    """One snapshot in the making: begin, add in slices, carry what must move, finish."""

    def __init__(self, header: SnapshotHeader, previous: Manifest | None) -> None:
        if previous and previous.header.segment_number >= header.segment_number:
            raise ValueError(f"{previous.name} already covers segment {header.segment_number}")
        self._header = header
        self._parts = dict(previous.parts) if previous else {}
        self._places = dict(previous.places) if previous else {}
        self._live = dict(previous.live) if previous else {}
        self._dropped: set[str] = set()
        self._objects: list[tuple[str, bytes]] = []
        self._building = _PartBuilder(self._next_part())

    def add(self, key: str, seq: int, data: bytes) -> None:
        """Take the present state of a key that changed since the previous snapshot."""
        self._forget(key)
        self._dropped.discard(key)
        self._building.add(key, seq, data)
        if self._building.raw_bytes >= PART_BYTES:
            self._close_part()

    def drop(self, key: str) -> None:
        """Leave a key out from now on, whether it was added before or not."""
        self._forget(key)
        self._dropped.add(key)

    def to_rewrite(self) -> list[Part]:
        """The older parts that must be given to ``carry`` before ``finish``; ask after adding."""
        live = self._live
        sparse = [name for name, part in self._parts.items() if live[name] * 2 < part.raw_bytes]
        wanted = [name for name in sparse if live[name] > 0]
        dense = [name for name in self._parts if name not in sparse]
        if len(dense) > MAX_PARTS:
            wanted += sorted(dense, key=lambda name: live[name])[: len(dense) // 2]
        return [self._parts[name] for name in wanted]

    def carry(self, part: Part, data: bytes) -> Generator[None, None, None]:
        """Move what is live in an older part into the new one, a frame a slice.

        Args:
            data: as ``whole_part`` gave it.

        Raises:
            Corrupt: it is damaged.
        """
        places = {key: place for key, place in self._places.items() if place.part == part.name}
        for number, items in enumerate(_read_by_frame(part, data, places)):
            if number:
                yield
            for key, item in items.items():
                self.add(key, item.seq, item.data)
        del self._parts[part.name], self._live[part.name]

    def finish(self) -> Generator[None, None, Finished]:
        """Close the snapshot, in slices; returns the objects to create."""
        self._close_part()
        live = {name: size for name, size in self._live.items() if size > 0}
        parts = {name: part for name, part in self._parts.items() if name in live}
        manifest = Manifest(_manifest_name(self._header), self._header, parts, self._places, live)
        table = yield from _encode_manifest(manifest)
        return Finished(self._objects, table, manifest)

    def _next_part(self) -> str:
        header = self._header
        name = f"{header.segment_number:012d}-{header.epoch:06d}-{len(self._objects):04d}"
        return f"{_folder(header.partition)}parts/{name}.arrow.zst"

    def _close_part(self) -> None:
        if self._building.raw_bytes == 0:
            return
        part, data, places = self._building.finish()
        self._parts[part.name] = part
        kept = {key: place for key, place in places.items() if key not in self._dropped}
        self._places |= kept
        self._live[part.name] = sum(max(place.size, 1) for place in kept.values())
        self._objects.append((part.name, data))
        self._building = _PartBuilder(self._next_part())

    def _forget(self, key: str) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._live[place.part] -= max(place.size, 1)


class _PartBuilder:
    """Items on their way into one part, compressed frame by frame as they come."""

    def __init__(self, name: str) -> None:
        self.raw_bytes = 0
        self._name = name
        self._frames: list[bytes] = []
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._offset = 0
        self._append(frames.compress(_ITEMS.serialize().to_pybytes()))
        self._rows: list[tuple[str, int, bytes]] = []
        self._frame_bytes = 0
        self._places: dict[str, Place] = {}

    def add(self, key: str, seq: int, data: bytes) -> None:
        self._rows.append((key, seq, data))
        # An empty item counts too, so that a part of nothing else is not taken for dead.
        size = max(len(data), 1)
        self.raw_bytes += size
        self._frame_bytes += size
        if self._frame_bytes >= FRAME_BYTES:
            self._close_frame()

    def finish(self) -> tuple[Part, bytes, dict[str, Place]]:
        if self._rows:
            self._close_frame()
        self._append(frames.compress(frames.END_OF_STREAM))
        part = Part(self._name, self._offset, self.raw_bytes, self._digest.hexdigest())
        return part, b"".join(self._frames), self._places

    def _close_frame(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _ITEMS, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=_ITEMS)
        frame = frames.compress(batch.serialize().to_pybytes(), dense=True)
        for row, (key, seq, data) in enumerate(self._rows):
            self._places[key] = Place(self._name, self._offset, len(frame), row, len(data), seq)
        self._append(frame)
        self._rows, self._frame_bytes = [], 0

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._digest.update(frame)
        self._offset += len(frame)


def write_snapshot(store: Store, finished: Finished) -> None:
    """Create a snapshot's objects, the manifest last; repeating it after an error is harmless.

    Raises:
        StoreError: the store failed, or other bytes stand under one of the names (an earlier try that was
            given up): begin again at a later segment.
    """
    for name, data in finished.objects():
        try:
            store.create(name, data)
        except AlreadyExists as error:
            if store.get(name) != data:
                raise StoreError(f"{name}: another snapshot took this name; begin a later one") from error


def load_latest_manifest(store: Store, partition: int) -> Manifest | None:
    """Read the newest snapshot's table of contents; None if there is none; raises ``Corrupt``."""
    names = _manifest_names(store.list(_folder(partition)))
    return load_manifest(store, names[-1]) if names else None


def load_latest(store: Store, partition: int) -> Snapshot | None:
    """Read the newest snapshot; None if there is none.

    Raises:
        Corrupt: it or a part of it is damaged or missing; an older one is never taken in its place.
    """
    manifest = load_latest_manifest(store, partition)
    if manifest is None:
        return None
    places: dict[str, dict[str, Place]] = {name: {} for name in manifest.parts}
    for key, place in manifest.places.items():
        places[place.part][key] = place
    items: dict[str, Item] = {}
    for name, data in read_in_order(store, list(manifest.parts)):
        _check(manifest.parts[name], data)
        items.update(_read_items(manifest.parts[name], data, places[name]))
    return Snapshot(manifest, items)


def whole_part(store: Store, part: Part) -> bytes:
    """Read all of a part; blocks.

    Raises:
        Corrupt: the part is damaged or missing.
    """
    data = read_listed(store, part.name)
    _check(part, data)
    return data


def read_part(store: Store, manifest: Manifest, name: str) -> dict[str, Item]:
    """Read what a snapshot holds in one of its parts.

    Raises:
        Corrupt: the part is damaged or missing.
    """
    places = {key: place for key, place in manifest.places.items() if place.part == name}
    part = manifest.parts[name]
    return _read_items(part, whole_part(store, part), places)


def read_items(store: Store, manifest: Manifest, keys: Iterable[str]) -> dict[str, Item]:
    """Read some items only, each by the range of its frame; keys that the snapshot lacks are left out.

    Raises:
        Corrupt: a frame is damaged, or its part is gone.
    """
    wanted: dict[str, dict[tuple[int, int], list[str]]] = {}
    for key in keys:
        place = manifest.places.get(key)
        if place is not None:
            wanted.setdefault(place.part, {}).setdefault((place.offset, place.length), []).append(key)
    items: dict[str, Item] = {}
    for name, ranges in wanted.items():
        for (offset, length), inside in ranges.items():
            rows = _read_frame(name, read_range(store, name, offset, length))
            items.update((key, _pick(name, key, rows, manifest.places[key].row)) for key in inside)
    return items


def covered_by_kept(store: Store, partition: int) -> int:
    """The segment behind which all kept snapshots lie; 0 while there are fewer than are kept."""
    names = _manifest_names(store.list(_folder(partition)))
    return int(_order(names[-KEPT])[:12]) if len(names) >= KEPT else 0


def kept_manifests(store: Store, partition: int, known: Iterable[Manifest] = ()) -> list[Manifest]:
    """Read the snapshots that stay, newest last, but for those that are known."""
    names = _manifest_names(store.list(_folder(partition)))
    here = {manifest.name: manifest for manifest in known}
    return [here.get(name) or load_manifest(store, name) for name in names[-KEPT:]]


def items_shown(store: Store, partition: int) -> set[str]:
    """The items of the snapshots that stay."""
    return {key for manifest in kept_manifests(store, partition) for key in manifest.places}


def load_manifest(store: Store, name: str) -> Manifest:
    """Read one table of contents; raises ``Corrupt``."""
    metadata, batch = frames.read_stream(name, frames.decompress(name, read_listed(store, name)))
    head = _manifest_head(name, metadata.get(_KEY, b""))
    if _manifest_name(head.header) != name:
        raise Corrupt(name, f"is a copy of {_manifest_name(head.header)}")
    parts, places = {part.name: part for part in head.parts}, _places(name, head, batch)
    live = dict.fromkeys(parts, 0)
    for place in places.values():
        live[place.part] += max(place.size, 1)
    return Manifest(name, head.header, parts, places, live)


def garbage(names: Iterable[str], kept: Sequence[Manifest]) -> list[str]:
    """Tell which of a partition's snapshot objects no kept manifest needs.

    Args:
        names: a listing taken while no snapshot is being written, else its new parts look unneeded.
        kept: the manifests that stay; with none, nothing is garbage.
    """
    if not kept:
        return []
    needed = {name for manifest in kept for name in (manifest.name, *manifest.parts)}
    newest = kept[-1].name
    # Nothing behind the newest kept manifest is touched: a newer controller may have written it.
    return sorted(name for name in names if name not in needed and _order(name) <= _order(newest))


def snapshot_folder(partition: int) -> str:
    """The folder of one partition's snapshots, with its slash."""
    return _folder(partition)


class _Head(msgspec.Struct, frozen=True):
    header: SnapshotHeader
    parts: list[Part]


class _Version(msgspec.Struct):
    format: int


class _VersionHead(msgspec.Struct):
    header: _Version


def _folder(partition: int) -> str:
    return f"snapshots/{partition:04d}/"


def _manifest_name(header: SnapshotHeader) -> str:
    return f"{_folder(header.partition)}{header.segment_number:012d}-{header.epoch:06d}.arrow.zst"


def _manifest_names(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if "/parts/" not in name)


def _order(name: str) -> str:
    """Segment number and epoch out of a manifest's or part's name."""
    return name.rpartition("/")[2][:19]


def _encode_manifest(manifest: Manifest) -> Generator[None, None, bytes]:
    """In slices of some columns: rows of tuples would take three times as long."""
    head = msgspec.json.encode(_Head(manifest.header, list(manifest.parts.values())))
    index = {name: position for position, name in enumerate(manifest.parts)}
    keys = sorted(manifest.places)
    places = list(map(manifest.places.__getitem__, keys))
    arrays: list[Any] = []
    done = 0
    for position, name in enumerate(_PLACES.names, -1):
        done += len(keys)
        if done >= SLICE_CELLS:
            yield
            done = 0
        values: list[Any] = [place[position] for place in places] if position >= 0 else keys
        column = [index[part] for part in values] if name == "part" else values
        arrays.append(pa.array(column, _PLACES.field(name).type))
    schema = _PLACES.with_metadata({_KEY: head})
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return b"".join((schema.serialize(), batch.serialize(), frames.END_OF_STREAM))


def _manifest_head(name: str, raw: bytes) -> _Head:
    try:
        version = msgspec.json.decode(raw, type=_VersionHead).header.format
        if version > FORMAT:
            raise TooNew(name, f"written by a newer release (format {version}, this one reads {FORMAT})")
        return msgspec.json.decode(raw, type=_Head)
    except msgspec.MsgspecError as error:
        raise Corrupt(name, f"no snapshot's table of contents ({error})") from error


def _places(name: str, head: _Head, batch: frames.Batch) -> dict[str, Place]:
    parts = [part.name for part in head.parts]
    try:
        columns: list[Any] = [batch.column(field.name).to_pylist() for field in _PLACES]
        rows = zip(*columns, strict=True)
        return {key: Place(parts[part], *rest) for key, part, *rest in rows}
    except (KeyError, IndexError, TypeError) as error:
        raise Corrupt(name, f"its rows do not fit its parts ({error})") from error


def _read_items(part: Part, data: bytes, places: dict[str, Place]) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for found in _read_by_frame(part, data, places):
        items |= found
    return items


def _read_by_frame(part: Part, data: bytes, places: dict[str, Place]) -> Iterator[dict[str, Item]]:
    wanted: dict[tuple[int, int], list[str]] = {}
    for key, place in places.items():
        wanted.setdefault((place.offset, place.length), []).append(key)
    for (offset, length), keys in wanted.items():
        rows = _read_frame(part.name, data[offset : offset + length])
        yield {key: _pick(part.name, key, rows, places[key].row) for key in keys}


def _read_frame(name: str, frame: bytes) -> list[tuple[str, int, bytes]]:
    raw = frames.decompress(name, frame)
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(raw), _ITEMS)
    except pa.ArrowException as error:
        raise Corrupt(name, f"no rows of a snapshot ({error})") from error
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _pick(name: str, key: str, rows: list[tuple[str, int, bytes]], row: int) -> Item:
    if row >= len(rows) or rows[row][0] != key:
        raise Corrupt(name, f"{key} is not where the snapshot says")
    return Item(rows[row][1], rows[row][2])


def _check(part: Part, data: bytes) -> None:
    digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
    if len(data) != part.size or digest != part.digest:
        raise Corrupt(part.name, "its bytes do not have the digest that the snapshot recorded")
