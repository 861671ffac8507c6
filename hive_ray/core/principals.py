"""Who asks, and what they may do: teams, scopes and roles of a principal.

A principal is decided at the controller's door, from a credential that was verified there; commands carry its
name only.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

DEFAULT_TEAM = "default"
"""The team of an installation that has no keys."""
EVERY_TEAM = "*"
"""What an admin names to list all teams."""


class Scope(StrEnum):
    """What a principal may do, within its team."""

    SUBMIT = "submit"
    """Begin runs, fork them, and speak for a run's client."""
    READ = "read"
    """See runs, events, results, artifacts, memory, approvals, costs."""
    APPROVE = "approve"
    """See what waits for a person, and answer it."""
    OPERATE = "operate"
    """Cancel, pause, resume, forget; register agents; write long-term memory."""
    ADMIN = "admin"
    """All of it, for every team; keys, limits, corrections, the state itself."""


SCOPES = tuple(scope.value for scope in Scope)


class Principal(msgspec.Struct, frozen=True, array_like=True):
    """A verified caller. Events and the audit show its ``name``: ``key:NAME``, ``user:SUB``, ``operator``."""

    name: str
    team: str
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def is_admin(self) -> bool:
        return Scope.ADMIN in self.scopes

    def may(self, needed: tuple[Scope, ...]) -> bool:
        """Whether it has one of these scopes; admin has them all."""
        return self.is_admin or any(scope in self.scopes for scope in needed)

    def sees(self, team: str) -> bool:
        """Whether what belongs to a team exists for it."""
        return self.is_admin or team == self.team

    def acting_for(self, team: str) -> Principal:
        """The same principal, whose new runs and lists are another team's."""
        return msgspec.structs.replace(self, team=team)


OPERATOR = Principal("operator", DEFAULT_TEAM, SCOPES)
"""Whoever reaches an installation without keys, and the installation itself."""
