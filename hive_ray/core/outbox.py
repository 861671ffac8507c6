"""Notifications: decided right behind the event that they tell of, durable before they are sent.

An item stands in the fleet until it was delivered or given up, with all that its sending needs: the run that
it is about may have left memory. It is sent at least once, always under the same id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from hive_ray.core import events as ev
from hive_ray.core import hooks
from hive_ray.core.commands import Moment
from hive_ray.core.events import Draft, draft
from hive_ray.core.hooks import HooksPlan
from hive_ray.core.messages import StepContent
from hive_ray.core.run import Run
from hive_ray.graph.compiled import CompiledGraph

MOST_PENDING = 10_000
"""Beyond, a notification is given up at once."""
MOST_ENDED = 200
"""Of those that are over, so many can still be looked at."""
LONGEST_PAUSE_US = 3_600_000_000
GONE = 410
"""With this answer a receiver wants to hear nothing more."""
Facts = dict[str, Any]


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One notification to one receiver."""

    id: str
    kind: str
    at_us: int
    hook: str
    """Name of the receiver; empty: whoever submitted the run."""
    run: str
    team: str
    facts: Facts
    url: str = ""
    """Of a run's callback; a named receiver's stands in the plan."""
    attempts: int = 0
    due_us: int = 0
    """Wall time of the next attempt."""
    error: str = ""
    """What came of the last one."""
    state: str = "pending"
    """``pending``, ``delivered`` or ``failed``."""
    ended_us: int = 0


class Outbox(msgspec.Struct):
    """What is to be sent, and the newest of what is over; by id, oldest first."""

    pending: dict[str, Item] = {}
    ended: dict[str, Item] = {}


class Sent(NamedTuple):
    """What came of one attempt."""

    error: str = ""
    """In our words, nothing of what the receiver answered; empty: it was delivered."""
    status: int = 0
    """The HTTP status, if there was an answer."""
    retry_after_us: int = 0


# --- what is told --------------------------------------------------------------------------------


class About(NamedTuple):
    """What an event is about, as far as there is a run."""

    run: Run | None
    graph: CompiledGraph | None


def _of_run(run: Run) -> Facts:
    return {"run_id": run.id, "team": run.team, "agent": run.agent, "graph": run.graph_name}


def _asked(event: ev.ApprovalRequested, about: About) -> Facts | None:
    """A client hears of its turn from its run, not from here."""
    run = about.run
    if run is None or event.reason == "client":
        return None
    return _of_run(run) | _question(about, event) | {"level": 0, "owners": max(1, len(event.chain))}


def _question(about: About, event: ev.ApprovalRequested | ev.ApprovalEscalated) -> Facts:
    run, graph = about
    node = graph.nodes[run.visits[event.serial].node].id if run is not None and graph is not None else ""
    return {
        "approval_id": event.approval,
        "node": node,
        "reason": event.reason,
        "owner": event.owner,
        "deadline_us": event.deadline_us,
    }


def _escalated(event: ev.ApprovalEscalated, about: About) -> Facts | None:
    run = about.run
    if run is None:
        return None
    wait = run.visits[event.serial].wait
    owners = len(wait.chain) if wait is not None else event.level + 1
    return _of_run(run) | _question(about, event) | {"level": event.level, "owners": owners}


def _finished(event: ev.RunSucceeded | ev.RunFailed | ev.RunCancelled, about: About) -> Facts | None:
    run = about.run
    if run is None or run.parent:
        return None
    failed = {"failure_kind": event.kind, "place": event.place} if isinstance(event, ev.RunFailed) else {}
    return _of_run(run) | {"status": str(run.status), "cost_nanousd": run.spent_nanousd} | failed


def _warned(event: ev.BudgetWarned, about: About) -> Facts:
    return {
        "account": event.account,
        "window_us": event.window_us,
        "spent_nanousd": event.spent_nanousd,
        "limit_nanousd": event.limit_nanousd,
        "spent_tokens": event.spent_tokens,
        "limit_tokens": event.limit_tokens,
    }


def _opened(event: ev.BreakerOpened, about: About) -> Facts:
    counts = {"calls": event.calls, "failures": event.failures, "slow": event.slow}
    return {"breaker": event.name, "reason": event.reason} | counts


