"""What the controllers of a history keep their state in: a store that may be damaged, and its keys."""

from __future__ import annotations

import os
import shutil
from itertools import count
from random import Random
from types import SimpleNamespace

from hive_ray.core.keys import NO_KEY
from hive_ray.errors import Corrupt, KeyErased
from hive_ray.state import content, frames, intermediate_keys, key_pages, snapshots
from hive_ray.state.blobs import BlobRef, Blobs
from hive_ray.state.content import ContentCodec, PlainCodec, SealingCodec
from hive_ray.state.file_store import FileStore
from hive_ray.state.key_providers import LocalKey
from hive_ray.state.key_supply import KeySupply
from hive_ray.state.keyring import Keyring
from hive_ray.state.memory_store import Hook, MemoryStore, forget_memory
from hive_ray.state.segments import segment_name, segment_number
from hive_ray.state.store import Store, open_store
from hive_ray.testing import GatedStore
from tests.simulation import reading
from tests.simulation.plan import Plan

DIGEST_KEY = b"k" * 32
DISK = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
"""Where a file store costs no waiting for a disk."""
_NAMES = count()


def codec_over(store: Store, keyring: Keyring | None) -> tuple[ContentCodec, Blobs]:
    """Content sealed by a keyring, or plain without one."""
    if keyring is None:
        return PlainCodec(), Blobs(store, PlainCodec(), DIGEST_KEY)
    codec = SealingCodec(keyring)
    return codec, Blobs(store, codec, DIGEST_KEY, keyring.digest_key)


def _draw_secrets_from(chance: Random) -> None:
    """Keys and nonces come from the seed too: what is damaged depends on the bytes that are there."""
    _take_secrets_from(SimpleNamespace(urandom=Random(chance.getrandbits(64)).randbytes))


def _take_secrets_from(source: object) -> None:
    """``source`` is ``os`` again at the end: whoever comes later needs nonces that nobody can foresee."""
    for module in (content, intermediate_keys, key_pages):
        module.os = source  # pyright: ignore[reportAttributeAccessIssue]
    content._nonces.clear()


class Storage:
    """One history's store and keys."""

    def __init__(self, plan: Plan, chance: Random) -> None:
        self.plan = plan
        self.chance = chance
        _draw_secrets_from(chance)
        reading.begin()
        self.damaged: dict[str, bytes] = {}
        """Objects as they were before they were damaged."""
        self._space = f"simulation-{os.getpid()}-{next(_NAMES)}"
        self._lacks = int(chance.random() * 3) if plan.on_disk else 0
        """Ways to create an object that its filesystem does not have."""
        self.raw = self._raw_store()
        self._holders = [LocalKey(b"k" * 32, "the simulation")]
        self.keyring = self.open_keyring(self.raw)
        if self.keyring is not None:
            self.keyring.open(create=True)
            self._supply = KeySupply(self.keyring)
        self.codec, self.blobs = codec_over(self.raw, self.keyring)

    def _raw_store(self) -> Store:
        """In memory, or on a disk of memory, whose filesystem may lack ways to create an object at once."""
        if not self.plan.on_disk:
            return open_store(f"memory://{self._space}")
        store = FileStore(f"{DISK}/{self._space}")
        store._ways = store._ways[self._lacks :]
        return store

    def open_store(self, before: Hook, after: Hook) -> Store:
        if self.plan.on_disk:
            return GatedStore(self._raw_store(), before, after)
        return MemoryStore(self._space, before=before, after=after)

    def clear(self) -> None:
        """Nothing is left of the store."""
        _take_secrets_from(os)
        reading.end()
        self.raw.close()
        forget_memory(self._space)
        if self.plan.on_disk:
            shutil.rmtree(f"{DISK}/{self._space}", ignore_errors=True)

    def open_keyring(self, store: Store) -> Keyring | None:
        if not (self.plan.sealed and self.plan.parks):
            return None
        return self.keyring_over(store)

    def keyring_over(self, store: Store) -> Keyring:
        """The keys that lie in a store, or in a copy of it."""
        return Keyring(store, lambda create: (self._holders[-1], self._holders[:-1]))

    def keep(self, run: str, data: bytes, key: bytes) -> BlobRef | None:
        """Write a blob; None: its key is erased."""
        try:
            return self.blobs.put(run, data, key)
        except KeyErased:
            return None

    def new_key(self) -> None:
        """From now on content keys are wrapped by another key; the old ones stay listed."""
        self._holders.append(LocalKey(self.chance.randbytes(32), "the simulation"))

    def run_key(self) -> bytes:
        """A key for a new run, as a replica has it ready; empty where nothing is sealed."""
        if self.keyring is None:
            return NO_KEY
        self._supply.refill()
        key = self._supply.take()
        assert key is not None
        return key

    def needed(self) -> list[str]:
        """The objects that a recovery which begins now reads."""
        folder = snapshots.snapshot_folder(0)
        manifests = [name for name in self.raw.list(folder) if "/parts/" not in name]
        segments = [name for name in self.raw.list("journal/0000/") if segment_number(name)]
        if not manifests:
            return segments
        manifest = snapshots.load_manifest(self.raw, manifests[-1])
        after = segment_name(0, manifest.header.segment_number)
        return [name for name in segments if name > after] + [manifest.name, *manifest.parts]

    def mend(self) -> None:
        for name, data in self.damaged.items():
            self.raw.put(name, data)
        self.damaged = {}


def says_the_same(name: str, data: bytes, damaged: bytes) -> bool:
    """Some bits of a zstd frame mean nothing."""
    try:
        return frames.decompress(name, damaged) == frames.decompress(name, data)
    except Corrupt:
        return False


def damaged(data: bytes, chance: float) -> bytes:
    """Cut short, or one bit of it turned; what is empty gets a byte."""
    if not data:
        return b"\x40"
    place = int(chance * len(data))
    if place % 2:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
