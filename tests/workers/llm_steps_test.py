"""What each kind of LLM node asks, and what its answers mean; on a scripted model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic_ai.messages import ModelResponse, ToolReturnPart, UserPromptPart

import hive_ray.workers.tools as hive
from hive_ray.core.messages import StepKind, Usage
from hive_ray.core.values import decode
from hive_ray.graph.compiled import EdgeCondition, EdgePlan, ModelPlan, NodeKind, ToolPlan
from hive_ray.graph.wording import ToolSchema
from hive_ray.testing import Calls, ScriptedModel
from hive_ray.workers.llm import Answer
from hive_ray.workers.llm_steps import behaviour
from hive_ray.workers.prompts import AssistantMessage, Call, Entry, Situation, ToolMessage
from tests.workers import steps
from tests.workers.steps import ask, content, message, node, outputs, turn

GENERATE, ROUTER = NodeKind.LLM_GENERATE, NodeKind.ROUTER
LOOP, TOOL_USE = NodeKind.EVENT_LOOP, NodeKind.LLM_TOOL_USE
SCHEMA = ToolSchema("lookup", "", {"type": "object"})
PLAN = ModelPlan(steps.MODEL, 500, 0, 1_000_000_000, 2_000_000_000)


@hive.tool()
def lookup(key: str) -> str:
    """Look it up."""
    return key


# --- generate


def test_a_generate_node_answers_with_exactly_its_outputs():
    """The schema asks for the output keys; what else the model says is dropped."""
    model = ScriptedModel([{"draft": "Dear Ann", "tone": "kind", "more": 1}])
    outcome = ask(
        node(GENERATE, output_keys=("draft", "tone"), prompt="Be brief."), model, {"ticket": "help"}
    )

    assert outputs(outcome) == {"draft": "Dear Ann", "tone": "kind"}
    (asked,) = model.asked
    assert asked.schema is not None and asked.schema["required"] == ["draft", "tone"]
    assert "Be brief." in asked.text and '"ticket":"help"' in asked.text


def test_usage_and_cost_stand_on_the_outcome():
    """100 tokens in at 1 USD a million, 20 out at 2 USD: 140 micro-dollars."""
    outcome = ask(node(GENERATE), ScriptedModel(["text"]))

    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (100, 20)
    assert outcome.cost_nanousd == 140_000


def test_a_node_without_outputs_writes_plain_text_and_no_memory():
    """No schema is asked for."""
    model = ScriptedModel(["just words"])

    assert outputs(ask(node(GENERATE), model)) == {}
    assert model.asked[0].schema is None


@pytest.mark.parametrize("answer", ["no json at all", "[1]", {"other": 1}])
def test_an_answer_without_the_outputs_is_invalid_and_was_paid_for(answer: Any):
    """The next attempt may do better; this one's cost is charged all the same."""
    outcome = ask(node(GENERATE, output_keys=("draft",)), ScriptedModel([answer]))

    assert outcome.failure == "INVALID_OUTPUT"
    assert outcome.cost_nanousd == 140_000 and outcome.usage is not None


def test_an_answer_must_satisfy_the_nodes_schema():
    """Types come from the graph's ``output_schema``; the message names the place."""
    schema = json.dumps(
        {"type": "object", "properties": {"score": {"type": "integer", "maximum": 10}}}
    ).encode()
    plan = node(GENERATE, output_keys=("score",), output_schema=schema)

    assert outputs(ask(plan, ScriptedModel([{"score": 7}]))) == {"score": 7}
    outcome = ask(plan, ScriptedModel([{"score": 70}]))
    assert outcome.failure == "INVALID_OUTPUT" and "score does not fit maximum: 10" in message(outcome)


def test_json_in_a_code_fence_is_json():
    """Models without constrained decoding like to decorate."""
    outcome = ask(node(GENERATE, output_keys=("a",)), ScriptedModel(['```json\n{"a": 1}\n```']))

    assert outputs(outcome) == {"a": 1}


def test_inputs_fill_templates_once_and_only_known_keys():
    """No format-string attack, and no input reaches another one by naming it."""
    model = ScriptedModel(["ok"])
    plan = node(
        GENERATE, instruction="{{name}} wrote {text}; {unknown} {name.__class__} {0}", prompt="For {name}."
    )
    ask(plan, model, {"name": "Ann {text}", "text": "T{name}"})

    assert "Ann {text} wrote T{name}; {unknown} {name.__class__} {0}" in model.asked[0].text
    assert "For Ann {text}." in model.asked[0].text


def test_inputs_that_no_template_mentions_follow_as_json():
    """A node reads its input keys, whether its author wrote placeholders or not."""
    model = ScriptedModel(["ok"])
    ask(node(GENERATE, instruction="Sum up {a}."), model, {"a": "x", "b": [1, 2]})

    assert 'Sum up x.\n\n{"b":[1,2]}' in model.asked[0].text


