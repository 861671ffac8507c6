"""Who is asked a question, one after the other, and what holds if nobody answers.

An owner is a principal (``key:NAME``, ``user:SUB``), a role (``role:NAME``, or the bare name), or nobody in
particular (empty: anyone of the team who may approve).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

WAIT_US = 72 * 3600 * 1_000_000
"""How long a question waits for a person when nothing else is configured."""


class Final(StrEnum):
    """What becomes of a question that nobody has answered in time."""

    FAIL = "fail"
    """Its node fails with ``EXPIRED``."""
    APPROVE = "approve"
    REJECT = "reject"
    ANSWER = "answer"
    """It is approved with the default answer of the node's plan."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """One owner of a question, and how long it is his from the moment he is asked."""

    owner: str
    us: int


class AskPlan(msgspec.Struct, frozen=True, array_like=True):
    """The chain of owners, and what follows the last."""

    chain: tuple[Asked, ...] = (Asked("", WAIT_US),)
    final: Final = Final.FAIL
    four_eyes: bool = False
    """Who approves is neither who submitted the run nor who edited the answer."""

    def asking(self, owner: str) -> AskPlan:
        """The same with another first owner."""
        first = self.chain[0]
        return msgspec.structs.replace(self, chain=(Asked(owner, first.us), *self.chain[1:]))


class ApprovalsPlan(msgspec.Struct, frozen=True):
    """What holds for questions that say nothing."""

    asks: AskPlan = AskPlan()
    single_user: bool = False
    """Four eyes are not asked for."""


def chain_of(owner: str, deadline_us: int, escalate: Sequence[Asked]) -> tuple[Asked, ...]:
    """Owners with their times.

    Args:
        deadline_us: from the first asking to the end, if everybody comes on in time.
        escalate: later owners, each with how long the one before has the question for himself.

    Raises:
        ValueError: nothing is left for the last one.
    """
    owners = [owner, *(step.owner for step in escalate)]
    times = [step.us for step in escalate]
    left = deadline_us - sum(times)
    if left <= 0:
        raise ValueError(f"escalation takes {sum(times) / 1e6:g} s of {deadline_us / 1e6:g} s")
    return tuple(Asked(name, us) for name, us in zip(owners, [*times, left], strict=True))
