"""The controller as a synchronous machine: what leaves it, and when."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from hive_ray.control.queries import WatchRun
from hive_ray.control.views import Answer, RunView
from hive_ray.core.commands import Cancel, Resolve, Submit
from hive_ray.core.engine import Engine
from hive_ray.core.messages import ExchangeReply, Lease, Outcome, StepContent, encode
from hive_ray.errors import StoreError
from hive_ray.graph.compiled import RetryPlan
from hive_ray.state.content import PlainCodec
from hive_ray.state.journal import Journal
from hive_ray.state.memory_store import MemoryStore, forget_memory
from hive_ray.state.records import SEGMENT_BYTES, read_row
from tests.control.driver import OWNER, Driver
from tests.core.graphs import HOUR_US, chain, human, mail, nested, node
from tests.core.story import content, values

RETRY = RetryPlan(max_retries=1, base_us=1_000_000)
GRAPH = chain(node("a", retry=RETRY), human("h", "approved"), mail("z"))
BODY = chain(human("q", "x"), id="body")


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[MemoryStore]:
    name = request.node.name
    yield MemoryStore(name)
    forget_memory(name)


@pytest.fixture
def driver(store: MemoryStore) -> Driver:
    return Driver(store, [GRAPH])


def submit(run: str = "r", **fields: Any) -> Submit:
    given = fields.pop("content", StepContent())
    return Submit(run, "q", "team", "agent", fields.pop("graph", GRAPH.version), given, **fields)


def done(lease: Lease, failure: str = "") -> Outcome:
    return Outcome(*lease.key, failure, encode(content(**{lease.name: "!"})), name=lease.name)


def view(answer: Answer) -> RunView:
    assert isinstance(answer.value, RunView), answer
    return answer.value


def leased(driver: Driver, slots: int = 8) -> tuple[str, Lease]:
    """A worker's session and the lease that it got."""
    session = driver.attached(slots=slots).session
    waiting = driver.exchange(session, 1)
    driver.command(submit())
    reply: ExchangeReply = driver.replies[waiting]
    return session, reply.leases[0]


# --- commit before effect ----------------------------------------------------------------------------


def test_no_answer_leaves_before_it_is_durable(driver: Driver):
    """Not of a command, not of a query, not of a worker's attachment."""
    driver.holds_writes = True
    calls = [driver.command(submit()), driver.watch("r"), driver.attach()]
    query = driver.call()
    driver.shell.query(query, lambda engine: list(engine.runs), driver.clock)
    driver.perform()
    assert driver.replies == {}

    driver.release()

    assert set(driver.replies) == {*calls, query}


def test_an_answered_call_leaves_nothing_to_the_garbage_collector(driver: Driver):
    """Cycles would be collected some 50,000 objects at a time, while everybody waits."""

    class Let:
        def __call__(self, engine: Engine) -> None:
            """Anybody may."""

    gc.disable()
    try:
        lets = [Let() for _ in range(3)]
        gone = [weakref.ref(let) for let in lets]
        driver.shell.command(driver.call(), submit(), driver.clock, lets.pop())
        driver.shell.query(driver.call(), lambda engine: list(engine.runs), driver.clock, ("r",), lets.pop())
        driver.shell.watch(driver.call(), WatchRun("r"), driver.clock, lets.pop())
        driver.perform()

        assert [ref() for ref in gone] == [None, None, None]
    finally:
        gc.enable()


def test_no_lease_leaves_before_it_is_durable(driver: Driver):
    """Else a crash would hand it out twice."""
    session = driver.attached().session
    waiting = driver.exchange(session, 1)
    driver.holds_writes = True
    driver.command(submit())
    assert waiting not in driver.replies

    driver.release()
    assert waiting in driver.replies and len(driver.replies[waiting].leases) == 1


def test_no_acknowledgement_leaves_before_it_is_durable(driver: Driver):
    """A worker keeps its outcome until then."""
    session, lease = leased(driver)
    driver.holds_writes = True
    call = driver.exchange(session, 2, done(lease))
    assert call not in driver.replies

    driver.release()

    assert driver.replies[call].acknowledged == (lease.key,)


def test_what_arrives_during_a_write_goes_into_the_next_one(driver: Driver):
    """Group commit: one write in flight, and one segment for all that moved meanwhile."""
    driver.holds_writes = True
    driver.command(submit("r0"))
    calls = [driver.command(submit(f"r{number}")) for number in range(1, 20)]
    assert len(driver.writes) == 1

    driver.release()

    assert len(driver.writes) == 2
    assert all(call in driver.replies for call in calls)