def test_the_lease_bounds_the_answers_tokens():
    """What admission reserved for is what the provider is told."""
    model = ScriptedModel(["ok"])
    ask(node(GENERATE), model, max_tokens=77)

    assert model.asked[0].max_tokens == 77


# --- router


ROUTES = {"routes": ("billing", "tech"), "model": PLAN}


def test_a_router_chooses_among_its_routes():
    """A closed enumeration by JSON Schema; outputs ride beside the route."""
    model = ScriptedModel([{"route": "tech", "why": "crash"}])
    outcome = ask(node(ROUTER, output_keys=("why", "note"), **ROUTES), model, {"ticket": "it crashed"})

    assert content(outcome).route == "tech"
    assert outputs(outcome) == {"why": "crash", "note": None}
    assert model.asked[0].schema is not None
    assert model.asked[0].schema["properties"]["route"]["enum"] == ["billing", "tech"]


def test_a_route_may_be_an_output_too():
    """``route`` among the output keys is the chosen key."""
    outcome = ask(node(ROUTER, output_keys=("route",), **ROUTES), ScriptedModel([{"route": "tech"}]))

    assert (content(outcome).route, outputs(outcome)) == ("tech", {"route": "tech"})


@pytest.mark.parametrize("answer", [{"route": "sales"}, {}, {"route": ["tech"]}])
def test_a_route_outside_the_routes_is_invalid(answer: Any):
    """The message says what would be right."""
    outcome = ask(node(ROUTER, **ROUTES), ScriptedModel([answer]))

    assert outcome.failure == "INVALID_OUTPUT" and "billing, tech" in message(outcome)


# --- decide


def decide(answer: Any):
    source = node(GENERATE, output_keys=("text",), out_edges=(0, 1, 2), decides=True)
    targets = [node(NodeKind.FUNCTION, description=f"does {i}") for i in range(3)]
    edges = [
        EdgePlan(f"e{i}", i, 0, i + 1, EdgeCondition.LLM_DECIDE if i < 2 else EdgeCondition.ALWAYS)
        for i in range(3)
    ]
    model = ScriptedModel([answer])
    given = {"text": steps.inline("the finished text")}
    outcome = ask(steps.graph(source, *targets, edges=edges), model, kind=StepKind.DECIDE, outputs=given)
    return outcome, model.asked[0]


def test_a_decision_chooses_among_the_llm_decide_edges():
    """In declaration order, each once; the model sees the targets and the node's outputs."""
    outcome, asked = decide({"edges": ["e1", "e0", "e1"]})

    assert content(outcome).chosen == ("e0", "e1")
    assert "- e0: does 0" in asked.text and "the finished text" in asked.text and "e2" not in asked.text


def test_a_decision_may_choose_nothing():
    """Then the other edges count."""
    assert content(decide({"edges": []})[0]).chosen == ()


@pytest.mark.parametrize("answer", [{"edges": ["e2"]}, {"edges": "e0"}, {}])
def test_a_decision_outside_the_edges_is_invalid(answer: Any):
    """An edge with another condition is not the model's to take."""
    assert decide(answer)[0].failure == "INVALID_OUTPUT"


# --- tool use


def tool_use(answer: Any, **fields: Any):
    plan = node(TOOL_USE, tools=(ToolPlan("lookup"),), **{"output_keys": ("a",), **fields.pop("node", {})})
    model = ScriptedModel([answer])
    executor = steps.executor(plan, lookup, model=model)
    return steps.run(executor, steps.lease(StepKind.LLM, steps.MODEL, **fields)), model


def test_tool_calls_come_back_as_calls():
    """Known tools run as steps of their own; others are answered with what is wrong."""
    calls = Calls(("lookup", {"key": "k"}), ("lookpu", {}), ("lookup", "not json"), text="let me see")
    outcome, model = tool_use(calls)

    one, two, three = content(outcome).calls
    assert (one.tool, {k: decode(v) for k, v in one.arguments.items()}, one.error) == (
        "lookup",
        {"key": "k"},
        "",
    )
    assert "unknown tool 'lookpu'" in two.error and "lookup" in two.error
    assert "not a JSON object" in three.error
    assert not content(outcome).done
    assert model.asked[0].tools == ("lookup",)
    delta = steps.Blobs().decode(content(outcome).delta)
    assert delta["text"] == "let me see" and [c["id"] for c in delta["calls"]] == [
        one.call_id,
        two.call_id,
        three.call_id,
    ]


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        ('{"a": 1, "b": 2}', ("a", "b"), {"a": 1, "b": 2}),
        ('Here it is: {"a": 1, "b": 2}. Done', ("a", "b"), {"a": 1, "b": 2}),
        ('{"a": 1}', ("a",), {"a": 1}),
        ("plain words", ("a",), {"a": "plain words"}),
        ("plain words", (), {}),
    ],
)
def test_a_text_without_calls_is_the_final_answer(text: str, keys: tuple[str, ...], expected: dict[str, Any]):
    """A JSON object with the keys, or the text itself where there is one key."""
    outcome, _ = tool_use(text, node={"output_keys": keys})

    assert content(outcome).done
    assert outputs(outcome) == expected