TOLD: dict[type[ev.Event], tuple[str, Callable[[Any, About], Facts | None]]] = {
    ev.ApprovalRequested: (hooks.APPROVAL_REQUESTED, _asked),
    ev.ApprovalEscalated: (hooks.APPROVAL_ESCALATED, _escalated),
    ev.RunSucceeded: (hooks.RUN_FINISHED, _finished),
    ev.RunFailed: (hooks.RUN_FINISHED, _finished),
    ev.RunCancelled: (hooks.RUN_FINISHED, _finished),
    ev.BudgetWarned: (hooks.BUDGET_WARNED, _warned),
    ev.BreakerOpened: (hooks.BREAKER_OPENED, _opened),
}
"""The events that are told outside: ids, kinds and numbers of them, never content."""


def _team(facts: Facts) -> str:
    """Whose it is; an account of a team, an agent or a workflow names its team second."""
    kind, _, rest = facts.get("account", "").partition("/")
    own = rest.partition("/")[0] if kind in ("team", "agent", "workflow") else ""
    return facts.get("team", own)


def notifications(
    event: ev.Event, seq: int, about: About, plan: HooksPlan, there: int, now: Moment
) -> list[Draft]:
    """What follows an event for those who want to hear of it.

    Args:
        seq: of the event.
        there: notifications that are pending.
    """
    kind, tell = TOLD[type(event)]
    facts = tell(event, about)
    if facts is None:
        return []
    team = _team(facts)
    receivers = [(hook.name, "") for hook in plan.to if hook.wants(kind, team)]
    callback = about.run.callback if about.run is not None and kind == hooks.RUN_FINISHED else ""
    if callback:
        receivers.append(("", callback))
    drafts: list[Draft] = []
    for number, (hook, url) in enumerate(receivers):
        # Unique for whoever hears of several installations; decided once, so the same for ever.
        # Without dots, which part an id from what is signed with it.
        name = f"msg_{now.wall_us:x}-{seq:x}-{int(now.chance * 2**52):013x}-{number}"
        queued = ev.NotificationQueued("", name, kind, hook, event.run, team, facts)
        drafts.append(draft(queued, StepContent(message=url) if url else None))
        if there + len(receivers) > MOST_PENDING:
            error = f"{MOST_PENDING} notifications are pending already"
            drafts.append(Draft(ev.NotificationFailed("", name, 0, error)))
    return drafts


# --- what came of it -----------------------------------------------------------------------------


def sent(item: Item, result: Sent, plan: HooksPlan, now: Moment) -> Draft:
    """An attempt is over: delivered, to be tried again, or given up."""
    attempt = item.attempts + 1
    if not result.error:
        return Draft(ev.NotificationDelivered("", item.id, attempt))
    if attempt >= plan.attempts or result.status == GONE:
        return Draft(ev.NotificationFailed("", item.id, attempt, result.error))
    longest_us = min(plan.first_retry_us << 2 * item.attempts, LONGEST_PAUSE_US)
    # Half of it at least: a receiver that is down is not met by all at once, nor by each at once.
    pause_us = max(longest_us // 2 + int(now.chance * longest_us / 2), result.retry_after_us)
    due_us = now.wall_us + min(pause_us, LONGEST_PAUSE_US)
    return Draft(ev.NotificationDelayed("", item.id, attempt, due_us, result.error))


Told = ev.NotificationQueued | ev.NotificationDelayed | ev.NotificationDelivered | ev.NotificationFailed


def evolve(outbox: Outbox, event: Told, content: StepContent, at_us: int) -> None:
    """Apply what was decided about a notification."""
    if isinstance(event, ev.NotificationQueued):
        url = content.message if not event.hook else ""
        outbox.pending[event.notification] = Item(
            event.notification, event.kind, at_us, event.hook, event.about, event.team, event.facts, url
        )
        return
    item = outbox.pending.get(event.notification)
    if item is None:
        return
    if isinstance(event, ev.NotificationDelayed):
        outbox.pending[item.id] = msgspec.structs.replace(
            item, attempts=event.attempt, due_us=event.due_us, error=event.error
        )
        return
    delivered = isinstance(event, ev.NotificationDelivered)
    ended = msgspec.structs.replace(
        item,
        attempts=event.attempt,
        error="" if delivered else event.error,
        state="delivered" if delivered else "failed",
        ended_us=at_us,
        facts={},
        url="",
    )
    del outbox.pending[item.id]
    outbox.ended[item.id] = ended
    while len(outbox.ended) > MOST_ENDED:
        del outbox.ended[next(iter(outbox.ended))]