def test_a_commit_releases_only_what_it_holds(driver: Driver):
    """Answers to what was decided during the write wait for the next one."""
    driver.holds_writes = True
    first = driver.command(submit("r0"))
    second = driver.command(submit("r1"))

    driver.release_one()
    assert (first in driver.replies, second in driver.replies) == (True, False)
    driver.release_one()
    assert second in driver.replies


def test_an_outcome_and_the_next_lease_stand_in_one_segment(store: MemoryStore):
    """A hop costs one write."""
    driver = Driver(store, [graph := chain(node("a"), node("b"), id="two")])
    session = driver.attached().session
    first = driver.exchange(session, 1)
    driver.command(submit(graph=graph.version))
    before = len(driver.writes)

    reply = driver.exchanged(session, 2, done(driver.replies[first].leases[0]))

    assert [lease.name for lease in reply.leases] == ["b"]
    assert len(driver.writes) == before + 1


# --- failing writes ----------------------------------------------------------------------------------


def failing(times: int, error: str = "no answer") -> Any:
    left = [times]

    def hook(operation: str, name: str) -> None:
        if operation == "create" and left[0]:
            left[0] -= 1
            raise StoreError(error)

    return hook


def test_a_failed_write_is_tried_again_with_the_same_bytes(driver: Driver, store: MemoryStore):
    """And nothing leaves until it succeeds; how long it has been failing can be read."""
    store.before = failing(2)
    call = driver.command(submit())
    assert driver.replies == {} and driver.shell.blocked_since_us

    driver.release()
    assert driver.replies == {}
    driver.release()

    assert len({write.pending.data for write in driver.writes}) == 1 and len(driver.writes) == 3
    assert (call in driver.replies, driver.shell.blocked_since_us) == (True, 0)


def test_a_lost_acknowledgement_is_read_back(driver: Driver, store: MemoryStore):
    """The object is there with our bytes: it was committed."""
    store.after = failing(1)
    call = driver.command(submit())

    assert call in driver.replies and len(driver.writes) == 1


def test_a_fenced_controller_ends_and_says_nothing_more(driver: Driver, store: MemoryStore):
    """Neither what it had decided nor what it is asked later leaves it."""
    session, lease = leased(driver)
    heard = set(driver.replies)
    Journal(store, 0).claim(OWNER, "newer", 2_000_000)

    driver.exchange(session, 2, done(lease))
    driver.command(submit("late"))
    driver.pass_time(HOUR_US)

    assert driver.ended is not None and "replaced" in str(driver.ended.reason)
    assert set(driver.replies) == heard


# --- exchanges -----------------------------------------------------------------------------------------


def test_a_repeated_exchange_gets_the_same_reply(driver: Driver):
    """The lease that it carried is not given out again, and no other is."""
    session = driver.attached().session
    first = driver.exchange(session, 1)
    driver.command(submit())
    driver.command(submit("other"))

    again = driver.exchange(session, 1, seen=0)

    assert driver.replies[again] == driver.replies[first]


def test_a_newer_exchange_cancels_the_one_that_waits(driver: Driver):
    """The older is answered without work; what comes goes to the newer."""
    session = driver.attached().session
    older, newer = driver.exchange(session, 1), driver.exchange(session, 2)
    assert driver.replies[older] == ExchangeReply(1, driver.engine.fleet.epoch)
    assert newer not in driver.replies

    driver.command(submit())

    assert len(driver.replies[newer].leases) == 1


def test_an_older_exchange_that_was_delayed_gets_no_work(driver: Driver):
    """Its outcomes count; the newer one goes on waiting."""
    session, lease = leased(driver)
    waiting = driver.exchange(session, 4)

    late = driver.exchange(session, 3, done(lease))
    driver.command(submit("other"))

    assert driver.replies[late].acknowledged == (lease.key,) and not driver.replies[late].leases
    assert len(driver.replies[waiting].leases) == 1


def test_the_next_exchange_confirms_the_last_reply(driver: Driver):
    """Replies are kept for repeats until then, no longer."""
    session, _ = leased(driver)
    assert list(driver.shell.reception.sessions[session].replies) == [1]

    driver.exchange(session, 2)

    assert not driver.shell.reception.sessions[session].replies


def test_an_unknown_session_must_attach(driver: Driver):
    """After a restart of the controller, say."""
    assert driver.exchanged("9.9", 1).reattach


def test_an_empty_exchange_waits_and_is_answered_in_time(driver: Driver):
    """Empty-handed after ``poll_us``."""
    session = driver.attached().session
    call = driver.exchange(session, 1)
    driver.pass_time(9_000_000)
    assert call not in driver.replies

    driver.pass_time(1_000_000)

    assert driver.replies[call] == ExchangeReply(1, driver.engine.fleet.epoch)