def test_a_final_answer_without_the_keys_is_invalid():
    """Two keys cannot be guessed out of a text."""
    assert tool_use("plain words", node={"output_keys": ("a", "b")})[0].failure == "INVALID_OUTPUT"


# --- event loop


def loop(
    answer: Any, conversation: tuple[Any, ...] = (), is_set: dict[str, Any] | None = None, **fields: Any
):
    plan = node(LOOP, **{"output_keys": ("a", "b"), "tools": (ToolPlan("lookup"),), **fields})
    model = ScriptedModel([answer])
    executor = steps.executor(plan, lookup, model=model)
    given = {key: steps.inline(value) for key, value in (is_set or {}).items()}
    step = steps.lease(StepKind.LLM, steps.MODEL, conversation=conversation, outputs=given, call=4)
    return steps.run(executor, step), model.asked


def set_output(key: str, value: Any) -> tuple[str, Any]:
    return "set_output", {"key": key, "value": value}


def test_set_output_fills_outputs_over_several_turns():
    """The loop is done when nothing is left to set."""
    first, _ = loop(Calls(set_output("a", 1)))
    second, _ = loop(Calls(set_output("b", [2])), is_set={"a": 1})

    assert (outputs(first), content(first).done, content(first).calls) == ({"a": 1}, False, ())
    assert (outputs(second), content(second).done) == ({"b": [2]}, True)


def test_a_nullable_output_need_not_be_set():
    """Only what is not nullable holds the loop."""
    assert content(loop(Calls(set_output("a", 1)), nullable_keys=("b",))[0]).done


def test_a_loop_with_calls_under_way_is_not_done():
    """Their results must be seen before the loop ends."""
    outcome, _ = loop(Calls(set_output("a", 1), set_output("b", 2), ("lookup", {"key": "k"})))

    assert not content(outcome).done
    assert [call.tool for call in content(outcome).calls] == ["lookup"]


def test_a_loop_without_required_outputs_ends_at_a_turn_without_calls():
    """It has nothing more to do."""
    assert content(loop("all done", output_keys=())[0]).done
    assert not content(loop(Calls(("lookup", {"key": "k"})), output_keys=())[0]).done


def test_an_unknown_output_key_sets_nothing():
    """The model is told, in the next turn."""
    outcome, _ = loop(Calls(set_output("c", 1)))

    assert outputs(outcome) == {}
    delta = steps.Blobs().decode(content(outcome).delta)
    _, asked = loop("ok", (turn("assistant", delta),))
    assert "no output 'c'; the keys are a, b" in asked[0].text


@pytest.mark.parametrize("answer", [Calls(("ask_user", {"question": "Which city?"})), "Which city?"])
def test_a_client_facing_loop_asks_its_client(answer: Any):
    """By ``ask_user``, or by plain text alone."""
    outcome, asked = loop(answer, client_facing=True)

    assert steps.Blobs().decode(content(outcome).question) == "Which city?"
    assert not content(outcome).done
    assert "ask_user" in asked[0].tools


def test_only_a_client_facing_loop_may_ask():
    """Nobody would answer."""
    outcome, asked = loop("Which city?")

    assert content(outcome).question is None
    assert "ask_user" not in asked[0].tools


def test_a_client_facing_loop_without_outputs_goes_on_until_it_is_completed():
    """It talks; ``complete`` ends it."""
    assert not content(loop("Hello!", client_facing=True, output_keys=())[0]).done


def test_asking_keeps_a_loop_open_whose_outputs_are_all_set():
    """The client was asked, so its answer is waited for."""
    asks = Calls(set_output("a", 1), set_output("b", 2), ("ask_user", {"question": "Right?"}))

    outcome, _ = loop(asks, client_facing=True)
    assert not content(outcome).done and content(outcome).question is not None
    closing, _ = loop("Thank you.", client_facing=True, is_set={"a": 1, "b": 2})
    assert content(closing).done and content(closing).question is None


