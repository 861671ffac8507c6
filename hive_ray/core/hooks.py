"""Who outside is told of what happens here, as the plan in force has it."""

from __future__ import annotations

import msgspec

APPROVAL_REQUESTED = "approval.requested"
APPROVAL_ESCALATED = "approval.escalated"
RUN_FINISHED = "run.finished"
BUDGET_WARNED = "budget.warned"
BREAKER_OPENED = "breaker.opened"
KINDS = (APPROVAL_REQUESTED, APPROVAL_ESCALATED, RUN_FINISHED, BUDGET_WARNED, BREAKER_OPENED)
"""Everything that can be told."""


class HookPlan(msgspec.Struct, frozen=True, array_like=True):
    """One receiver. Its secret is not here: whoever sends knows it by the receiver's name."""

    name: str
    url: str
    kinds: tuple[str, ...] = ()
    """What it is told; everything if none is named."""
    teams: tuple[str, ...] = ()
    """Of whom; of all teams, and of what belongs to none, if none is named."""

    def wants(self, kind: str, team: str) -> bool:
        return (not self.kinds or kind in self.kinds) and (not self.teams or team in self.teams)


class HooksPlan(msgspec.Struct, frozen=True):
    """All receivers, and how patiently they are told."""

    to: tuple[HookPlan, ...] = ()
    attempts: int = 8
    """After which a notification is given up."""
    first_retry_us: int = 5_000_000
    """The first pause; each further one is four times as long, up to an hour."""

    def named(self, name: str) -> HookPlan | None:
        return next((hook for hook in self.to if hook.name == name), None)
