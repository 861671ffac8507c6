"""Segments are decoded once in a history: recovery, compaction, listing and checking read the same bytes."""

from __future__ import annotations

from hive_ray.state import journal, run_events, segments, verify
from hive_ray.state.segments import Segment

_READERS = (journal, run_events, verify)
_decoded: dict[tuple[str, bytes], Segment] = {}


def begin() -> None:
    """From now on the first answer for the same bytes of the same name stands."""
    _use(_decode_once)


def end() -> None:
    """Everybody decodes again."""
    _use(segments.decode_segment)
    _decoded.clear()


def _use(decode: object) -> None:
    for module in _READERS:
        module.decode_segment = decode  # pyright: ignore[reportAttributeAccessIssue]


def _decode_once(name: str, data: bytes) -> Segment:
    """What is refused is not remembered."""
    found = _decoded.get((name, data))
    if found is None:
        found = _decoded[name, data] = segments.decode_segment(name, data)
    return found
