"""The segment codec: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hive_ray.errors import Corrupt
from hive_ray.state import frames
from hive_ray.state.segments import (
    FORMAT,
    Columns,
    SegmentHeader,
    decode_segment,
    encode_segment,
    segment_name,
    segment_number,
)
from tests.state.faults import rows

HEADER = SegmentHeader(partition=2, number=9, epoch=3, nonce="n" * 16, claim=4, first_seq=70)
NAME = segment_name(2, 9)


def test_rows_and_header_come_back():
    """A segment is its header and its rows."""
    segment = decode_segment(NAME, encode_segment(HEADER, rows(70, 5)))

    assert segment.header == HEADER
    assert segment.columns == rows(70, 5)
    assert segment.next_seq == 75


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.text(st.characters(exclude_categories=["Cs"])),
            st.text(st.characters(exclude_categories=["Cs"])),
            st.binary(),
            st.binary(max_size=500),
        ),
        min_size=1,
        max_size=70,
    )
)
def test_any_rows_come_back(items: list[tuple[int, str, str, bytes, bytes]]):
    """Both ways of building a batch (few rows, many rows) keep every value."""
    times, runs, kinds, bodies, contents = (list(column) for column in zip(*items, strict=True))
    columns = Columns(list(range(70, 70 + len(items))), times, runs, kinds, bodies, contents)

    assert decode_segment(NAME, encode_segment(HEADER, columns)).columns == columns


def test_few_and_many_rows_are_written_in_one_form():
    """The two ways of building a batch differ in speed only."""
    few, many = (encode_segment(HEADER, rows(70, count)) for count in (31, 33))

    schemas = [pa.ipc.open_stream(frames.decompress(NAME, data)).schema for data in (few, many)]
    assert schemas[0].equals(schemas[1], check_metadata=True)


def test_equal_rows_give_equal_bytes():
    """A repeated write is byte for byte the first one."""
    assert encode_segment(HEADER, rows(70)) == encode_segment(HEADER, rows(70))


def test_every_flipped_bit_is_refused_by_name():
    """Each bit of each byte: the segment is refused, or (a bit without meaning) reads exactly the same."""
    data = encode_segment(HEADER, rows(70))
    whole = decode_segment(NAME, data)
    harmless = 0
    for position in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            assert decode_segment(NAME, bytes(flipped)) == whole
            harmless += 1
        except Corrupt as error:
            assert error.name == NAME

    # Some bits of a zstd table decode to the same content either way.
    assert harmless < len(data) * 8 // 100


@pytest.mark.parametrize("count", [3, 400])
def test_every_truncation_is_refused_by_name(count: int):
    """A torn object never passes for a shorter one; neither does a longer one."""
    data = encode_segment(HEADER, rows(70, count))
    for length in [*range(0, len(data), max(1, len(data) // 400)), len(data) - 1]:
        with pytest.raises(Corrupt, match=NAME):
            decode_segment(NAME, data[:length])
    with pytest.raises(Corrupt, match=NAME):
        decode_segment(NAME, data + b"\0")
    with pytest.raises(Corrupt, match=NAME):
        decode_segment(NAME, data + data)


@pytest.mark.parametrize("data", [b"not zstd at all", zstandard.compress(b"no checksum"), bytes(100)])
def test_foreign_bytes_are_refused(data: bytes):
    """Whatever is no segment is named."""
    with pytest.raises(Corrupt, match=NAME):
        decode_segment(NAME, data)


def test_bytes_that_are_no_arrow_and_arrow_that_is_no_segment_are_refused():
    """A good frame around something else does not pass."""
    other = pa.RecordBatch.from_pydict({"a": [1]})
    stream = other.schema.serialize().to_pybytes() + other.serialize().to_pybytes() + frames.END_OF_STREAM
    for raw in (b"hello", stream):
        with pytest.raises(Corrupt, match=NAME):
            decode_segment(NAME, frames.compress(raw))


def test_frame_that_claims_a_huge_size_is_refused_without_memory():
    """A damaged size field must not take the machine's memory."""
    header = bytes.fromhex("28b52ffd") + bytes([0xE4]) + (1 << 40).to_bytes(8, "little")
    with pytest.raises(Corrupt, match="claims"):
        decode_segment(NAME, header + bytes(50))


def test_segment_under_another_name_is_refused():
    """A copied or renamed object does not stand in for another."""
    with pytest.raises(Corrupt, match="copy of segment 9"):
        decode_segment(segment_name(2, 10), encode_segment(HEADER, rows(70)))


def test_rows_out_of_order_are_refused():
    """Seqs inside a segment have no gaps."""
    columns = rows(70)._replace(seq=[70, 72, 73])
    with pytest.raises(Corrupt, match="without gaps"):
        decode_segment(NAME, encode_segment(HEADER, columns))


def test_unknown_format_says_that_a_newer_release_wrote_it():
    """The remedy for a newer file is not a backup."""
    newer = msgspec.structs.replace(HEADER, format=FORMAT + 1)
    with pytest.raises(Corrupt, match="written by a newer release"):
        decode_segment(NAME, encode_segment(newer, rows(70)))


def _rewritten(change: str) -> bytes:
    """A segment as another release would write it: one column more, or one less."""
    with pa.ipc.open_stream(frames.decompress(NAME, encode_segment(HEADER, rows(70)))) as reader:
        metadata, batch = reader.schema.metadata, reader.read_next_batch()
    if change == "more":
        batch = batch.append_column("trace", pa.array([None, "t", None], pa.string()))
    else:
        batch = batch.drop_columns(["content"])
    schema = batch.schema.with_metadata(metadata)
    parts = (schema.serialize(), batch.serialize(), frames.END_OF_STREAM)
    return frames.compress(b"".join(parts))


def test_column_of_a_later_release_is_ignored():
    """An added nullable column does not stop this release."""
    assert decode_segment(NAME, _rewritten("more")).columns == rows(70)


def test_column_that_an_earlier_release_lacks_is_empty():
    """A file without a later column reads as empty there."""
    assert decode_segment(NAME, _rewritten("less")).columns == rows(70)._replace(content=[b""] * 3)


def test_names_sort_by_number_and_give_it_back():
    """Listing order is journal order; other objects are no segments."""
    names = [segment_name(0, number) for number in (1, 9, 10, 999_999_999_999)]

    assert names == sorted(names)
    assert [segment_number(name) for name in names] == [1, 9, 10, 999_999_999_999]
    assert [segment_number(n) for n in ("journal/0000/1.arrow.zst", "journal/0000/x", names[0] + ".bak")] == [
        None
    ] * 3


def test_threads_do_not_spoil_each_others_segments():
    """Many threads encode and decode at once; every segment is whole."""
    expected = encode_segment(HEADER, rows(70, 60))

    def work(_: int) -> bool:
        return all(
            decode_segment(NAME, encode_segment(HEADER, rows(70, 60))).next_seq == 130 for _ in range(50)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert encode_segment(HEADER, rows(70, 60)) == expected
