"""Credentials of requests to identities, as the controller knows them; remembered for a moment.

What is remembered lets nobody in: it tells a replica the caller's team, and spares the controller a question
about a credential that it will refuse. Each request takes the credential itself along.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from fastapi import Request

from hive_ray.config import Settings, is_loopback
from hive_ray.control.access import missing
from hive_ray.control.api_secrets import digest, id_of, pepper_of
from hive_ray.control.door import REMEDY
from hive_ray.control.envelope import Caller
from hive_ray.control.queries import WhoAmI
from hive_ray.core.commands import Refused
from hive_ray.core.principals import EVERY_TEAM, Principal
from hive_ray.errors import Unavailable
from hive_ray.state.keyring import Keyring
from serve import caller
from serve.access import Needs
from serve.caller import Identity
from serve.link import Link
from serve.problems import invalid, refused
from serve.tokens import BadToken, Tokens

REMEMBERED_S = 2.0
"""For so long a replica believes what it was told about a credential."""
MOST_REMEMBERED = 10_000
LENIENT_S = 2.0
_TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Remembered(msgspec.Struct, frozen=True):
    """What became of a credential."""

    identity: Identity | Refused
    until: float
    """Monotonic time."""


class Identities:
    """Who the callers of one replica are."""

    def __init__(self, settings: Settings, keyring: Keyring, link: Callable[[], Link]) -> None:
        self._keyring = keyring
        self._link = link
        self._tokens = Tokens(settings.auth.jwt) if settings.auth.jwt is not None else None
        self._pepper = b""
        self._remembered: dict[tuple[str, str], Remembered] = {}

    async def admit(self, request: Request, needed: Needs) -> None:
        """Let a request in, and remember whose it is while it is answered.

        Raises:
            Problem: 401 for a credential that is none, 403 naming the scope that is missing.
        """
        if needed == "open":
            return
        patience_s = LENIENT_S if needed == "lenient" else None
        try:
            found = await self.identity(request, patience_s)
        except Unavailable:
            if needed != "lenient":
                raise
            return
        if not isinstance(needed, str) and not found.principal.may(needed):
            what = f"{request.method} {request.url.path}"
            raise refused(missing(found.principal, needed, what))
        caller.become(found)

    async def identity(self, request: Request, patience_s: float | None = None) -> Identity:
        """Whom the credential of a request belongs to.

        Raises:
            Problem: 401.
            Unavailable: no controller tells.
        """
        given, team = _bearer(request), _team(request)
        if not given:
            _check_local(request)
        known = self._remembered.get((given, team))
        if known is None or known.until < time.monotonic():
            known = await self._ask(given, team, patience_s)
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[given, team] = known
        if isinstance(known.identity, Refused):
            raise refused(known.identity)
        return known.identity

    async def _ask(self, given: str, team: str, patience_s: float | None) -> Remembered:
        until = time.monotonic() + REMEMBERED_S
        try:
            presented = await self._caller(given, team)
        except BadToken as error:
            return Remembered(Refused("unauthenticated", str(error)), until)
        caller.become(Identity(presented))
        found = await self._link().read(WhoAmI(), Principal, patience_s)
        if isinstance(found, Refused) and found.problem == "unavailable":
            raise Unavailable(found.message)
        return Remembered(found if isinstance(found, Refused) else Identity(presented, found), until)

    async def _caller(self, given: str, team: str) -> Caller:
        if not given:
            return Caller(team=team)
        key_id = id_of(given)
        if key_id is not None:
            if not self._pepper:
                self._pepper = await asyncio.to_thread(pepper_of, self._keyring)
            return Caller("key", key_id, digest(self._pepper, given), team=team)
        if self._tokens is None or given.count(".") != 2:
            raise BadToken(f"the credential is no API key (hrk_…), or was copied wrongly: {REMEDY}")
        user, until_us = await asyncio.to_thread(self._tokens.principal, given)
        return Caller("user", user=user, until_us=until_us, team=team)


def _bearer(request: Request) -> str:
    """The credential of a request, or nothing.

    Raises:
        Problem: 401: another way of authentication.
    """
    header = request.headers.get("authorization", "")
    scheme, _, given = header.partition(" ")
    if header and scheme.lower() != "bearer":
        raise refused(Refused("unauthenticated", f"Authorization: {scheme[:20]} is not known here: {REMEDY}"))
    return given.strip()


def _check_local(request: Request) -> None:
    """Without a key only this machine may ask: not a page of somebody else in a browser here, by a form or
    by a name of its own that leads to loopback.

    Raises:
        Problem: 401.
    """
    origin = request.headers.get("origin")
    for place in (f"//{request.headers.get('host', '')}", *((origin,) if origin is not None else ())):
        name = _host_in(place)
        if not is_loopback(name):
            said = f"{name[:80]!r} is not this machine, and others need an API key: {REMEDY}"
            raise refused(Refused("unauthenticated", said))


def _host_in(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _team(request: Request) -> str:
    """The team that an admin acts for, or nothing."""
    team = request.headers.get("hive-team", "").strip()
    if team and team != EVERY_TEAM and not _TEAM.fullmatch(team):
        raise invalid("headers.Hive-Team", f"{team[:80]!r} is no team's name", "name a team, or * for all")
    return team
