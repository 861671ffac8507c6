"""Long-term memory: who reads and writes which shelf, versions, bounds, and what a snapshot holds of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hive_ray.core import events as ev
from hive_ray.core import forking
from hive_ray.core.commands import DeleteMemory, PutMemory, RaiseLevel, Refused
from hive_ray.core.failures import FailureKind
from hive_ray.core.longterm import Bounds, Entry, Shelves, is_item, owner_in
from hive_ray.core.messages import Lease, MemoryRead, MemoryWrite
from hive_ray.core.run import RunStatus, decode_run, encode_run
from hive_ray.core.values import decode, inline
from hive_ray.graph.compiled import CompiledGraph, RetryPlan
from hive_ray.graph.memory_keys import parse_declaration
from tests.core.graphs import MODEL, agent, chain, llm, mail, nested, node, tool
from tests.core.story import Story, content

AGENT = "team/agent"


def plans(*texts: str) -> tuple[Any, ...]:
    return tuple(parse_declaration(text) for text in texts)


def story(*graphs: CompiledGraph, **fields: Any) -> Story:
    told = Story(*graphs, **fields)
    told.engine.command(RaiseLevel(2), told.now)
    return told


def write(address: str, value: Any = None, if_version: int = -1) -> MemoryWrite:
    scope, _, key = address.partition(":")
    return MemoryWrite(scope, key, None if value is None else inline(value), if_version)


def remember(told: Story, lease: Lease, *writes: MemoryWrite, **outputs: Any) -> None:
    told.report(lease, content(**(outputs or {lease.name: 1})), memory=writes)


def put(told: Story, address: str, value: Any, **fields: Any) -> Any:
    scope, _, key = address.partition(":")
    owner = {"agent": AGENT, "team": "team"}.get(scope, "r")
    return told.engine.command(PutMemory(scope, owner, key, inline(value), **fields), told.now)


def entry(told: Story, address: str) -> Entry | None:
    scope, _, key = address.partition(":")
    owner = {"agent": AGENT, "team": "team"}.get(scope, "r")
    shelf = told.engine.find_shelf(scope, owner)
    assert not isinstance(shelf, Refused)
    return shelf.entries.get(key) if shelf is not None else None


def value(told: Story, address: str) -> Any:
    found = entry(told, address)
    return None if found is None else decode(found.value)


def reads(lease: Lease) -> dict[str, Any]:
    assert lease.memory is not None
    return {read.address: decode(read.value) if read.version else None for read in lease.memory.reads}


# --- reading -----------------------------------------------------------------------------------------


def test_values_come_with_the_lease_as_declared():
    """Exact keys, absent ones as version 0; with a prefix every key that begins so."""
    graph = chain(node("a", memory=plans("agent:profile", "who=team:faq/refunds", "agent:notes/*")))
    told = story(graph)
    put(told, "agent:profile", "curt")
    put(told, "agent:notes/2", 2)
    put(told, "agent:notes/1", 1)
    put(told, "agent:other", "not declared")
    told.submit()
    given = told.lease("a").memory

    assert given is not None
    assert given.reads == (
        MemoryRead("agent:profile", "profile", inline("curt"), 1),
        MemoryRead("team:faq/refunds", "who", inline(None), 0),
        MemoryRead("agent:notes/1", "notes/1", inline(1), 3),
        MemoryRead("agent:notes/2", "notes/2", inline(2), 2),
    )
    assert given.prefixes == ("agent:notes/",)


def test_a_key_may_be_made_of_inputs():
    """One customer's notes, not all of them."""
    told = story(chain(node("a", input_keys=("id",), memory=plans("notes=agent:customer/{id}"))))
    put(told, "agent:customer/7", "likes tea")
    told.submit(input={"id": 7})

    assert reads(told.lease("a")) == {"agent:customer/7": "likes tea"}


@pytest.mark.parametrize("given", [None, "../x", "a/b", "", ["x"], True, "x" * 300, ".."])
def test_an_input_that_cannot_be_part_of_a_key_fails_the_node(given: Any):
    """The declaration and the input are named; nothing has started."""
    told = story(chain(node("a", input_keys=("id",), memory=plans("agent:customer/{id}"))))
    told.submit(input={"id": given})

    assert told.leases() == {}
    run = told.engine.runs["r"]
    assert run.failure == FailureKind.BAD_INPUT and "agent:customer/{id}" in run.message
    assert "StepStarted" not in told.kinds()


def test_an_llm_finds_memory_among_its_inputs():
    """Under the declared name."""
    told = story(chain(llm("a", memory=plans("profile=agent:profile"), input_keys=("x",))))
    put(told, "agent:profile", "y" * 1000)
    told.submit(input={"x": 1})
    lease = told.lease("a")

    assert {key: decode(item) for key, item in lease.inputs.items()} == {"profile": "y" * 1000, "x": 1}


