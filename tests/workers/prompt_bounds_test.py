"""No prompt is longer than what admission reserved for it: no money passes a ceiling unseen."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hive_ray.core.failures import FailureKind
from hive_ray.core.ladder import LadderPlan, Level, Rung
from hive_ray.core.messages import Lease, StepContent, StepKind, ToolCall, Turn, Usage
from hive_ray.core.values import decode, inline
from hive_ray.graph.compiled import CompiledGraph, ModelPlan, NodeKind
from hive_ray.graph.compiler import CompileEnvironment, ModelInfo, compile_graph
from hive_ray.graph.compiler import ToolInfo as CompilerTool
from hive_ray.graph.load import parse_graph
from hive_ray.graph.policies import Effect, RulePlan
from hive_ray.graph.wording import ASK_USER, SET_OUTPUT, ToolSchema
from hive_ray.workers.llm import Answer
from hive_ray.workers.llm_steps import Produced, behaviour
from hive_ray.workers.prompts import AssistantMessage, Call, Entry, Prompt, Situation, prompt_bytes
from hive_ray.workers.step_error import StepError
from tests.core.story import Story, content

TOKEN_NANOUSD = 1_000_000
"""A nano-dollar for each token: what is reserved is the bound, in tokens."""
MOST_STEPS = 12
ALLOWANCE_BYTES = 900
"""Of what is reserved, so much must stay for what providers put around a prompt."""

texts = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from('"\\\n\x00\x01\x7f{}é😀\u200b')), max_size=60
)
long_texts = st.builds(lambda text, times: text * times, texts, st.sampled_from((1, 1, 100)))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
templates = st.lists(
    st.sampled_from(("{x}", "{{ x }}", "{y}", "{{y}}", " and ", "{unknown}", "{x", "x y", "é")), max_size=8
).map("".join)
names = st.lists(st.sampled_from(("o", "résultat", "a_long_name_of_an_output", "p")), unique=True, max_size=3)

TOOL = ToolSchema("search", 'Find "it".', {"type": "object", "properties": {"q": {"type": "string"}}})
SHOWN_BYTES = len(msgspec.json.encode({"description": TOOL.description, "schema": TOOL.schema}))


@st.composite
def graphs(draw: st.DrawFn) -> CompiledGraph:
    """One LLM node of any kind, with every text and schema it may have, and edges that an LLM chooses."""
    kind = draw(st.sampled_from(("llm_generate", "llm_tool_use", "event_loop", "router")))
    asked: dict[str, Any] = {
        "id": "a", "node_type": kind, "input_keys": ["x", "y"], "output_keys": draw(names), "model": "m",
        "system_prompt": draw(templates), "prompt": draw(templates), "description": draw(texts),
        "client_facing": kind == "event_loop" and draw(st.booleans()),
    }  # fmt: skip
    if kind == "router":
        asked["routes"] = {"left": "b", 'ri"ght': "c"}
    elif kind != "llm_generate":
        asked["tools"] = ["search"]
    if draw(st.booleans()):
        asked["output_schema"] = {
            "type": "object",
            "properties": {key: {"description": draw(texts)} for key in asked["output_keys"]},
        }
    behind = [{"id": id, "node_type": "function", "function": "f", "description": draw(texts)} for id in "bc"]
    chosen = [
        {"id": f"a-{id}", "source": "a", "target": id, "condition": "llm_decide", "description": draw(texts)}
        for id in "bc"
        if kind != "router" and draw(st.booleans())
    ]
    spec = {
        "id": "g", "nodes": [asked, *behind], "edges": chosen, "entry_node": "a",
        "identity_prompt": draw(texts),
    }  # fmt: skip
    environment = CompileEnvironment(
        models={"m": ModelInfo(TOKEN_NANOUSD, 0, 16)},
        tools={"search": CompilerTool(pool="function", idempotent=True, schema_bytes=SHOWN_BYTES)},
    )
    return compile_graph(parse_graph(spec), environment)


edits = st.dictionaries(texts, st.one_of(values, long_texts), max_size=3)
calls = st.one_of(
    st.builds(Call, texts, st.just("search"), st.one_of(st.dictionaries(texts, values, max_size=3), texts)),
    st.builds(Call, texts, texts, st.just({})),
    st.builds(Call, texts, st.just(ASK_USER), st.builds(lambda text: {"question": text}, texts)),
    st.builds(
        lambda id, key, value: Call(id, SET_OUTPUT, {"key": key, "value": value}),
        texts,
        st.one_of(st.sampled_from(("o", "p")), texts, values),
        values,
    ),
)
messages = st.builds(AssistantMessage, texts, st.lists(calls, max_size=4).map(tuple))


@settings(
    max_examples=300, deadline=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large)
)
@given(st.data())
def test_no_prompt_is_longer_than_what_was_reserved_for_it(data: st.DataObject):
    """For any node, inputs and conversation; a byte is one token, so the measured bound holds too."""
    graph = data.draw(graphs())
    story = Story(graph)
    given_values = data.draw(
        st.fixed_dictionaries({}, optional={"x": st.one_of(values, long_texts), "y": values})
    )
    story.submit(input=given_values, budget_nanousd=10**12)

    for _ in range(MOST_STEPS):
        _client_speaks(story, data)
        if not (leases := list(story.leases().values())):
            break
        for lease in leases:
            _step(story, graph, lease, data)


RUNGS = (Rung("n", 8), Rung("", 4, 400), Rung("", 0, 1))


@settings(
    max_examples=200, deadline=None, suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large)
)
@given(st.data())
def test_nor_is_it_on_any_rung_of_a_ladder(data: st.DataObject):
    """Other models, less room, and all of it back again, from one call to the next."""
    graph = data.draw(graphs())
    story = Story(graph)
    cheap = ModelPlan("n", 16, 0, TOKEN_NANOUSD, 0)
    story.plan(ladders={"m": LadderPlan(RUNGS)}, models={"n": cheap})
    given_values = data.draw(st.fixed_dictionaries({}, optional={"x": st.one_of(values, long_texts)}))
    story.submit(input=given_values, budget_nanousd=10**12)

    for _ in range(MOST_STEPS):
        _client_speaks(story, data)
        story.engine.fleet.ladders["m"] = Level(data.draw(st.integers(0, len(RUNGS))))
        if not (leases := list(story.leases().values())):
            break
        for lease in leases:
            _step(story, graph, lease, data)


@settings(max_examples=100, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
@given(st.data())
def test_nor_with_arguments_that_a_person_gave(data: st.DataObject):
    """Each call is asked about, and most are changed."""
    node = {"id": "a", "node_type": "event_loop", "output_keys": ["o"], "model": "m", "tools": ["search"]}
    model = ModelInfo(TOKEN_NANOUSD, 0, 16)
    tool = CompilerTool(pool="function", idempotent=True, schema_bytes=SHOWN_BYTES)
    environment = CompileEnvironment(models={"m": model}, tools={"search": tool})
    graph = compile_graph(parse_graph({"id": "g", "nodes": [node], "edges": []}), environment)
    story = Story(graph)
    story.plan(policies=(RulePlan("ask", Effect.REQUIRE_APPROVAL, tools=("search",)),))
    story.submit(budget_nanousd=10**12)

    for _ in range(MOST_STEPS):
        leases = list(story.leases().values())
        for lease in leases:
            _step(story, graph, lease, data)
        if any(visit.wait is not None for visit in story.engine.runs["r"].visits.values()):
            if story.wait()[1].reason == "client":
                story.signal(data.draw(texts))
            else:
                edited: dict[str, Any] = data.draw(edits)
                story.resolve("edit", **edited)
        elif not leases:
            break


def _step(story: Story, graph: CompiledGraph, lease: Lease, data: st.DataObject) -> None:
    if lease.kind in (StepKind.LLM, StepKind.DECIDE):
        _ask(story, graph, lease, data)
    elif data.draw(st.booleans()):
        story.report(lease, content(result=data.draw(values)))
    else:
        story.report(lease, StepContent(message=data.draw(texts)), FailureKind.BAD_INPUT)


def _ask(story: Story, graph: CompiledGraph, lease: Lease, data: st.DataObject) -> None:
    node = graph.nodes[lease.node]
    does = behaviour(lease.kind, node)
    situation = _situation(graph, lease)
    prompt = does.prompt(situation)
    size = prompt_bytes(prompt)
    reserved = story.engine.runs["r"].visits[lease.serial].steps[lease.call].reserved_nanousd
    assert size <= reserved
    if lease.prompt_bytes:
        assert size <= lease.prompt_bytes - ALLOWANCE_BYTES

    spoken = data.draw(messages)
    # The ids of calls are the provider's, or ours where it gave none.
    written = prompt_bytes(Prompt("", (spoken,))) + 16 * len(spoken.calls)
    usage = Usage(size, written) if data.draw(st.booleans()) else None
    answer = Answer(spoken, usage or Usage(), 0, data.draw(st.just(_right_answer(graph, lease))))
    try:
        story.report(lease, _content(does.read(situation, answer)), usage=usage)
    except StepError as error:
        story.report(lease, StepContent(message=str(error)), FailureKind.BAD_INPUT)


def _right_answer(graph: CompiledGraph, lease: Lease) -> dict[str, Any]:
    node = graph.nodes[lease.node]
    edges = [edge.id for edge in graph.edges if edge.source == node.index]
    return dict.fromkeys(node.output_keys, 1) | {"route": "left", "edges": edges}


def _situation(graph: CompiledGraph, lease: Lease) -> Situation:
    node = graph.nodes[lease.node]
    entries = tuple(
        Entry(turn.role, decode(turn.value), turn.call_id, turn.name, turn.failed, _edit(turn))
        for turn in lease.conversation
    )
    loops = node.kind in (NodeKind.EVENT_LOOP, NodeKind.LLM_TOOL_USE) and lease.kind is StepKind.LLM
    decoded = {key: decode(value) for key, value in lease.inputs.items()}
    outputs = {key: decode(value) for key, value in lease.outputs.items()}
    place = (lease.serial, lease.dropped)
    return Situation(graph, node, decoded, lease.call, entries, outputs, (TOOL,) if loops else (), *place)


def _edit(turn: Turn) -> dict[str, Any] | None:
    return None if turn.edited is None else {key: decode(value) for key, value in turn.edited.items()}


def _content(produced: Produced) -> StepContent:
    return StepContent(
        outputs={key: inline(value) for key, value in produced.outputs.items()},
        delta=None if produced.delta is None else inline(produced.delta),
        calls=tuple(
            ToolCall(c.call_id, c.tool, {k: inline(v) for k, v in c.arguments.items()}, c.error)
            for c in produced.calls
        ),
        question=None if produced.question is None else inline(produced.question),
        done=produced.done,
        route=produced.route,
        chosen=produced.chosen,
        answers=produced.answers,
    )


def _client_speaks(story: Story, data: st.DataObject) -> None:
    run = story.engine.runs["r"]
    if any(visit.wait is not None for visit in run.visits.values()):
        story.signal(data.draw(texts))
