"""Who makes the request that is being answered: its credential travels with all that is asked for it."""

from __future__ import annotations

from contextvars import ContextVar

import msgspec

from hive_ray.control.envelope import NOBODY, Caller
from hive_ray.core.principals import DEFAULT_TEAM, EVERY_TEAM, Principal
from serve.problems import invalid


class Identity(msgspec.Struct, frozen=True):
    """A caller as a replica knows it; what it may do, the controller decides."""

    caller: Caller = NOBODY
    principal: Principal = Principal("", DEFAULT_TEAM)


TOTALS_ROLE = "metrics"
"""A key with this role may read what is summed over all teams, and needs no other scope for it."""
UNKNOWN = Identity()
_current: ContextVar[Identity] = ContextVar("caller", default=UNKNOWN)
"""Of the request under way. Outside of any nobody asks."""

become = _current.set
current = _current.get


def team() -> str:
    """The team for which the request is made: the credential's, never the body's.

    Raises:
        Problem: an admin asks for all teams where one must be named.
    """
    name = _current.get().principal.team
    if name == EVERY_TEAM:
        raise invalid("headers.Hive-Team", "names all teams, and this is about one", "name one team")
    return name


def sees_totals() -> bool:
    """Whether the caller may see what is summed over all teams."""
    principal = _current.get().principal
    return principal.is_admin or TOTALS_ROLE in principal.roles
