"""API keys: who may ask from outside. A key is kept as a keyed hash; nobody can be told its secret again.

A key is created, rolled (a new secret; the old one is good for a grace time) and revoked, each once and each
an event. It ends by itself at ``expires_us``, by the wall clock. A key that has ended stays listed, so that
the audit can tell whose it was. That it was used is an event once a day: more would be a write per request.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.commands import CreateKey, Moment, Refused, RevokeKey, RollKey
from hive_ray.core.events import Draft
from hive_ray.core.principals import Principal, Scope

MOST_KEYS = 10_000
"""Keys of one installation, those that have ended included."""
DAY_US = 24 * 3600 * 1_000_000


class ApiKey(msgspec.Struct, frozen=True, array_like=True):
    """One key. Times in microseconds of the wall clock; 0: never."""

    id: str
    name: str
    """Unique among the keys that are valid; the principal is ``key:NAME``."""
    team: str
    scopes: tuple[str, ...]
    roles: tuple[str, ...]
    digest: bytes
    """HMAC of the secret under the state's pepper."""
    created_us: int
    created_by: str = ""
    expires_us: int = 0
    old_digest: bytes = b""
    """Of the secret before the last roll."""
    old_until_us: int = 0
    rolled_us: int = 0
    revoked_us: int = 0
    revoked_by: str = ""
    used_us: int = 0
    """When it first let somebody in on the last day of UTC on which it did."""

    def status(self, wall_us: int) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked_us:
            return "revoked"
        return "expired" if 0 < self.expires_us <= wall_us else "valid"

    def accepted_digests(self, wall_us: int) -> tuple[bytes, ...]:
        """The hashes of the secrets that are good now."""
        if self.status(wall_us) != "valid":
            return ()
        return (self.digest, self.old_digest) if wall_us < self.old_until_us else (self.digest,)

    @property
    def principal(self) -> Principal:
        return Principal(f"key:{self.name}", self.team, self.scopes, self.roles)


Keys = Mapping[str, ApiKey]


def create(keys: Keys, command: CreateKey, now: Moment) -> list[Draft] | Refused:
    """A new key; the same command again changes nothing."""
    known = keys.get(command.key)
    if known is not None:
        same = known.digest == command.digest
        return [] if same else Refused("conflict", f"key {command.key} exists already")
    if len(keys) >= MOST_KEYS:
        return Refused("conflict", f"there are {len(keys)} keys, as many as there may be; roll one instead")
    for key in keys.values():
        if key.name == command.name and key.status(now.wall_us) == "valid":
            remedy = "give another name, roll it, or revoke it first"
            return Refused("conflict", f"key {key.id} has the name {key.name}: {remedy}")
    if 0 < command.expires_us <= now.wall_us:
        return Refused("invalid", "the key would have expired already: give a time to come")
    return [
        Draft(
            ev.ApiKeyCreated(
                "",
                command.key,
                command.name,
                command.team,
                command.scopes,
                command.roles,
                command.digest,
                command.expires_us,
                command.principal,
            )
        )
    ]


def roll(keys: Keys, command: RollKey, now: Moment) -> list[Draft] | Refused:
    """A new secret for a key; the same command again changes nothing."""
    key = keys.get(command.key)
    if key is None:
        return no_key(command.key)
    if key.digest == command.digest:
        return []
    status = key.status(now.wall_us)
    if status != "valid":
        return Refused("conflict", f"key {key.id} ({key.name}) is {status}: create another")
    event = ev.ApiKeyRolled("", key.id, key.team, command.digest, command.old_until_us, command.principal)
    return [Draft(event)]


def revoke(keys: Keys, command: RevokeKey) -> list[Draft] | Refused:
    """The end of a key, at once and for good; of one that was revoked before, nothing."""
    key = keys.get(command.key)
    if key is None:
        return no_key(command.key)
    if key.revoked_us:
        return []
    return [Draft(ev.ApiKeyRevoked("", key.id, key.team, command.principal))]


def used(keys: Keys, key_id: str, now: Moment) -> list[Draft]:
    """A key lets somebody in: told once on a day, and never of a day before the last one."""
    key = keys[key_id]
    if now.wall_us // DAY_US <= key.used_us // DAY_US:
        return []
    return [Draft(ev.ApiKeyUsed("", key.id, key.team))]


def no_key(key: str) -> Refused:
    return Refused("not_found", f"no key {key}: `hive-ray keys list` shows them")


def admins(keys: Keys, wall_us: int) -> list[ApiKey]:
    """The valid keys that may make others."""
    return [key for key in keys.values() if Scope.ADMIN in key.scopes and key.status(wall_us) == "valid"]


# --- applying events ---------------------------------------------------------------------------------


def evolve(
    keys: dict[str, ApiKey],
    event: ev.ApiKeyCreated | ev.ApiKeyRolled | ev.ApiKeyRevoked | ev.ApiKeyUsed,
    at_us: int,
) -> None:
    """Apply one event of a key."""
    match event:
        case ev.ApiKeyCreated():
            keys[event.key] = ApiKey(
                event.key,
                event.name,
                event.team,
                event.scopes,
                event.roles,
                event.digest,
                at_us,
                event.principal,
                event.expires_us,
            )
        case ev.ApiKeyRolled():
            key = keys[event.key]
            keys[event.key] = msgspec.structs.replace(
                key,
                digest=event.digest,
                old_digest=key.digest,
                old_until_us=event.old_until_us,
                rolled_us=at_us,
            )
        case ev.ApiKeyRevoked():
            keys[event.key] = msgspec.structs.replace(
                keys[event.key], revoked_us=at_us, revoked_by=event.principal
            )
        case ev.ApiKeyUsed():
            keys[event.key] = msgspec.structs.replace(keys[event.key], used_us=at_us)
