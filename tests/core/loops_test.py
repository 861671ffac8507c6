"""Agent loops: every LLM and tool call is a step of its own."""

from __future__ import annotations

from hive_ray.core.bounds import ANSWER_BYTES, MESSAGE_BYTES
from hive_ray.core.failures import FailureKind
from hive_ray.core.messages import StepContent, ToolCall
from hive_ray.core.values import decode, inline
from hive_ray.graph.compiled import ModelPlan, NodeKind, RetryPlan
from tests.core.graphs import agent, chain, llm, tool
from tests.core.story import Story, content

READ, SEARCH, SEND = tool("read"), tool("search"), tool("send", idempotent=False)


def loop(*tools: object, **fields: object) -> Story:
    story = Story(chain(agent("a", *tools, **fields)))  # type: ignore[arg-type]
    story.submit()
    return story


def test_a_loop_ends_when_all_its_required_outputs_are_set():
    """Nullable ones may be missing."""
    story = loop(output_keys=("x", "y", "maybe"), nullable_keys=("maybe",))
    story.turn(story.lease("a"), x=1)

    lease = story.lease("a")
    assert lease.outputs == content(x=1).outputs
    story.turn(lease, y=2)

    assert story.engine.runs["r"].status == "succeeded"
    assert story.memory() == {"x": 1, "y": 2}


def test_idempotent_tools_that_stand_side_by_side_run_side_by_side():
    """The next turn has their results in the order of the calls, whatever the order of finish."""
    story = loop(READ, SEARCH)
    story.turn(story.lease("a"), "read", "search")

    leases = story.leases()
    assert list(leases) == ["a/read", "a/search"]
    story.succeed(leases["a/search"], result="found")
    assert story.leases() == {}
    story.succeed(leases["a/read"], result="text")

    said = story.lease("a").conversation
    assert [(turn.role, turn.name) for turn in said] == [
        ("assistant", ""),
        ("tool", "read"),
        ("tool", "search"),
    ]


def test_any_other_call_runs_alone_in_its_turn():
    """What is not declared idempotent starts when the calls before it have ended, and nothing beside it."""
    story = loop(READ, SEND)
    story.turn(story.lease("a"), "read", "send", "read")

    for label in ("a/read", "a/send", "a/read"):
        story.succeed(story.lease(label), result=1)

    assert list(story.leases()) == ["a"]


def test_a_failed_tool_call_is_told_to_the_llm():
    """The node goes on: the model may try something else."""
    story = loop(SEND)
    story.turn(story.lease("a"), "send")

    story.fail(story.lease("a/send"), FailureKind.TOOL_ERROR)

    last = story.lease("a").conversation[-1]
    assert (last.role, last.failed, decode(last.value)) == ("tool", True, "TOOL_ERROR: it broke")


def test_a_tool_call_is_retried_before_the_llm_hears_of_it():
    """As any idempotent step."""
    story = loop(READ, retry=RetryPlan(max_retries=1, base_us=1))
    story.turn(story.lease("a"), "read")
    story.fail(story.lease("a/read"), FailureKind.TOOL_UNAVAILABLE)
    story.pass_time(1)

    assert story.lease("a/read").attempt == 2


def test_a_call_that_cannot_run_is_answered_without_a_step():
    """An unknown tool, or bad arguments: the worker said so with the call."""
    story = loop(READ)
    bad = ToolCall("c0", "nothing", {}, "no tool nothing")

    story.report(story.lease("a"), StepContent(delta=inline({}), calls=(bad,)))

    last = story.lease("a").conversation[-1]
    assert (last.failed, decode(last.value)) == (True, "no tool nothing")


def test_a_sent_mail_in_a_loop_whose_end_nobody_saw_asks_and_goes_on():
    """A human's happened is the tool's result."""
    story = loop(SEND)
    story.turn(story.lease("a"), "send")
    story.fail(story.lease("a/send"), FailureKind.WORKER_LOST)
    assert (story.wait()[1].reason, story.leases()) == ("outcome_unknown", {})

    story.resolve("happened")

    assert "human confirmed" in decode(story.lease("a").conversation[-1].value)


def test_a_loop_without_an_end_fails_at_max_turns():
    """LIMIT_EXCEEDED; the message names the outputs that are missing."""
    story = loop(max_turns=3, output_keys=("x",))
    for _ in range(3):
        story.turn(story.lease("a"))

    run = story.engine.runs["r"]
    assert (run.status, run.failure) == ("failed", "LIMIT_EXCEEDED")
    assert "x" in run.message


def test_an_llm_with_tools_ends_with_its_final_answer():
    """``done`` ends it though it has outputs of its own names."""
    story = Story(chain(llm("a", NodeKind.LLM_TOOL_USE, tools=(READ,))))
    run = story.submit()
    story.turn(story.lease("a"), "read")
    story.succeed(story.lease("a/read"), result="text")

    story.report(story.lease("a"), StepContent(outputs=content(a="so").outputs, done=True, delta=inline({})))

    assert (run.status, story.memory()) == ("succeeded", {"a": "so"})


def test_a_conversation_reserves_what_it_measured_and_what_joined_since():
    """The last call's tokens, the bytes of the tool's result, and the longest answer."""
    model = ModelPlan("m", 10, 100, 1_000_000, 1_000_000)
    story = Story(chain(agent("a", tool("read", cost_nanousd=7), model=model)))
    run = story.submit(budget_nanousd=10_000)
    story.turn(story.lease("a"), "read", tokens=500)

    lease = story.lease("a/read")
    assert run.reserved_nanousd == 7
    story.succeed(lease, result="12345")
    story.lease("a")

    joined = len('"12345"') + len("c0" + "read") + MESSAGE_BYTES
    own_words = 2 * (ANSWER_BYTES + len("a, "))
    assert run.reserved_nanousd == 500 + joined + own_words + 10


def test_a_lost_llm_call_is_repeated_with_the_same_conversation():
    """LLM calls are idempotent."""
    story = loop(READ, retry=RetryPlan(base_us=1))
    story.turn(story.lease("a"), "read")
    story.succeed(story.lease("a/read"), result=1)
    lease = story.lease("a")
    story.fail(lease, FailureKind.WORKER_LOST)
    story.pass_time(1)

    assert story.lease("a").conversation == lease.conversation
