"""Content keys: made before use, found by reference, erased for good."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hive_ray.core.keys import (
    DIGEST_KEY,
    STATE_KEY,
    conversation_key,
    is_conversation_key,
    is_run_key,
    key_ref,
    page_of,
)
from hive_ray.errors import Corrupt, KeyErased, KeysRefused, StoreError
from hive_ray.state.content import SealingCodec, key_of, next_nonce
from hive_ray.state.key_pages import PAIRS, open_page, page_folder, read_sealed
from hive_ray.state.key_supply import KeySupply
from hive_ray.state.keyring import Keyring
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.store import Store
from hive_ray.state.versions import version_name
from tests.state.faults import Faulty
from tests.state.keyrings import everything, keyring, local

PLACE = ("run", "7")


class Stopped(BaseException):
    """The process ended here."""


@pytest.fixture
def memory() -> Iterator[MemoryStore]:
    yield MemoryStore("keyring")
    forget_memory("keyring")


def a_key(ring: Keyring) -> bytes:
    """The first run key of a new page."""
    return key_ref(ring.add_page().page, 0)


def opens(store: Store, sealed: bytes) -> bool:
    """Whether a process that knows everything in the state can read a content."""
    try:
        SealingCodec(keyring(store)).open(sealed, PLACE)
    except KeyErased:
        return False
    return True


def test_references_say_which_kind_of_key_they_mean():
    """Only even slots of a run's page can be a run's key."""
    run = key_ref(b"pagepage", 4)

    assert is_run_key(run) and not is_conversation_key(run)
    assert conversation_key(run) == key_ref(b"pagepage", 5) == conversation_key(conversation_key(run))
    assert is_conversation_key(conversation_key(run))
    assert not any(map(is_run_key, (b"", STATE_KEY, DIGEST_KEY, conversation_key(run), run + b"x")))
    assert conversation_key(b"") == b""


def test_what_one_process_seals_another_opens(store: Store):
    """The keys are in the state, wrapped; both kinds of a run's key, and the state's own."""
    ring = keyring(store)
    run = a_key(ring)
    codec = SealingCodec(ring)
    sealed = [codec.seal(b"secret", PLACE, key) for key in (run, conversation_key(run), STATE_KEY)]

    other = SealingCodec(keyring(store, create=False))
    assert [other.open(data, PLACE) for data in sealed] == [b"secret"] * 3
    assert len(set(sealed)) == 3
    assert ring.digest_key() == keyring(store).digest_key()


def test_a_page_is_durable_before_its_first_key_is_given_away(store: Store):
    """A submission writes nothing: 256 runs take their keys from one page."""
    ring = keyring(store)
    supply = KeySupply(ring)
    assert supply.take() is None
    supply.refill()
    before = everything(store)
    taken = [supply.take() for _ in range(PAIRS)]

    assert len(set(taken)) == PAIRS and None not in taken
    assert all(is_run_key(key) for key in taken if key)
    assert supply.take() is None and supply.is_low
    assert everything(store) == before


def test_an_erased_key_is_gone_for_every_process(store: Store):
    """Its neighbours stay; nothing that lies in the state opens what it sealed."""
    ring = keyring(store)
    run = a_key(ring)
    gone = conversation_key(run)
    codec = SealingCodec(ring)
    said, kept = codec.seal(b"said", PLACE, gone), codec.seal(b"kept", PLACE, run)

    assert ring.erase([gone]) == 1
    assert ring.erase([gone]) == 0
    with pytest.raises(KeyErased):
        codec.open(said, PLACE)
    with pytest.raises(KeyErased):
        codec.seal(b"more", PLACE, gone)
    assert not opens(store, said) and opens(store, kept)
    old = store.get(version_name(page_folder(page_of(run)), 1))
    assert old == b"", "the version that held the key is emptied"


def test_a_process_that_trusts_its_keys_for_a_time_looks_again(memory: MemoryStore):
    """A worker that used a key before it was erased cannot use it for ever."""
    ring = keyring(memory)
    run = a_key(ring)
    sealed = SealingCodec(ring).seal(b"x", PLACE, run)
    now = 0.0
    other = Keyring(memory, lambda _: (local("k"), ()), trust_s=30.0, now=lambda: now)
    codec = SealingCodec(other)
    assert codec.open(sealed, PLACE) == b"x"
    ring.erase([run])
    assert codec.open(sealed, PLACE) == b"x"
    now = 31.0

    with pytest.raises(KeyErased):
        codec.open(sealed, PLACE)


def test_a_crash_between_any_two_steps_of_an_erasure_is_mended_by_repeating(memory: MemoryStore):
    """However far the first one came: after the second one the key is nowhere, and its neighbour is whole."""
    steps = 0
    while True:
        steps += 1
        name = f"erasure{steps}"
        store = MemoryStore(name)
        ring = keyring(store)
        run = a_key(ring)
        gone = [conversation_key(run), key_ref(page_of(run), 3)]
        ring.erase([key_ref(page_of(run), 9)])
        codec = SealingCodec(ring)
        said, kept = codec.seal(b"said", PLACE, gone[0]), codec.seal(b"kept", PLACE, run)
        raw = _keys(ring, gone)
        ended = _stop_at(store, steps, lambda faulty, gone=gone: keyring(faulty, create=False).erase(gone))

        assert opens(store, kept), f"step {steps}"
        keyring(store).erase(gone)
        assert not opens(store, said) and opens(store, kept), f"step {steps}"
        assert not _held(store, raw), f"step {steps}: an old version still holds the key"
        forget_memory(name)
        if ended:
            return


def test_a_fenced_process_brings_no_key_back(store: Store):
    """It read the page before others erased, and writes after: the number is taken, it reads again."""
    ring = keyring(store)
    page = ring.add_page().page
    keys = [key_ref(page, slot) for slot in range(0, 8, 2)]
    sealed = [SealingCodec(ring).seal(b"x", PLACE, key) for key in keys]
    slept = _Meeting(1, lambda: _erase_all(store, keys[1:3]), "create")
    late = keyring(Faulty(store, before=slept), create=False)

    late.erase(keys[:1])

    assert [opens(store, data) for data in sealed] == [False, False, False, True]


def _erase_all(store: Store, keys: list[bytes]) -> None:
    for key in keys:
        keyring(store, create=False).erase([key])


def test_two_that_erase_at_a_time_both_succeed(store: Store):
    """The one that loses the race for a version reads again and adds its own."""
    ring = keyring(store)
    page = ring.add_page().page
    keys = [key_ref(page, slot) for slot in range(0, 8, 2)]
    rings = [keyring(store, create=False) for _ in keys]
    sealed = [SealingCodec(ring).seal(b"x", PLACE, key) for key in keys]
    for one, key in zip(rings, keys, strict=True):
        one.load(key)
    for one, key in zip(rings, keys, strict=True):
        one.erase([key])

    assert not any(opens(store, data) for data in sealed)


def test_a_wrong_key_is_refused_and_changes_nothing(store: Store):
    """It says which key the state needs, and which was given."""
    keyring(store).add_page()
    before = everything(store)

    with pytest.raises(KeysRefused) as refused:
        keyring(store, "x")
    assert local("k").id in str(refused.value) and local("x").id in str(refused.value)
    assert everything(store) == before


def test_keys_that_are_needed_and_missing_are_refused(store: Store):
    """A worker makes no keys; only who starts an installation does."""
    with pytest.raises(KeysRefused, match="made by `hive-ray up`"):
        keyring(store, create=False)
    assert everything(store) == {}


def test_rotation_lets_the_old_key_go(store: Store):
    """Content is not written again; the old key opens nothing any more, the new one everything."""
    ring = keyring(store, "a")
    run = a_key(ring)
    sealed = SealingCodec(ring).seal(b"x", PLACE, run)
    both = keyring(store, "b", [local("a")])
    assert SealingCodec(both).open(sealed, PLACE) == b"x"

    assert both.rotate() == 1
    assert both.rotate() == 0
    assert SealingCodec(keyring(store, "b")).open(sealed, PLACE) == b"x"
    with pytest.raises(KeysRefused):
        keyring(store, "a")
    wraps = [data for name, data in everything(store).items() if name.startswith("keys/intermediate/")]
    assert not any(local("a").id.encode() in data for data in wraps)
    view = both.view()
    assert (view.key, view.wrapped_by) == (local("b").id, {1: local("b").id})
    assert (view.pages, view.keys, view.erased) == (2, 2 * PAIRS + 2, 0)


def test_a_crash_between_any_two_steps_of_a_rotation_is_mended_by_repeating(memory: MemoryStore):
    """Meanwhile one of the two keys opens the state; afterwards the new one does."""
    steps = 0
    while True:
        steps += 1
        name = f"rotation{steps}"
        store = MemoryStore(name)
        ring = keyring(store, "a")
        sealed = SealingCodec(ring).seal(b"x", PLACE, a_key(ring))
        ended = _stop_at(store, steps, lambda faulty: keyring(faulty, "b", [local("a")]).rotate())

        assert SealingCodec(keyring(store, "b", [local("a")])).open(sealed, PLACE) == b"x", f"step {steps}"
        keyring(store, "b", [local("a")]).rotate()
        assert SealingCodec(keyring(store, "b")).open(sealed, PLACE) == b"x", f"step {steps}"
        names = store.list("keys/intermediate/")
        assert [bool(store.get(n)) for n in names] == [*[False] * (len(names) - 1), True], f"step {steps}"
        forget_memory(name)
        if ended:
            return


def test_two_that_begin_a_state_agree_on_its_keys(memory: MemoryStore):
    """Between any two steps of the one, the other makes the keys: both seal for each other."""
    steps = 0
    while True:
        steps += 1
        name = f"begin{steps}"
        store = MemoryStore(name)
        met = _Meeting(steps, lambda store=store: keyring(store))
        one = keyring(Faulty(store, before=met))
        sealed = SealingCodec(one).seal(b"x", PLACE, STATE_KEY)

        assert SealingCodec(keyring(store)).open(sealed, PLACE) == b"x", f"step {steps}"
        forget_memory(name)
        if not met.happened:
            return


def test_a_page_in_anothers_place_is_refused(store: Store):
    """A copy of an older version, or of another page, cannot bring keys back."""
    ring = keyring(store)
    run = a_key(ring)
    folder = page_folder(page_of(run))
    old = store.get(version_name(folder, 1))
    ring.erase([run])
    store.create(version_name(folder, 3), old)
    store.create(version_name(page_folder(b"another!"), 1), old)

    for ref in (run, key_ref(b"another!", 0)):
        with pytest.raises(Corrupt, match="copy"):
            keyring(store).cipher(ref)


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b"\xc1"]
)
def test_a_damaged_page_is_named(store: Store, change: Callable[[bytes], bytes]):
    """It is never taken for another key."""
    ring = keyring(store)
    run = a_key(ring)
    name = version_name(page_folder(page_of(run)), 1)
    store.put(name, change(store.get(name)))

    with pytest.raises(Corrupt, match=name):
        keyring(store).cipher(run)


def test_sealed_content_opens_in_its_place_only(store: Store):
    """Moved to another run, seq or field it does not open; nor does it when a byte changed."""
    ring = keyring(store)
    codec = SealingCodec(ring)
    sealed = codec.seal(b"secret", PLACE, a_key(ring))

    assert b"secret" not in sealed and sealed[:1] == b"\x01"
    for place in (("run", "8"), ("other", "7"), ("run", "7", "x"), ("run7",)):
        with pytest.raises(StoreError, match="another place"):
            codec.open(sealed, place)
    for at in range(23, len(sealed)):
        with pytest.raises(StoreError):
            codec.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], PLACE)


def test_threads_and_forked_processes_never_share_a_nonce():
    """They are taken from the system many at a time: what a fork copies is thrown away."""
    with ThreadPoolExecutor(8) as pool:
        taken = [nonce for batch in pool.map(_nonces, [1_000] * 8) for nonce in batch]
    next_nonce()

    with multiprocessing.get_context("fork").Pool(1) as forked:
        taken += forked.apply(_nonces, (300,))
    taken += _nonces(300)
    assert len(set(taken)) == len(taken) == 8_600


def _nonces(count: int) -> list[bytes]:
    return [next_nonce() for _ in range(count)]


def test_nonces_are_never_repeated(memory: MemoryStore):
    """The same content under the same key looks different each time."""
    codec = SealingCodec(keyring(memory))

    assert len({codec.seal(b"same", PLACE, STATE_KEY) for _ in range(1000)}) == 1000


def test_plain_content_stays_readable_and_empty_content_empty(memory: MemoryStore):
    """What an earlier release wrote opens; an unknown form is refused by name."""
    codec = SealingCodec(keyring(memory))

    assert codec.open(b"\x00x", PLACE) == b"x"
    assert codec.seal(b"x", PLACE) == b"\x00x"
    assert codec.seal(b"", PLACE, STATE_KEY) == b"" == codec.open(b"", PLACE)
    with pytest.raises(StoreError, match="form 3"):
        codec.open(b"\x03x", PLACE)


def test_large_content_is_packed_before_it_is_sealed(store: Store):
    """Text of some length takes a fraction of its size; what does not get smaller is sealed as it is."""
    ring = keyring(store)
    codec, key = SealingCodec(ring), a_key(ring)
    text = json.dumps([{"order": number, "state": "paid"} for number in range(500)]).encode()
    noise = os.urandom(20_000)

    packed, plain = codec.seal(text, PLACE, key), codec.seal(noise, PLACE, key)

    assert packed[:1] == b"\x02" and len(packed) < len(text) / 4
    assert plain[:1] == b"\x01" and len(plain) == len(noise) + 39
    assert codec.open(packed, PLACE) == text and codec.open(plain, PLACE) == noise
    assert key_of(packed) == key_of(plain) == key
    for at in range(23, len(packed)):
        with pytest.raises(StoreError):
            codec.open(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :], PLACE)
    with pytest.raises(StoreError, match="another place"):
        codec.open(packed, ("run", "8"))


# --- where things stop ---------------------------------------------------------------------------


class _Meeting:
    """Does something once, before the n-th operation of a store."""

    def __init__(self, at: int, work: Callable[[], object], operation: str = "") -> None:
        self._left = at
        self._work = work
        self._operation = operation
        self.happened = False

    def __call__(self, operation: str, name: str) -> None:
        self._left -= self._operation in ("", operation)
        if self._left == 0 and not self.happened:
            self.happened = True
            self._work()


def _stop_at(store: Store, step: int, work: Callable[[Store], object]) -> bool:
    """Let the process end after its n-th operation on the store; whether it came to its end before."""
    left = [step]

    def stop(operation: str, name: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    try:
        work(Faulty(store, after=stop))
    except Stopped:
        return False
    return True


def _keys(ring: Keyring, refs: list[bytes]) -> list[bytes]:
    page = ring._page(page_of(refs[0]))
    return [page.key(int.from_bytes(ref[-2:], "big")) for ref in refs]


def _held(store: Store, raw: list[bytes]) -> bool:
    """Whether any version of any page still holds one of these keys."""
    ring = keyring(store)
    for name in store.list("keys/pages/"):
        data = store.get(name)
        if data:
            sealed = read_sealed(name, data)
            keys = open_page(name, sealed, ring._intermediate[sealed.intermediate]).keys
            if any(key in keys for key in raw):
                return True
    return False
