"""What must be true after the demo, read from the journal's events and from the SMTP server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

Event = Mapping[str, Any]
Status = Mapping[str, Any]
Claim = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed while a step of ``node`` was leased.

    ``in_flight``: the controller said so right before.
    """

    node: str
    pid: int
    at_us: int
    in_flight: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known after the run.

    ``events`` are the run's, from the journal; ``status`` is the installation's; ``mails`` is what the SMTP
    server counted.
    """

    events: Sequence[Event]
    outcome: Mapping[str, Any]
    status: Status
    mails: Sequence[Mapping[str, Any]]


def checks(facts: Facts, kills: Mapping[str, Kill], agreed: bool) -> Iterator[Claim]:
    """Each claim with whether it holds.

    Args:
        agreed: the person wanted the mail to be sent.
    """
    events, outcome = facts.events, facts.outcome
    yield f"the run succeeded (it is {outcome['status']})", outcome["status"] == "succeeded"
    yield from _of_the_controller(events, facts.status, kills.get("controller"))
    yield from _of_the_worker(events, facts.status, kills.get("worker"))
    yield from _of_the_flow(events)
    yield from _of_the_mail(facts, agreed)
    yield f"the run has a cost (${outcome['cost_usd']})", Decimal(outcome["cost_usd"]) > 0


def _of_the_mail(facts: Facts, agreed: bool) -> Iterator[Claim]:
    ids = [mail["message_id"] for mail in facts.mails]
    sent = [event["seq"] for event in _of(facts.events, "StepStarted", "send_answer")]
    if not agreed:
        yield "nobody agreed, and no mail was attempted or sent", not sent and not ids
        return
    answered = [event["seq"] for event in _of(facts.events, "ApprovalResolved")]
    yield (
        "the mail was attempted once, after a person agreed",
        len(answered) == len(sent) == 1 and answered < sent,
    )
    yield f"the SMTP server counted one mail ({len(ids)})", len(ids) == 1
    receipt = facts.outcome["outputs"].get("receipt") or {}
    yield "that mail is the one in the run's receipt", ids == [receipt.get("message_id")]


def _of_the_controller(events: Sequence[Event], status: Status, kill: Kill | None) -> Iterator[Claim]:
    yield "the controller was killed while a step was in flight", kill is not None and kill.in_flight
    if kill is None:
        return
    epochs = sorted({event["epoch"] for event in _of(events, "StepStarted")})
    yield f"the journal shows a new epoch {epochs}", len(epochs) > 1 and epochs[-1] == status["epoch"]
    yield "another process is the controller now", status["controller_pid"] not in (0, kill.pid)
    ends = [event for event in _of(events, "StepSucceeded", kill.node) if _us(event) > kill.at_us]
    kept = len(ends) == 1 and ends[0]["attempt"] == 1
    yield f"{kill.node}, in flight at that moment, ended later as attempt 1: no work was lost", kept


def _of_the_worker(events: Sequence[Event], status: Status, kill: Kill | None) -> Iterator[Claim]:
    yield "a worker was killed while a step was in flight", kill is not None and kill.in_flight
    if kill is None:
        return
    kinds = [(event["kind"], event.get("failure_kind", "")) for event in events if event["node"] == kill.node]
    lost = ("StepFailed", "WORKER_LOST")
    yield f"the journal shows a lost attempt of {kill.node}", lost in kinds
    after = [kind for kind, _ in kinds[kinds.index(lost) + 1 :]] if lost in kinds else []
    in_order = [kind for kind in after if kind in ("RetryScheduled", "StepStarted", "StepSucceeded")]
    again = ["RetryScheduled", "StepStarted", "StepSucceeded"]
    yield "it was tried again, and that attempt succeeded", in_order == again
    pids = [worker["pid"] for worker in status["workers"]]
    yield "another process is that worker now", kill.pid not in pids


def _of_the_flow(events: Sequence[Event]) -> Iterator[Claim]:
    entered = [event["node"] for event in _of(events, "NodeEntered")]
    branches = {"search_knowledge", "rank_articles", "look_up_account", "customer_time"}
    yield "every branch of the research ran once", all(entered.count(branch) == 1 for branch in branches)
    yield "the branches joined once, when the last of them had ended", _joined(events, branches)


def _joined(events: Sequence[Event], branches: set[str]) -> bool:
    joined = [event["seq"] for event in _of(events, "NodeEntered", "sum_up")]
    ended = [event["seq"] for event in _of(events, "StepSucceeded") if event["node"] in branches]
    return len(joined) == 1 and len(ended) == len(branches) and max(ended) < joined[0]


def _of(events: Sequence[Event], kind: str, node: str = "") -> Iterator[Event]:
    return (event for event in events if event["kind"] == kind and (not node or event["node"] == node))


def _us(event: Event) -> int:
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1e6)
