"""Content that is addressed by its own keyed digest."""

from __future__ import annotations

import pytest

from hive_ray.core.keys import STATE_KEY
from hive_ray.errors import Corrupt, ObjectMissing, StoreError
from hive_ray.state.blobs import BlobRef, Blobs, graph_name, memory_written_us
from hive_ray.state.content import PlainCodec, SealingCodec
from hive_ray.state.store import Store
from tests.state.faults import Faulty, once
from tests.state.keyrings import keyring

KEY = b"k" * 32


@pytest.mark.parametrize("data", [b"", b"x", bytes(300_000)])
def test_blob_comes_back(store: Store, data: bytes):
    """Any content, empty too."""
    blobs = Blobs(store, PlainCodec(), KEY)
    ref = blobs.put("run-1", data)

    assert ref.size == len(data)
    assert blobs.get(ref) == data


def test_same_content_is_one_object_per_run_and_key(store: Store):
    """A repeated put writes nothing new; runs and keys share no names."""
    one = Blobs(store, PlainCodec(), KEY)
    refs = [
        one.put("a", b"x"),
        one.put("a", b"x"),
        one.put("b", b"x"),
        Blobs(store, PlainCodec(), b"z").put("a", b"x"),
    ]

    assert refs[0] == refs[1]
    assert len({ref.name for ref in refs}) == len(store.list("blobs/")) == 3


def test_a_value_of_long_term_memory_has_a_name_of_its_own_that_tells_when_it_was_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """To the second; the names of other blobs tell nothing of that kind."""
    monkeypatch.setattr("hive_ray.state.blobs.time.time", lambda: 1_700_000_000.9)
    blobs = Blobs(store, SealingCodec(keyring(store)), KEY)
    one, other = (blobs.put("memory-agent-a", b"x", STATE_KEY) for _ in range(2))

    assert one.name != other.name and blobs.get(one) == blobs.get(other) == b"x"
    assert memory_written_us(one.name) == 1_700_000_000_000_000
    assert memory_written_us(blobs.put("run", b"x").name) == 0


def test_lost_acknowledgement_of_a_blob_is_mended_by_repeating(store: Store):
    """The second try finds the first one's object and is content."""
    blobs = Blobs(Faulty(store, after=once("create", StoreError("reset"))), PlainCodec(), KEY)
    with pytest.raises(StoreError, match="reset"):
        blobs.put("a", b"x")

    assert blobs.get(blobs.put("a", b"x")) == b"x"


def test_changed_blob_is_refused_by_name(store: Store):
    """Content that does not fit its digest is never handed out."""
    blobs = Blobs(store, PlainCodec(), KEY)
    ref = blobs.put("a", b"right")
    for wrong in (b"\x00wrong", b"\x00righ", b""):
        store.put(ref.name, wrong)
        with pytest.raises(Corrupt, match=ref.name):
            blobs.get(ref)


def test_missing_blob_is_missing(store: Store):
    """A blob that is gone is not called damaged."""
    with pytest.raises(ObjectMissing, match="blobs/a/0"):
        Blobs(store, PlainCodec(), KEY).get(BlobRef("blobs/a/00", 1))


def test_graph_is_kept_by_its_hash(store: Store):
    """Putting it twice is putting it once."""
    blobs = Blobs(store, PlainCodec(), KEY)
    blobs.put_graph("abc", b"{}")
    blobs.put_graph("abc", b"{}")

    assert blobs.get_graph("abc") == b"{}"
    assert store.list("graphs/") == [graph_name("abc")]


def test_plain_codec_marks_its_form_and_keeps_empty_content_empty():
    """The first byte says how to open it; an unknown form is refused with its place and remedy."""
    codec = PlainCodec()

    assert codec.seal(b"", ("r",)) == b"" and codec.open(b"", ("r",)) == b""
    assert codec.seal(b"x", ("r",)) == b"\x00x" and codec.open(b"\x00x", ("r",)) == b"x"
    with pytest.raises(StoreError, match=r"r/field.*form 1.*release"):
        codec.open(b"\x01x", ("r", "field"))
