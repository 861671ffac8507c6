"""The feature level of a state: raised on purpose, never lowered."""

from __future__ import annotations

from hive_ray.control import buckets
from hive_ray.core import features
from hive_ray.core.commands import Moment, RaiseLevel, Refused
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import Fleet, decode_fleet, encode_fleet
from hive_ray.state.memory_store import MemoryStore, forget_memory
from tests.control.driver import Driver
from tests.core.graphs import Facts

NOW = Moment(1_000)


def test_a_state_of_the_first_release_stays_at_its_level_until_it_is_raised():
    """Nothing but the command raises it, and repeating the command writes no event."""
    engine = Engine(Facts(), buckets.take)
    assert engine.fleet.feature_level == features.FIRST

    assert isinstance(engine.raise_level(RaiseLevel(features.LATEST), NOW), Fleet)
    seq = engine.seq
    assert isinstance(engine.raise_level(RaiseLevel(features.LATEST), NOW), Fleet)

    assert engine.seq == seq
    assert engine.fleet.feature_level == features.LATEST


def test_a_level_is_neither_lowered_nor_raised_beyond_what_this_release_knows():
    """Both are refused, and change nothing."""
    engine = Engine(Facts(), buckets.take)
    engine.raise_level(RaiseLevel(features.LATEST), NOW)

    for level in (features.FIRST, features.LATEST + 1):
        refused = engine.raise_level(RaiseLevel(level), NOW)
        assert isinstance(refused, Refused)
        assert str(features.LATEST) in refused.message

    assert engine.fleet.feature_level == features.LATEST


def test_what_needs_a_higher_level_is_refused_with_the_command_that_raises_it():
    assert features.needs(2, 2, "a fork") is None
    refused = features.needs(2, 1, "a fork")
    assert refused is not None
    assert "hive-ray state upgrade" in refused.message


def test_the_level_is_in_snapshots_and_a_snapshot_without_it_is_of_the_first_release():
    assert decode_fleet(encode_fleet(Fleet(feature_level=2))).feature_level == 2
    assert decode_fleet(b"\x80").feature_level == features.FIRST


def test_a_fresh_state_starts_at_the_latest_level():
    """Its first event says so, and recovery finds it again."""
    store = MemoryStore("features")
    try:
        first = Driver(store, [])
        first.perform()
        assert first.engine.fleet.feature_level == features.LATEST

        second = Driver(store, [])
        assert second.engine.fleet.feature_level == features.LATEST
        assert second.engine.seq == 1
    finally:
        forget_memory("features")