def test_workers_share_what_is_queued(driver: Driver):
    """No worker takes all of it while another one waits."""
    sessions = [driver.attached(name).session for name in ("u", "v")]
    driver.holds_writes = True
    for number in range(8):
        driver.command(submit(f"r{number}"))
    calls = [driver.exchange(session, 1) for session in sessions]

    driver.release()

    assert [len(driver.replies[call].leases) for call in calls] == [4, 4]


def test_a_cancelled_runs_attempt_is_told_to_its_worker(driver: Driver):
    """With the next reply; its slot stays taken until the worker has said what came of it."""
    session, lease = leased(driver)
    waiting = driver.exchange(session, 2)

    driver.command(Cancel("r"))

    assert driver.replies[waiting].cancel == (lease.key,)
    assert driver.engine.fleet.workers["w"].room == 7


# --- attachment ------------------------------------------------------------------------------------------


def test_a_lease_that_its_worker_never_saw_is_given_out_again(driver: Driver):
    """As the same attempt."""
    _, lease = leased(driver)

    session = driver.attached().session

    (again,) = driver.exchanged(session, 1).leases
    assert again.key == lease.key


def test_a_request_to_attach_that_comes_late_takes_no_lease_away(driver: Driver):
    """It says what was held when it was sent; its session is never used, and the worker attaches again."""
    session, lease = leased(driver)
    driver.attach()

    assert driver.exchanged(session, 9).reattach
    reply = driver.attached(running=(lease.key,))
    driver.exchange(reply.session, 1)

    assert reply.drop == ()
    assert list(driver.engine.fleet.workers["w"].leases) == [lease.key]
    assert driver.engine.runs["r"].attempts == 1


def test_what_a_worker_still_runs_stays_its_own(driver: Driver):
    """Attempt 1 goes on under the new session."""
    _, lease = leased(driver)

    reply = driver.attached(running=(lease.key,))

    assert reply.drop == ()
    assert list(driver.engine.fleet.workers["w"].leases) == [lease.key]


def test_outcomes_that_come_with_an_attachment_count(driver: Driver):
    """They are acknowledged, once durable."""
    _, lease = leased(driver)

    reply = driver.attached(outcomes=(done(lease),))

    assert reply.acknowledged == (lease.key,)
    assert driver.engine.runs["r"].memory.keys() == {"a"}


def test_a_worker_is_told_to_drop_what_nobody_waits_for(driver: Driver):
    """It was given up while it was away."""
    _, lease = leased(driver)
    driver.shell.lose_worker("w", "silent", driver.clock)
    driver.perform()

    assert driver.attached(running=(lease.key,)).drop == (lease.key,)


def test_a_worker_that_missed_a_cancel_is_told_again(driver: Driver):
    """Its attempt is an orphan: it is stopped with the first reply of the new session."""
    _, lease = leased(driver)
    driver.command(Cancel("r"))

    session = driver.attached(running=(lease.key,)).session

    assert driver.exchanged(session, 1).cancel == (lease.key,)


def test_workers_that_do_not_come_back_are_given_up(store: MemoryStore):
    """After the attach grace their idempotent attempts are retried."""
    _, lease = leased(Driver(store, [GRAPH]))
    driver = Driver(store, [GRAPH], attach_grace_us=5_000_000)
    assert [worker.name for worker in driver.shell.reception.unattached()] == ["w"]

    driver.pass_time(4_000_000)
    assert list(driver.engine.fleet.workers) == ["w"]
    driver.pass_time(1_000_000)

    assert not driver.engine.fleet.workers
    assert driver.engine.runs["r"].visits[1].steps[0].attempt == lease.attempt + 1


# --- time ------------------------------------------------------------------------------------------------


def test_a_backoff_ends_on_the_monotonic_clock(driver: Driver):
    """And the step goes to the worker that waits."""
    session, lease = leased(driver)
    driver.exchange(session, 2, done(lease, "TOOL_ERROR"))
    waiting = driver.exchange(session, 3)
    driver.pass_time(499_000)
    assert waiting not in driver.replies

    driver.pass_time(1_000)

    assert driver.replies[waiting].leases[0].attempt == 2


def test_an_approvals_deadline_fires_by_the_wall_clock(driver: Driver):
    """EXPIRED, without anybody asking."""
    session, lease = leased(driver)
    driver.exchange(session, 2, done(lease))

    driver.pass_time(72 * HOUR_US)

    assert driver.engine.runs["r"].failure == "EXPIRED"