def test_memory_counts_in_what_an_llm_step_may_cost():
    """Each byte of it may be a token."""
    model = msgspec.structs.replace(MODEL, input_nanousd_per_mtok=1_000_000)
    told = story(chain(llm("a", model=model, memory=plans("agent:profile"))))
    told.submit(run="bare")
    told.lease("a")
    put(told, "agent:profile", "y" * 1000)
    told.submit(run="fed")
    told.leases()

    bare, fed = (told.engine.runs[run].reserved_nanousd for run in ("bare", "fed"))
    assert fed - bare > 900


def test_a_tool_of_an_agent_reads_what_it_and_its_node_declare():
    """The LLM of the node reads only what the node declares."""
    one = msgspec.structs.replace(tool("look"), memory=plans("agent:secret"))
    told = story(chain(agent("a", one, memory=plans("agent:profile"))))
    put(told, "agent:profile", 1)
    put(told, "agent:secret", 2)
    told.submit()
    turn = told.lease("a")
    told.turn(turn, "look")

    assert list(reads(turn)) == ["agent:profile"]
    assert reads(told.lease("a/look")) == {"agent:profile": 1, "agent:secret": 2}


def test_a_step_reads_a_bounded_number_of_bytes():
    """A prefix that has grown too large fails the node by name."""
    told = story(chain(node("a", memory=plans("agent:log/*"))))
    told.engine.keeping.memory = Bounds(read_bytes=100)
    put(told, "agent:log/1", "x" * 60)
    put(told, "agent:log/2", "x" * 60)
    told.submit()
    told.leases()

    run = told.engine.runs["r"]
    assert (run.failure, run.failed_at) == (FailureKind.RESOURCE_LIMIT, "a")
    assert "limits.memory_read_bytes" in run.message


# --- writing -----------------------------------------------------------------------------------------


def test_writes_stand_with_the_success_of_their_step():
    """On three shelves, each with its own versions; the next step reads them."""
    told = story(chain(node("a"), node("b", memory=plans("run:n", "agent:n", "team:n"))))
    told.submit()
    remember(told, told.lease("a"), write("run:n", 1), write("agent:n", 2), write("team:n", 3))

    assert reads(told.lease("b")) == {"run:n": 1, "agent:n": 2, "team:n": 3}
    assert entry(told, "agent:n") == Entry("n", inline(2), 1, 1, told.now_us, "r:1.0.1", "", _seq(told, 1))


def _seq(told: Story, number: int) -> int:
    """Sequence number of the n-th write (from 0)."""
    return [seq for seq, _, event, _ in told.events() if isinstance(event, ev.MemoryWritten)][number]


def test_a_write_and_its_success_are_one_decision():
    """Nothing stands between the two in the journal, so no segment can part them."""
    told = story(chain(node("a"), node("b")))
    told.submit()
    remember(told, told.lease("a"), write("agent:n", 1), write("agent:m", 2))

    kinds = [record.kind for record in told.journal]
    at = kinds.index("StepSucceeded")
    assert kinds[at : at + 3] == ["StepSucceeded", "MemoryWritten", "MemoryWritten"]


def test_a_failed_attempt_writes_nothing():
    """Nor does one that nobody waits for any more."""
    told = story(chain(node("a", retry=RetryPlan(max_retries=1))))
    told.submit()
    first = told.lease("a")
    told.fail(first, FailureKind.TOOL_ERROR, memory=(write("agent:n", "failed"),))
    told.pass_time(60_000_000)
    second = told.lease("a")
    remember(told, first, write("agent:n", "late"))
    assert value(told, "agent:n") is None

    remember(told, second, write("agent:n", "counted"))
    remember(told, second, write("agent:n", "repeated"))
    assert value(told, "agent:n") == "counted"


def test_children_share_the_memory_of_their_root():
    """What a child writes under ``run`` its parent reads."""
    body = chain(node("inner"), id="body")
    told = story(chain(nested("sub", body), node("after", memory=plans("run:n")), subgraphs=(body,)))
    told.submit()
    (lease,) = told.leases().values()
    remember(told, lease, write("run:n", 5), inner=1)

    assert reads(told.lease("after")) == {"run:n": 5}
    assert told.replayed().runs["r"].shelf == told.engine.runs["r"].shelf


def test_deleting_and_writing_again_never_gives_a_version_twice():
    """Whoever read the deleted value cannot mistake the new one for it."""
    told = story(chain(node("a"), node("b"), node("c")))
    told.submit()
    remember(told, told.lease("a"), write("agent:n", 1))
    remember(told, told.lease("b"), write("agent:n"))
    remember(told, told.lease("c"), write("agent:n", 1))

    found = entry(told, "agent:n")
    assert found is not None and (found.version, found.number) == (3, 3)