def test_every_call_of_a_replayed_conversation_is_answered_right_behind_it():
    """A provider refuses a conversation in which one is not; the journal may lack any of them."""
    spoken = Calls(
        set_output("a", 1),
        ("lookup", {"key": "k"}),
        ("lookup", {"key": "lost"}),
        ("ask_user", {"question": "?"}),
    )
    first, _ = loop(spoken, client_facing=True)
    known, lost = content(first).calls
    conversation = (
        turn("assistant", steps.Blobs().decode(content(first).delta)),
        turn("tool", {"found": 7}, call_id=known.call_id, name="lookup"),
        turn("user", "yes"),
    )
    _, (asked,) = loop("ok", conversation, client_facing=True)

    response = next(m for m in asked.messages if isinstance(m, ModelResponse))
    following = asked.messages[asked.messages.index(response) + 1]
    returned = {p.tool_call_id: str(p.content) for p in following.parts if isinstance(p, ToolReturnPart)}
    assert list(returned) == [part.tool_call_id for part in response.parts if part.part_kind == "tool-call"]
    assert returned[known.call_id] == '{"found":7}' and "not carried out" in returned[lost.call_id]
    assert [p.content for p in following.parts if isinstance(p, UserPromptPart)] == ["yes"]


def test_a_turn_of_mere_text_is_nudged_to_what_is_missing():
    """The nudge names what was not set at that point of the conversation."""
    conversation = (
        turn(
            "assistant",
            {
                "text": "",
                "calls": [{"id": "c1", "name": "set_output", "arguments": {"key": "a", "value": 1}}],
            },
        ),
        turn("assistant", {"text": "thinking", "calls": []}),
    )
    _, (asked,) = loop("ok", conversation, is_set={"a": 1})

    last = asked.messages[-1].parts[-1]
    assert isinstance(last, UserPromptPart) and last.content == "Not done yet. Set these with set_output: b."


def test_call_ids_are_unique_in_the_whole_conversation():
    """Some models name their first call the same in every turn, or give an id that others refuse."""
    used = {"text": "", "calls": [{"id": "call.1", "name": "lookup", "arguments": {"key": "k"}}]}
    plan = node(LOOP, output_keys=("a",), tools=(ToolPlan("lookup"),))
    spoken = AssistantMessage(
        "", (Call("ok", "lookup", {}), Call("ok", "lookup", {}), Call("call.1", "lookup", {}))
    )
    situation = Situation(steps.graph(plan), plan, {}, 4, (Entry("assistant", used),), tools=(SCHEMA,))
    produced = behaviour(StepKind.LLM, plan).read(situation, Answer(spoken, Usage(), 0))

    assert [call.call_id for call in produced.calls] == ["ok", "call_4_1", "call_4_2"]


def test_a_bug_in_the_gateway_is_internal():
    """What no provider says is our own fault, and the worker lives."""
    outcome = ask(node(GENERATE), ScriptedModel([RuntimeError("the gateway broke")]))

    assert outcome.failure == "INTERNAL"
    assert "the gateway broke" in message(outcome)


def test_an_unknown_model_is_named():
    """With those that are configured."""
    executor = steps.executor(node(GENERATE), model=ScriptedModel([]))
    outcome = steps.run(executor, steps.lease(StepKind.LLM, "gpt-none"))

    assert (outcome.failure, outcome.started) == ("LLM_UNAVAILABLE", False)
    assert "gpt-none" in message(outcome)


def test_results_of_an_earlier_node_of_the_conversation_are_not_called_wrong():
    """In a continuous graph a loop goes on where another stood: that one set its own outputs."""
    here = node(LOOP, output_keys=("summary",))
    before = node(LOOP, id="before", index=1, output_keys=("brief",))
    made = Call("c1", "set_output", {"key": "brief", "value": "B"})
    wrong = Call("c2", "set_output", {"key": "nothing", "value": 1})
    delta = {
        "text": "",
        "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in (made, wrong)],
    }
    situation = Situation(
        steps.graph(here, before, continuous=True), here, {}, 1, (Entry("assistant", delta),)
    )
    messages = behaviour(StepKind.LLM, here).prompt(situation).messages
    answers = [message for message in messages if isinstance(message, ToolMessage)]

    assert [(answer.call_id, answer.failed) for answer in answers] == [("c1", False), ("c2", True)]


def test_a_prompt_longer_than_what_was_reserved_for_it_is_not_sent():
    """A tool may have grown since its graph was accepted: the ceiling holds, nothing is billed."""
    model = ScriptedModel([{"o": 1}])
    plan = node(GENERATE, output_keys=("o",))

    outcome = ask(plan, model, {"x": "long " * 50}, prompt_bytes=100)

    assert (outcome.failure, outcome.started, outcome.cost_nanousd) == ("BUDGET_EXCEEDED", False, 0)
    assert "100 were reserved" in message(outcome)
    assert not model.asked