def test_a_deadline_that_passed_while_all_was_down_fires_on_recovery(store: MemoryStore):
    """Once."""
    first = Driver(store, [GRAPH])
    session, lease = leased(first)
    first.exchange(session, 2, done(lease))

    driver = Driver(store, [GRAPH])
    driver.pass_time(72 * HOUR_US)

    assert driver.engine.runs["r"].failure == "EXPIRED"


def test_the_root_of_a_waiting_child_is_armed_again_when_it_is_answered(store: MemoryStore):
    """Its own deadline stood still meanwhile."""
    graph = chain(nested("s", BODY), node("z"), subgraphs=(BODY,))
    driver = Driver(store, [graph])
    driver.command(submit(graph=graph.version))
    driver.pass_time(60 * HOUR_US)
    driver.command(Resolve("r_1-0", "r_1-0.1", "approve", StepContent()))

    driver.pass_time(24 * HOUR_US - 1)
    assert driver.engine.runs["r"].status == "running"
    driver.pass_time(1)
    assert driver.engine.runs["r"].failure == "EXPIRED"


# --- watching and bounds -----------------------------------------------------------------------------------


def test_a_watcher_hears_of_the_next_durable_event(driver: Driver):
    """Not of one that it knows."""
    session, lease = leased(driver)
    known = driver.engine.runs["r"].seq
    call = driver.watch("r", known)
    assert call not in driver.replies

    driver.exchange(session, 2, done(lease))

    assert view(driver.replies[call]).seq > known


def test_a_watcher_of_the_end_hears_of_nothing_else(driver: Driver):
    """But is answered after ``poll_us``, so that no call hangs."""
    session, lease = leased(driver)
    call, other = driver.watch("r", until_end=True), driver.watch("r", until_end=True)
    driver.exchange(session, 2, done(lease))
    assert call not in driver.replies

    driver.command(Cancel("r"))

    assert view(driver.replies[call]).status == view(driver.replies[other]).status == "cancelled"
    driver.command(submit("s"))
    patient = driver.watch("s", until_end=True)
    driver.pass_time(10_000_000)
    assert view(driver.replies[patient]).status in ("queued", "running")


def test_a_watcher_of_no_run_is_told_so(driver: Driver):
    """not_found."""
    refused = driver.replies[driver.watch("nothing")].refused

    assert refused is not None and refused.problem == "not_found"


def test_new_runs_are_refused_at_the_bound_and_repeats_are_not(store: MemoryStore):
    """429 with a time to wait; the same run again gets its first answer."""
    driver = Driver(store, [GRAPH], live_runs=1)
    driver.command(submit())

    refused = driver.replies[driver.command(submit("other"))].refused
    assert refused is not None and (refused.problem, refused.retry_after_s > 0) == ("overloaded", True)
    assert view(driver.replies[driver.command(submit())]).run_id == "r"


def test_an_idempotency_key_makes_one_run_and_another_body_is_a_mismatch(driver: Driver):
    """Also while the first commit is on its way; the key belongs to its team."""
    driver.holds_writes = True
    first = driver.command(submit("r1", idempotency_key="k", digest="d"))
    again = driver.command(submit("r2", idempotency_key="k", digest="d"))
    other = driver.command(submit("r3", idempotency_key="k", digest="e"))
    assert driver.replies == {}

    driver.release()

    assert view(driver.replies[first]).run_id == view(driver.replies[again]).run_id == "r1"
    assert driver.replies[other].refused.problem == "mismatch"


def test_an_idempotency_key_is_forgotten_in_time(store: MemoryStore):
    """After that it makes a new run."""
    driver = Driver(store, [GRAPH], idempotency_us=HOUR_US)
    driver.command(submit("r1", idempotency_key="k", digest="d"))

    driver.pass_time(HOUR_US + 1)

    call = driver.command(submit("r2", idempotency_key="k", digest="e"))
    assert view(driver.replies[call]).run_id == "r2"


# --- segments ---------------------------------------------------------------------------------------


def test_a_backlog_is_written_in_segments_of_bounded_size(driver: Driver, store: MemoryStore):
    """Not in one, and not one decision at a time; no decision is divided."""
    driver.holds_writes = True
    driver.command(submit("first"))
    big = StepContent(outputs=values(text="x" * (SEGMENT_BYTES // 8)))
    for number in range(30):
        driver.command(submit(f"r{number:02}", content=big))

    driver.release()

    sizes = [sum(map(len, segment.columns.content)) for segment in Journal(store, 0).read_segments()]
    assert len(driver.writes) == 1 + 4
    assert max(sizes) < SEGMENT_BYTES * 1.2
    for segment in Journal(store, 0).read_segments():
        kinds = [row.kind for row in segment.columns.rows() if read_row("", row, PlainCodec())]
        assert kinds.count("RunSubmitted") == kinds.count("NodeEntered")