@pytest.mark.parametrize(("asked", "stands"), [(1, True), (0, False), (2, False), (-1, True)])
def test_a_write_may_ask_for_a_version(asked: int, stands: bool):
    """Compare and set, by the step's choice."""
    told = story(chain(node("a", retry=RetryPlan(max_retries=0))))
    put(told, "agent:n", "old")
    told.submit()
    remember(told, told.lease("a"), write("agent:n", "new", asked), write("team:m", 1))

    run = told.engine.runs["r"]
    assert value(told, "agent:n") == ("new" if stands else "old")
    assert value(told, "team:m") == (1 if stands else None), "all of a step's writes stand, or none"
    assert run.failure == ("" if stands else FailureKind.CONFLICT)


def test_a_conflict_of_an_idempotent_step_is_tried_again_on_fresh_values():
    """The second attempt reads what the first one missed."""
    told = story(chain(node("count", memory=plans("agent:n"), retry=RetryPlan(max_retries=3))))
    told.submit(run="r")
    told.submit(run="s")
    leases = list(told.engine.dispatch.admit(told.engine.fleet.workers["function-1"], told.now, 2))
    for lease in leases:
        remember(told, lease, write("agent:n", 1, 0))
    told.pass_time(60_000_000)
    again = told.lease("count")
    remember(told, again, write("agent:n", reads(again)["agent:n"] + 1, 1))

    assert again.attempt == 2 and value(told, "agent:n") == 2
    assert all(run.status is RunStatus.SUCCEEDED for run in told.engine.runs.values())


@pytest.mark.parametrize("decision", ["happened", "did_not_happen"])
def test_what_a_late_success_would_write_does_not_hide_that_it_happened(decision: str):
    """Its memory has a conflict by now; whether it contradicts the person does not hang on that."""
    told = story(chain(mail("a"), node("b")))
    told.submit()
    lease = told.lease("a")
    told.lose("function-1")
    told.resolve(decision)

    told.report(lease, content(a=1), memory=(write("agent:n", 1, if_version=7),))

    (late,) = [event for *_, event, _ in told.events() if isinstance(event, ev.LateOutcome)]
    assert late.failure == ""
    assert late.contradicts is (decision == "did_not_happen")


def test_a_conflict_of_other_work_is_not_repeated():
    """It happened; that its memory is stale fails the node, for an edge to catch."""
    told = story(chain(node("mail", idempotent=False)))
    put(told, "agent:n", 1)
    told.submit()
    remember(told, told.lease("mail"), write("agent:n", 2, 7))

    run = told.engine.runs["r"]
    assert (run.status, run.failure, run.attempts) == (RunStatus.FAILED, FailureKind.CONFLICT, 1)
    assert "agent:n has version 1; the write asked for version 7" in run.message


def test_a_shelf_holds_a_bounded_number_of_keys():
    """Deleting makes room in the same step; another key does not fit."""
    told = story(chain(node("a"), node("b"), node("c")))
    told.engine.keeping.memory = Bounds(entries=2)
    told.submit()
    remember(told, told.lease("a"), write("agent:1", 1), write("agent:2", 1), write("team:1", 1))
    remember(told, told.lease("b"), write("agent:1"), write("agent:3", 1))
    remember(told, told.lease("c"), write("agent:4", 1))

    run = told.engine.runs["r"]
    assert run.failure == FailureKind.RESOURCE_LIMIT and "limits.memory_keys" in run.message
    assert put(told, "agent:5", 1).problem == "invalid"


def test_a_state_of_the_first_level_takes_no_memory():
    """From outside it is a conflict that says what to do; a step fails."""
    told = Story(chain(node("a")))
    told.submit()
    refused = put(told, "agent:n", 1)
    remember(told, told.lease("a"), write("agent:n", 1))

    assert (refused.problem, told.engine.runs["r"].failure) == ("conflict", FailureKind.POLICY_DENIED)
    assert "hive-ray state upgrade" in refused.message
    assert not any(record.kind == "MemoryWritten" for record in told.journal)


# --- from outside ------------------------------------------------------------------------------------


def test_a_request_is_done_once():
    """Its repeat gets the first result, also where it asked for a version that is gone by its own doing."""
    told = story(chain(node("a")))
    first = put(told, "agent:n", 1, if_version=0, request_id="q1")
    again = put(told, "agent:n", 1, if_version=0, request_id="q1")
    other = put(told, "agent:n", 2, if_version=0, request_id="q2")

    assert again == first and first.version == 1
    assert other.problem == "stale"


