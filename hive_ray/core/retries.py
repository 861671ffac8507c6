"""Whether a failed attempt is followed by another one, and when.

Backoff is exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015). Who asked to come
back later is not asked earlier; no attempt is planned that the run's or the node's deadline would cut off.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hive_ray.core import events as ev
from hive_ray.core.commands import Moment
from hive_ray.core.failures import CAN_PASS, FailureKind
from hive_ray.core.messages import Outcome, StepKind
from hive_ray.core.plan import LONGEST_WAIT_US
from hive_ray.core.run import Run, Step, Visit
from hive_ray.graph.compiled import NodePlan

MOST_DOUBLINGS = 20


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """What no retry may pass."""

    now: Moment
    root: Run
    """The run whose deadline holds."""
    longest_wait_us: int = LONGEST_WAIT_US
    """Whoever asks for more time than this is not asked again."""


class Never(NamedTuple):
    """There is no further attempt."""

    why: str = ""
    """Empty: the failure itself says it."""


def retry(
    run: Run, node: NodePlan, visit: Visit, step: Step, outcome: Outcome, bounds: Bounds
) -> ev.RetryScheduled | Never:
    """The next attempt of a step that may be repeated."""
    kind = FailureKind(outcome.failure)
    if not _can_help(node, step, kind) or not _has_retries_left(node, step, outcome):
        return Never()
    if outcome.retry_after_us > bounds.longest_wait_us:
        asked, most = _seconds(outcome.retry_after_us), _seconds(bounds.longest_wait_us)
        return Never(f"it asked to come back in {asked}, longer than retries.longest_wait_s ({most})")
    delay_us = _delay_us(node, step, outcome, bounds.now)
    late = _too_late(node, visit, delay_us, bounds)
    if late:
        return Never(late)
    lost = kind is FailureKind.WORKER_LOST
    return ev.RetryScheduled(
        run.id,
        visit.serial,
        step.call,
        step.attempt + 1,
        delay_us,
        str(kind),
        step.shared_losses + (lost and outcome.shared),
        step.lone_losses + (lost and not outcome.shared),
    )


def _can_help(node: NodePlan, step: Step, kind: FailureKind) -> bool:
    if kind not in CAN_PASS:
        return False
    if kind is FailureKind.INVALID_OUTPUT and step.kind not in (StepKind.LLM, StepKind.DECIDE):
        return False  # only an LLM answers differently when asked again
    return not node.retry.retry_on or kind in node.retry.retry_on or kind is FailureKind.WORKER_LOST


def _has_retries_left(node: NodePlan, step: Step, outcome: Outcome) -> bool:
    """A neighbour's death is nobody's failure; a worker that died under this step alone is this step's.

    Deaths in company are bounded too: each halves the company, until the step runs alone.
    """
    if outcome.failure == FailureKind.WORKER_LOST:
        return outcome.shared or step.lone_losses < node.retry.max_retries
    return step.attempt - step.shared_losses - step.lone_losses <= node.retry.max_retries


def _delay_us(node: NodePlan, step: Step, outcome: Outcome, now: Moment) -> int:
    """Jitter lies behind a ``Retry-After``: all who were sent away at once were told the same time."""
    ceiling = min(node.retry.cap_us, node.retry.base_us << min(step.attempt - 1, MOST_DOUBLINGS))
    return max(outcome.retry_after_us + int(now.chance * ceiling), 1)


def _too_late(node: NodePlan, visit: Visit, delay_us: int, bounds: Bounds) -> str:
    now, root = bounds.now, bounds.root
    # While a run waits for people, its deadline stands still.
    left_us = root.deadline_us - (root.waiting_since_us if root.waits else now.wall_us)
    if root.deadline_us and delay_us >= left_us:
        return _passed("run", delay_us, left_us)
    left_us = node_time_left_us(node, visit, now.wall_us)
    return _passed("node", delay_us, left_us) if node.deadline_us and delay_us >= left_us else ""


def _passed(whose: str, delay_us: int, left_us: int) -> str:
    left = f"is over in {_seconds(left_us)}" if left_us > 0 else "is over"
    return f"not tried again in {_seconds(delay_us)}, since the time of the {whose} {left}"


def node_time_left_us(node: NodePlan, visit: Visit, wall_us: int) -> int:
    """Until the deadline of a node's visit; may be below 0. Only where the node has one."""
    return visit.since_us + node.deadline_us - wall_us


def _seconds(us: int) -> str:
    return f"{us / 1e6:.3g} s"
