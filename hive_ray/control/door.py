"""The controller's door: who asks is found out here, with every request, before anything is decided."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any, NamedTuple

from hive_ray.config import Settings
from hive_ray.control import access
from hive_ray.control.envelope import Asked, Caller
from hive_ray.core import api_keys
from hive_ray.core.commands import CreateKey, Refused, RevokeKey
from hive_ray.core.engine import Engine
from hive_ray.core.principals import OPERATOR, Principal, Scope

log = logging.getLogger(__name__)

SAY_AGAIN_S = 1.0
REMEDY = "send `Authorization: Bearer KEY` (CLI: HIVE_RAY_API_KEY or --api-key-file)"


class Entered(NamedTuple):
    """A request that may be looked at, in the name of its principal."""

    principal: Principal
    request: Any


class Refusals:
    """Calls that came without a seal of this installation: counted, and said at most once a second."""

    def __init__(self) -> None:
        self.count = 0
        self._said = 0
        self._say_again = 0.0

    def note(self, why: Exception) -> None:
        """One more. Whoever has the controller's handle can make it: a worker, so the code of a tool."""
        self.count += 1
        now = time.monotonic()
        if now >= self._say_again:
            many = self.count - self._said
            log.warning("%s call(s) to the controller refused: %s", many, why, extra={"refused": self.count})
            self._said, self._say_again = self.count, now + SAY_AGAIN_S


class Door:
    """What the settings say about who may come in."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = settings.auth.jwt is not None
        self._closed = settings.auth.required or self._tokens or not settings.http.is_loopback

    def is_closed(self, has_keys: bool) -> bool:
        """Whether whoever has no credential is refused: so it is, once there ever was a key."""
        return self._closed or has_keys

    def enter(self, asked: Asked, keys: api_keys.Keys, wall_us: int) -> Entered | Refused:
        """The caller's principal and its request, with the team and name that follow from the credential."""
        principal = self.principal(asked.caller, keys, wall_us)
        if isinstance(principal, Refused):
            return principal
        refused = access.scopes_refused(principal, asked.request)
        if refused is not None:
            return refused
        request = access.owned(principal, asked.request)
        return request if isinstance(request, Refused) else Entered(principal, request)

    def principal(self, caller: Caller, keys: api_keys.Keys, wall_us: int) -> Principal | Refused:
        """Whom a credential belongs to, now."""
        match caller.kind:
            case "operator":
                found = OPERATOR
            case "key":
                found = _of_key(caller, keys, wall_us)
            case "user":
                found = _of_user(caller, wall_us)
            case _ if self.is_closed(bool(keys)):
                found = Refused("unauthenticated", f"this installation needs an API key: {REMEDY}")
            case _:
                found = OPERATOR
        if isinstance(found, Refused) or not caller.team:
            return found
        return _acting(found, caller.team)

    def let(self, entered: Entered, engine: Engine, wall_us: int) -> Refused | None:
        """Whether what a request is about exists for its caller; asked right before it is decided."""
        refused = access.hidden(entered.principal, entered.request, engine)
        return refused or self._locks_out(entered.request, engine.fleet.api_keys, wall_us)

    def _locks_out(self, request: Any, keys: api_keys.Keys, wall_us: int) -> Refused | None:
        """With the first key the installation closes: somebody must be left who can make another."""
        if self._tokens or not isinstance(request, CreateKey | RevokeKey):
            return None
        others = [key for key in api_keys.admins(keys, wall_us) if key.id != request.key]
        if others:
            return None
        if isinstance(request, CreateKey):
            if Scope.ADMIN in request.scopes and not request.expires_us:
                return None
            why = "there is no key with scope admin that does not expire, and nobody could make another"
            return Refused("conflict", f"{why}: create one first, with --scopes admin and without --ttl")
        key = keys.get(request.key)
        if key is None or Scope.ADMIN not in key.scopes or key.status(wall_us) != "valid":
            return None
        why = f"{key.name} is the last key with scope admin, and nobody could make another"
        return Refused("conflict", f"{why}: create one first, or roll it")


def _of_key(caller: Caller, keys: api_keys.Keys, wall_us: int) -> Principal | Refused:
    key = keys.get(caller.key)
    if key is None:
        return Refused("unauthenticated", f"the API key is unknown here: {REMEDY}")
    if any(hmac.compare_digest(caller.digest, good) for good in key.accepted_digests(wall_us)):
        return key.principal
    status = key.status(wall_us)
    # Whoever has the wrong secret learns nothing about the key.
    if status == "valid" or not any(
        hmac.compare_digest(caller.digest, d) for d in (key.digest, key.old_digest)
    ):
        return Refused("unauthenticated", f"the API key is unknown here: {REMEDY}")
    return Refused("unauthenticated", f"API key {key.id} is {status}: ask an admin for another")


def _of_user(caller: Caller, wall_us: int) -> Principal | Refused:
    if caller.user is None or caller.until_us <= wall_us:
        return Refused("unauthenticated", "the token has expired: sign in again")
    return caller.user


def _acting(principal: Principal, team: str) -> Principal | Refused:
    if team == principal.team:
        return principal
    if not principal.is_admin:
        return Refused(
            "forbidden", f"{principal.name} is of team {principal.team}: only admin acts for another"
        )
    return principal.acting_for(team)