def test_another_value_under_the_same_request_is_written():
    """A caller may name all its requests alike: no write is lost in silence."""
    told = story(chain(node("a")))
    put(told, "agent:n", 1, request_id="q1")
    other = put(told, "agent:n", 2, request_id="q1")

    assert (other.version, other.value) == (2, inline(2))


def test_deleting_what_is_absent_is_no_fault():
    """A repeat cannot know; a version that is there and another than asked for is refused."""
    told = story(chain(node("a")))
    put(told, "agent:n", 1)

    def drop(if_version: int) -> Any:
        return told.engine.command(DeleteMemory("agent", AGENT, "n", if_version), told.now)

    assert drop(5).problem == "stale"
    assert not isinstance(drop(1), Refused) and not isinstance(drop(1), Refused)
    assert sum(record.kind == "MemoryDeleted" for record in told.journal) == 1


def test_the_memory_of_a_run_ends_with_it():
    """Readable afterwards, not writable; a child's is its root's, and has no address of its own."""
    told = story(chain(node("a")))
    told.submit()
    put(told, "run:n", 1)
    told.run_to_end("a")

    assert value(told, "run:n") == 1
    assert put(told, "run:n", 2).problem == "conflict"
    assert isinstance(told.engine.find_shelf("run", "nobody"), Refused)


def test_keys_are_content():
    """No readable field of an event, and no name of a snapshot item, holds a key."""
    told = story(chain(node("a")))
    told.submit()
    remember(told, told.lease("a"), write("agent:canary-key", 1), write("run:canary-key", 1))

    assert all(b"canary" not in record.body for record in told.journal)
    assert not any("canary" in item for item in told.engine.keeping.shelves.items())


def test_a_fork_goes_on_with_the_memory_of_its_run():
    """As it was at the cut, under its own name; artifacts are the parent's and stay there."""
    told = story(chain(node("a"), node("b", memory=plans("run:n"))))
    told.submit()
    remember(told, told.lease("a"), write("run:n", 1))
    told.run_to_end("b")
    cut = forking.before_node([e for e in told.events() if e[2].run == "r"], told.graphs[0], "b")
    assert not isinstance(cut, Refused)
    state = decode_run(encode_run(cut.state))

    assert state.shelf is not None and decode(state.shelf.entries["n"].value) == 1
    assert not state.artifacts


# --- snapshots ---------------------------------------------------------------------------------------


def test_each_entry_is_an_item_of_its_own():
    """A write marks its entry and its shelf; the others stay as the older snapshot has them."""
    told = story(chain(node("a")))
    put(told, "agent:1", 1)
    put(told, "agent:2", 2)
    shelves = told.engine.keeping.shelves
    shelves.changed = {}
    put(told, "agent:2", 3)

    assert list(shelves.changed) == [f"shelf/agent/{AGENT}", f"entry/2/agent/{AGENT}"]
    assert all(is_item(item) and owner_in(item) == ("agent", AGENT) for item in shelves.items())


def test_a_snapshot_gives_the_shelves_back():
    """Whatever the order of its items, and with what was deleted gone."""
    told = story(chain(node("a")))
    for number in range(5):
        put(told, f"agent:{number}", number)
    told.engine.command(DeleteMemory("agent", AGENT, "3"), told.now)
    put(told, "agent:1", "new")
    shelves = told.engine.keeping.shelves
    encoded = {item: shelves.encode(item) for item in shelves.changed}

    for order in (list(encoded), list(reversed(encoded))):
        restored = Shelves()
        for item in order:
            found = encoded[item]
            if found is not None:
                restored.restore(item, found.data)
        assert restored.by_name == shelves.by_name
    assert encoded[f"entry/4/agent/{AGENT}"] is None


def test_a_snapshot_taken_in_slices_and_the_events_behind_it_give_the_same():
    """Items reflect different moments: a replay applies to each only what came behind it."""
    told = story(chain(node("a")))
    put(told, "agent:1", 1)
    put(told, "agent:2", 1)
    shelves = told.engine.keeping.shelves
    names = list(shelves.items())
    before = len(told.journal)
    items = {names[1]: shelves.encode(names[1])}
    told.engine.command(DeleteMemory("agent", AGENT, "1"), told.now)
    put(told, "agent:1", "again")
    put(told, "agent:2", "changed")
    items |= {name: shelves.encode(name) for name in (*names[:1], *names[2:], *shelves.items()) if name}
    restored = Shelves()
    for name, found in items.items():
        if found is not None:
            restored.restore(name, found.data)
    for seq, at_us, event, given in told.events()[before:]:
        if isinstance(event, ev.MemoryWritten | ev.MemoryDeleted):
            restored.apply(event, given, at_us, seq)

    assert restored.by_name == shelves.by_name
    assert restored.encode(names[1]) is None and names[1] in restored.changed
