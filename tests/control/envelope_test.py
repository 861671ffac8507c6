"""The envelope: who holds the door secret may ask, for a while."""

from __future__ import annotations

import pytest

from hive_ray.control.envelope import (
    FRESH_US,
    INSTALLATION,
    Caller,
    Seal,
    Unsealed,
    closed,
    decode_asked,
)
from hive_ray.control.queries import GetRun
from hive_ray.core.commands import Cancel
from hive_ray.core.principals import Principal

NOW_US = 1_700_000_000_000_000
SEAL = Seal(b"s" * 32)


def test_what_was_sealed_comes_out():
    """With the caller of each request."""
    data = closed(SEAL, INSTALLATION, [GetRun("r"), Cancel("r")], NOW_US)

    found = decode_asked(SEAL.open(data, NOW_US + 1))

    assert [asked.request for asked in found] == [GetRun("r"), Cancel("r")]
    assert {asked.caller for asked in found} == {INSTALLATION}


def test_a_caller_travels_whole():
    """Key, digest and team; or the principal that a token names."""
    callers = [
        Caller("key", "k", b"d" * 32, team="acme"),
        Caller("user", user=Principal("user:ann", "acme", ("read",), ("lead",)), until_us=NOW_US),
    ]
    for caller in callers:
        (asked,) = decode_asked(SEAL.open(closed(SEAL, caller, [GetRun("r")], NOW_US), NOW_US))
        assert asked.caller == caller


@pytest.mark.parametrize("at", [0, 1, 8, 9, 40, 41, -1])
def test_no_bit_of_it_can_be_changed(at: int):
    """Version, time, seal and body."""
    data = bytearray(closed(SEAL, INSTALLATION, [GetRun("r")], NOW_US))
    data[at] ^= 1

    with pytest.raises(Unsealed):
        SEAL.open(bytes(data), NOW_US)


def test_another_secret_opens_nothing():
    data = closed(Seal(b"o" * 32), INSTALLATION, [GetRun("r")], NOW_US)

    with pytest.raises(Unsealed, match="door secret"):
        SEAL.open(data, NOW_US)


@pytest.mark.parametrize("late_us", [FRESH_US + 1, -FRESH_US - 1])
def test_it_grows_old(late_us: int):
    """What was overheard is good for a few minutes at most."""
    data = closed(SEAL, INSTALLATION, [GetRun("r")], NOW_US)

    with pytest.raises(Unsealed, match="too long ago"):
        SEAL.open(data, NOW_US + late_us)


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x02" * 40, b"\x91\xc0" * 50])
def test_what_is_no_envelope_is_refused(data: bytes):
    """A bare batch, as releases before sent it, among it."""
    with pytest.raises(Unsealed):
        SEAL.open(data, NOW_US)
