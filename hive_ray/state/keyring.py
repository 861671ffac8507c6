"""The content keys of one state: where a reference leads to a key, and how a key is erased.

    key-encryption key (provider)  wraps  intermediate key  seals  pages  of  run and conversation keys

Opened once in a process. Pages and ciphers that were used stay in memory, in bounded numbers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hive_ray.core.keys import DIGEST_KEY, STATE_KEY, page_of, slot_of
from hive_ray.errors import Corrupt, KeysRefused, StoreError
from hive_ray.state import intermediate_keys, versions
from hive_ray.state.intermediate_keys import KeyProvider
from hive_ray.state.key_pages import Page, new_page, open_page, page_folder, read_sealed, seal_page
from hive_ray.state.store import Store

PAGES_KEPT = 1024
"""Pages in memory, 16 KiB each."""
CIPHERS_KEPT = 16_384
_ERASE_TRIES = 100
_READERS = 8

Holders = Callable[[bool], tuple[KeyProvider, Sequence[KeyProvider]]]
"""The present key and the old ones. The flag: nothing is sealed yet, so a missing key may be made."""


class KeyringView(NamedTuple):
    """What may be told about a keyring."""

    key: str
    """Id of the configured key-encryption key."""
    wrapped_by: dict[int, str]
    """Intermediate key to the key that wraps it."""
    pages: int
    keys: int
    erased: int


class Keyring:
    """Keys by reference.

    Args:
        holders: asked when the keyring is opened.
        trust_s: how long keys are used without looking whether they were erased since; 0: for ever, which
            only the one that erases them may do.
    """

    def __init__(
        self,
        store: Store,
        holders: Holders,
        trust_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._holders = holders
        self._trust_s = trust_s
        self._now = now
        self._intermediate: dict[int, bytes] = {}
        self._pages: OrderedDict[bytes, Page] = OrderedDict()
        self._ciphers: dict[bytes, AESGCM] = {}
        self._digest_key = b""
        self._stale_at = 0.0
        self._lock = threading.RLock()

    # --- opening ---------------------------------------------------------------------------------

    def open(self, create: bool = False) -> None:
        """Unwrap the intermediate keys, unless that is done; everything else opens by itself when needed.

        Args:
            create: make keys for a state that has none.

        Raises:
            KeysRefused: the configured keys are not those of this state; nothing was written.
            KeysUnavailable: the holder of a key does not answer.
            StoreError: the store failed.
        """
        with self._lock:
            if self._intermediate:
                return
            sealed = intermediate_keys.exist(self._store)
            if not sealed and not create:
                raise KeysRefused(f"{self._store.url} has no keys yet: they are made by `hive-ray up`")
            provider, old = self._holders(create and not sealed)
            if not sealed:
                intermediate_keys.create_first(self._store, provider)
            wrapped = intermediate_keys.load(self._store)
            self._intermediate = intermediate_keys.unwrap_all(wrapped, provider, old)
            if create:
                self._create_state_page()

    def _create_state_page(self) -> None:
        page = new_page(2, page_of(STATE_KEY))
        if versions.newest(self._store, page_folder(page.page)) is None:
            versions.replace(self._store, page_folder(page.page), 1, self._sealed(page))

    # --- using -----------------------------------------------------------------------------------

    def cipher(self, ref: bytes) -> AESGCM:
        """The cipher behind a reference.

        Raises:
            KeyErased: the key was erased.
            StoreError: its page cannot be read.
        """
        if self._trust_s and self._now() > self._stale_at:
            self._distrust()
        cipher = self._ciphers.get(ref)
        return cipher if cipher is not None else self._load_cipher(ref)

    def digest_key(self) -> bytes:
        """The secret that keys digests of content."""
        if not self._digest_key:
            self._digest_key = self._page(page_of(DIGEST_KEY)).key(slot_of(DIGEST_KEY))
        return self._digest_key

    def load(self, ref: bytes) -> None:
        """Read a key's page ahead of its use."""
        self._page(page_of(ref))

    def load_all(self, refs: Iterable[bytes]) -> None:
        """Read the pages of keys ahead of their use, several at a time; as many as are kept."""
        pages = list(dict.fromkeys(map(page_of, refs)))[:PAGES_KEPT]
        self.open()
        if self._store.inline or len(pages) < 2:
            for page in pages:
                self._page(page)
            return
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(self._page, pages))

    def knows(self, ref: bytes) -> bool:
        """Whether a key can be used without reading anything."""
        return ref in self._ciphers or page_of(ref) in self._pages

    def _distrust(self) -> None:
        with self._lock:
            self._ciphers = {}
            self._pages.clear()
            self._stale_at = self._now() + self._trust_s

    def _load_cipher(self, ref: bytes) -> AESGCM:
        cipher = AESGCM(self._page(page_of(ref)).key(slot_of(ref)))
        with self._lock:
            if len(self._ciphers) >= CIPHERS_KEPT:
                # The older half goes: cheaper than an order by use, and a cipher is quickly made again.
                for old in list(self._ciphers)[: CIPHERS_KEPT // 2]:
                    del self._ciphers[old]
            self._ciphers[ref] = cipher
        return cipher

    def _page(self, page: bytes) -> Page:
        with self._lock:
            found = self._pages.get(page)
            if found is not None:
                self._pages.move_to_end(page)
                return found
        return self._keep(self._read(page))

    def _keep(self, page: Page) -> Page:
        """Remember a page, unless a newer version of it was remembered while this one was read."""
        with self._lock:
            known = self._pages.get(page.page)
            if known is not None and known.version > page.version:
                return known
            self._pages[page.page] = page
            if len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
            return page

    def _read(self, page: bytes) -> Page:
        self.open()
        folder = page_folder(page)
        found = versions.newest(self._store, folder)
        if found is None:
            raise Corrupt(folder, "missing, though content is sealed with its keys")
        name = versions.version_name(folder, found.number)
        sealed = read_sealed(name, found.data)
        if (sealed.page, sealed.version) != (page, found.number):
            raise Corrupt(name, f"is a copy of version {sealed.version} of page {sealed.page.hex()}")
        key = self._intermediate.get(sealed.intermediate)
        if key is None:
            raise Corrupt(name, f"sealed with intermediate key {sealed.intermediate}, which is not here")
        return open_page(name, sealed, key)

    # --- changing --------------------------------------------------------------------------------

    def add_page(self) -> Page:
        """Make a page of fresh keys, durable on return."""
        self.open()
        page = new_page()
        folder = page_folder(page.page)
        if not versions.replace(self._store, folder, 1, self._sealed(page)):
            raise StoreError(f"{self._store.url}/{folder} exists already")
        return self._keep(page)

    def erase(self, refs: Iterable[bytes]) -> int:
        """Make keys unreadable for good; returns how many pages were written. Repeating it is harmless.

        Raises:
            StoreError: the store failed; erase again.
        """
        slots: dict[bytes, list[int]] = {}
        for ref in refs:
            slots.setdefault(page_of(ref), []).append(slot_of(ref))
        return sum(self._erase(page, gone) for page, gone in slots.items())

    def _erase(self, page: bytes, slots: list[int]) -> bool:
        folder = page_folder(page)
        for _ in range(_ERASE_TRIES):
            # Never from memory: a version that somebody else wrote has erasures that must stay.
            present = self._read(page)
            after = present.without(slots)
            if after is present or versions.replace(self._store, folder, after.version, self._sealed(after)):
                versions.empty_older(self._store, folder)
                self._drop(after, slots)
                return after is not present
        raise StoreError(f"{self._store.url}/{folder} is replaced all the time; erase again")

    def _drop(self, page: Page, slots: list[int]) -> None:
        with self._lock:
            self._keep(page)
            for ref in [r for r in self._ciphers if page_of(r) == page.page and slot_of(r) in slots]:
                del self._ciphers[ref]

    def rotate(self) -> int:
        """Wrap every intermediate key with the present key; returns how many an old one had wrapped."""
        provider, old = self._holders(False)
        return intermediate_keys.rewrap_all(self._store, provider, old)

    def view(self) -> KeyringView:
        """Read all pages and count."""
        provider, _ = self._holders(False)
        self.open()
        wrapped = {number: key.kek for number, key in intermediate_keys.load(self._store).items()}
        names = sorted({name.split("/")[2] for name in self._store.list("keys/pages/")})
        pages = [self._read(bytes.fromhex(name)) for name in names]
        return KeyringView(
            provider.id, wrapped, len(pages), sum(p.slots for p in pages), sum(p.erased for p in pages)
        )

    def _sealed(self, page: Page) -> bytes:
        number = max(self._intermediate)
        return seal_page(page, number, self._intermediate[number])
