"""API keys: made, rolled, revoked; what a state remembers of them."""

from __future__ import annotations

import pytest

from hive_ray.control import buckets
from hive_ray.core import api_keys, features
from hive_ray.core.api_keys import ApiKey
from hive_ray.core.commands import Command, CreateKey, Moment, RaiseLevel, Refused, RevokeKey, RollKey
from hive_ray.core.engine import Engine
from hive_ray.core.fleet import decode_fleet, encode_fleet
from hive_ray.core.principals import OPERATOR, Principal, Scope
from tests.core.graphs import Facts

DAY_US = 86_400_000_000


@pytest.fixture
def engine() -> Engine:
    engine = Engine(Facts(), buckets.take)
    engine.raise_level(RaiseLevel(features.LATEST), Moment(1))
    return engine


def asked(engine: Engine, command: Command, wall_us: int = 10) -> ApiKey:
    answer = engine.command(command, Moment(wall_us))
    assert isinstance(answer, ApiKey), answer
    return answer


def refused(engine: Engine, command: Command, wall_us: int = 10) -> Refused:
    seq = engine.seq
    answer = engine.command(command, Moment(wall_us))
    assert isinstance(answer, Refused), answer
    assert engine.seq == seq, "a refusal changes nothing"
    return answer


def made(key: str = "k", name: str = "ci", digest: bytes = b"1" * 32, expires_us: int = 0) -> CreateKey:
    return CreateKey(key, name, "acme", ("submit", "read"), digest, ("lead",), expires_us, "key:root")


def test_a_key_is_its_principal():
    """Team, scopes and roles follow from it."""
    engine = Engine(Facts(), buckets.take)
    key = asked(engine, made())

    assert key.principal == Principal("key:ci", "acme", ("submit", "read"), ("lead",))
    assert key.accepted_digests(10) == (b"1" * 32,)
    assert (key.created_us, key.created_by) == (10, "key:root")


def test_making_the_same_key_again_changes_nothing(engine: Engine):
    """A replica that got no answer sends it again."""
    asked(engine, made())
    seq = engine.seq

    asked(engine, made())

    assert engine.seq == seq
    assert "exists" in refused(engine, made(digest=b"2" * 32)).message


def test_a_name_is_one_valid_keys_only(engine: Engine):
    """Events show names: two keys under one would be one person to them."""
    asked(engine, made("a"))

    assert "roll it, or revoke it" in refused(engine, made("b", digest=b"2" * 32)).message
    asked(engine, RevokeKey("a"))
    asked(engine, made("b", digest=b"2" * 32))


def test_a_key_ends_by_the_wall_clock(engine: Engine):
    """To the microsecond, without any event."""
    key = asked(engine, made(expires_us=DAY_US))

    assert key.accepted_digests(DAY_US - 1) == (b"1" * 32,)
    assert key.accepted_digests(DAY_US) == ()
    assert key.status(DAY_US) == "expired"
    assert "expired already" in refused(engine, made("b", "other", expires_us=5), wall_us=5).message


def test_a_rolled_key_has_two_secrets_for_the_grace_time(engine: Engine):
    """Then the new one only."""
    asked(engine, made())

    key = asked(engine, RollKey("k", b"2" * 32, old_until_us=100), wall_us=50)

    assert set(key.accepted_digests(99)) == {b"1" * 32, b"2" * 32}
    assert key.accepted_digests(100) == (b"2" * 32,)
    assert key.id == "k"


def test_rolling_without_grace_ends_the_old_secret_at_once(engine: Engine):
    """Of a key that has leaked."""
    asked(engine, made())

    assert asked(engine, RollKey("k", b"2" * 32)).accepted_digests(10) == (b"2" * 32,)


def test_a_revoked_key_opens_nothing_and_cannot_be_rolled(engine: Engine):
    """For good; its name stays known, so that the audit can tell whose it was."""
    asked(engine, made())
    asked(engine, RollKey("k", b"2" * 32, old_until_us=DAY_US))

    key = asked(engine, RevokeKey("k", "key:root"), wall_us=60)

    assert key.accepted_digests(61) == ()
    assert (key.revoked_us, key.revoked_by, key.name) == (60, "key:root", "ci")
    assert "revoked" in refused(engine, RollKey("k", b"3" * 32)).message
    seq = engine.seq
    asked(engine, RevokeKey("k", "key:other"))
    assert engine.seq == seq, "revoking again changes nothing"


def test_an_unknown_key_is_named(engine: Engine):
    for command in (RevokeKey("x"), RollKey("x", b"1" * 32)):
        answer = refused(engine, command)
        assert answer.problem == "not_found"
        assert "no key x" in answer.message


def test_use_of_a_key_is_told_once_a_day(engine: Engine):
    """Of UTC; a clock that goes back tells nothing."""
    asked(engine, made())
    told: list[int] = []
    for wall_us in (DAY_US - 1, DAY_US, 2 * DAY_US - 1, DAY_US - 1, 3 * DAY_US):
        now, seq = Moment(wall_us), engine.seq
        engine.record(api_keys.used(engine.fleet.api_keys, "k", now), now)
        told += [wall_us] if engine.seq > seq else []

    assert told == [DAY_US, 3 * DAY_US]
    assert engine.fleet.api_keys["k"].used_us == 3 * DAY_US
    assert decode_fleet(encode_fleet(engine.fleet)).api_keys == engine.fleet.api_keys


def test_keys_are_in_snapshots(engine: Engine):
    """With all that has become of them; a snapshot of an earlier release has none."""
    asked(engine, made())
    asked(engine, RollKey("k", b"2" * 32, old_until_us=DAY_US))

    assert decode_fleet(encode_fleet(engine.fleet)).api_keys == engine.fleet.api_keys
    assert decode_fleet(b"\x80").api_keys == {}


def test_a_state_of_the_first_release_makes_no_keys():
    """Its events are of the second level."""
    for command in (made(), RollKey("k", b""), RevokeKey("k")):
        answer = features.refuse(command, features.FIRST)
        assert answer is not None
        assert "hive-ray state upgrade" in answer.message


def test_admin_has_every_scope_and_sees_every_team():
    reader = Principal("key:r", "acme", (Scope.READ,))

    assert OPERATOR.may((Scope.SUBMIT,)) and OPERATOR.sees("acme")
    assert reader.may((Scope.READ, Scope.APPROVE)) and not reader.may((Scope.OPERATE,))
    assert reader.sees("acme") and not reader.sees("other")
