"""Two things happen to a run at once: the first one wins, the other is told so, and the run ends once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from hive_ray.core.commands import Refused
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import Lease
from hive_ray.graph.compiled import RetryPlan
from tests.core.graphs import HOUR_US, chain, human, mail, node
from tests.core.story import Story

ENDS = {"RunSucceeded", "RunFailed", "RunCancelled"}
Move = Callable[[], object]


def terminal_events(story: Story) -> list[str]:
    return [kind for kind in story.kinds() if kind in ENDS]


def leased(story: Story) -> Lease:
    story.submit()
    return story.lease("a")


def completion() -> tuple[Story, Move]:
    """The last step's result comes in."""
    story = Story(chain(mail("a")))
    lease = leased(story)
    return story, lambda: story.succeed(lease)


def failure() -> tuple[Story, Move]:
    """The last step fails for good."""
    story = Story(chain(mail("a")))
    lease = leased(story)
    return story, lambda: story.fail(lease)


def start() -> tuple[Story, Move]:
    """A worker is given the step."""
    story = Story(chain(mail("a")))
    story.submit()

    def move() -> None:
        for lease in story.leases().values():
            story.succeed(lease)

    return story, move


def retry() -> tuple[Story, Move]:
    """A backoff ends, and the step runs again."""
    story = Story(chain(node("a", retry=RetryPlan(max_retries=3, base_us=1_000_000))))
    story.fail(leased(story), FailureKind.TOOL_ERROR)

    def move() -> None:
        story.pass_time(1_000_000)
        for lease in story.leases().values():
            story.succeed(lease)

    return story, move


def answer() -> tuple[Story, Move]:
    """A person approves."""
    story = Story(chain(human("h", "approved")))
    story.submit()
    approval = story.wait()[1].approval
    return story, lambda: story.resolve("approve", approval=approval)


def expiry() -> tuple[Story, Move]:
    """The deadline of a question passes."""
    story = Story(chain(human("h", "approved")))
    story.submit()
    return story, lambda: story.pass_time(72 * HOUR_US)


RIVALS = [completion, failure, start, retry, answer, expiry]


@pytest.mark.parametrize("first", ["cancel", "rival"])
@pytest.mark.parametrize("rival", RIVALS)
def test_a_cancel_and_its_rival_end_the_run_once(rival: Callable[[], tuple[Story, Move]], first: str):
    """In both orders: one terminal event; a cancelled run stays cancelled, one that has ended cannot be."""
    story, move = rival()
    moves = [story.tell_cancel, move]
    for step in moves if first == "cancel" else reversed(moves):
        step()
    run = story.engine.runs["r"]
    ended = terminal_events(story)
    story.pass_time(100 * HOUR_US)

    assert len(ended) == 1
    assert terminal_events(story) == ended
    assert (run.status == "cancelled") is (first == "cancel")
    assert not run.orphans
    assert story.replayed().runs["r"].status == run.status


DECISIONS: dict[str, Callable[[Story, str], object]] = {
    "approve": lambda story, approval: story.resolve("approve", approval=approval, digest="1"),
    "reject": lambda story, approval: story.resolve("reject", approval=approval, digest="2"),
    "edit": lambda story, approval: story.resolve("edit", approval=approval, digest="3", approved=True),
    "expire": lambda story, _approval: story.pass_time(72 * HOUR_US),
}


@pytest.mark.parametrize("order", list(permutations(DECISIONS, 2)), ids="-".join)
def test_of_two_answers_at_once_the_first_counts_and_the_journal_has_one(order: tuple[str, str]):
    """Two people, or a person and the deadline: one resolution; whoever comes second is refused."""
    story = Story(chain(human("h", "approved")))
    story.submit()
    approval = story.wait()[1].approval
    told = [DECISIONS[name](story, approval) for name in order]
    resolutions = [event for _, _, event, _ in story.events() if type(event).__name__ == "ApprovalResolved"]
    expired = story.kinds().count("NodeFailed")

    assert len(resolutions) == 1
    assert terminal_events(story) == ["RunFailed" if order[0] == "expire" else "RunSucceeded"]
    assert expired == (order[0] == "expire")
    if order[1] != "expire":
        assert isinstance(told[1], Refused)
        assert told[1].problem == "conflict"
