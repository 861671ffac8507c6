"""Looks for what must not be found: in everything that lies in a state, in every form it may lie there.

``found`` has no keys; ``readable`` has all of those that are in the state, and says what they open.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from hive_ray.errors import KeyErased, ObjectMissing
from hive_ray.state.content import ContentCodec
from hive_ray.state.snapshot_items import open_item
from hive_ray.state.snapshots import Item
from hive_ray.state.store import Store

ZSTD = b"\x28\xb5\x2f\xfd"
PARQUET = b"PAR1"
ARROW = b"\xff\xff\xff\xff"


def found(store: Store, canary: str) -> list[str]:
    """Objects in which a text stands: raw, decompressed, or as a value of a table."""
    wanted = canary.encode()
    return [name for name in store.list("") if any(wanted in text for text in forms(store.get(name)))]


def found_below(folder: Path, texts: Iterable[str]) -> dict[str, list[str]]:
    """Files below a folder in which some texts stand, in any of the forms of ``found``, by text."""
    wanted = {text: text.encode() for text in texts}
    places: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        try:
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        except FileNotFoundError:
            # Whoever works there deletes what is old.
            continue
        inside = list(forms(data))
        for text, raw in wanted.items():
            if any(raw in form for form in inside):
                places.setdefault(text, []).append(str(path))
    return places


def forms(data: bytes) -> Iterator[bytes]:
    """An object's bytes in every form in which somebody could read them, values within values too."""
    yield data
    raw = decompressed(data)
    if raw is not None:
        yield raw
    for row in rows(data):
        for value in row.values():
            if isinstance(value, str):
                yield value.encode()
            elif isinstance(value, bytes):
                yield from forms(value)


def decompressed(data: bytes) -> bytes | None:
    """What zstd frames hold, one or several after each other."""
    if not data.startswith(ZSTD):
        return None
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    try:
        return reader.read()
    except zstandard.ZstdError:
        # Something else that begins so, ciphertext perhaps.
        return None


def rows(data: bytes) -> list[dict[str, object]]:
    """The rows of an Arrow stream (compressed or not) or of a Parquet file."""
    if data.startswith(PARQUET):
        return pq.read_table(io.BytesIO(data)).to_pylist()
    raw = decompressed(data)
    if raw is None or not raw.startswith(ARROW):
        return []
    with pa.ipc.open_stream(raw) as reader:
        return reader.read_all().to_pylist()


def readable(store: Store, codec: ContentCodec) -> Iterator[tuple[str, bytes]]:
    """Everything sealed that still opens with the keys of the state, by the object it lies in."""
    seen: set[str] = set()
    while fresh := [name for name in store.list("") if name not in seen]:
        seen.update(fresh)
        for name in fresh:
            # What a live controller compacts meanwhile is in a newer file, which the next listing names.
            with suppress(ObjectMissing):
                yield from _opened(name, store.get(name), codec)


def _opened(name: str, stored: bytes, codec: ContentCodec) -> Iterator[tuple[str, bytes]]:
    for place, data in _sealed(name, stored):
        with suppress(KeyErased):
            yield name, codec.open(data, place)
    for row in rows(stored) if name.startswith("snapshots/") and "/parts/" in name else []:
        with suppress(KeyErased):
            yield name, open_item(codec, str(row["key"]), Item(row["seq"], row["data"]))  # type: ignore[arg-type]
    for row in rows(stored) if name.startswith("runs/") else []:
        with suppress(KeyErased):
            yield name, open_item(codec, f"run/{row['run_id']}", Item(row["seq"], row["state"]))  # type: ignore[arg-type]


def opens(store: Store, codec: ContentCodec, canary: str) -> list[str]:
    """Objects out of which the keys of the state give a text."""
    return sorted({name for name, data in readable(store, codec) if canary.encode() in data})


def _sealed(name: str, data: bytes) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """(place, sealed value) of what an object holds."""
    parts = name.split("/")
    if parts[0] == "blobs":
        yield (parts[1], "blob", parts[2]), data
    elif parts[0] == "graphs":
        yield ("graph", parts[1]), data
    elif parts[0] in ("journal", "history"):
        for row in rows(data):
            content = row.get("content")
            if isinstance(content, bytes) and content:
                yield (str(row.get("run") or row.get("run_id") or ""), str(row["seq"])), content
