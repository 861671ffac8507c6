"""Graphs that Hive exported run to their end on a real cluster, with a real LLM server and real tools."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hive_ray.control.views import RunView
from tests.cluster.installation import ENDED, Installation, aimock_model, eventually, installed, settings_for
from tests.cluster.journals import events_of
from tests.cluster.scripts import (
    after_tool,
    agent,
    always,
    answer,
    asks,
    calls,
    gives,
    in_turn,
    joined,
    says,
    sets,
)
from tests.cluster.tool_files import generic_tools, support_tools
from tests.servers.aimock import AimockServer, Fixture
from tests.servers.effects import SmtpServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

COMPLETE = object()
"""In a script: the client ends the conversation."""


@dataclass(frozen=True)
class Script:
    """One exported graph: what it is given, what its LLM says, what its client says, and how it ends."""

    graph: str
    llm: Sequence[Fixture]
    client: Mapping[str, Sequence[Any]]
    """What is said at a node, in order; ``COMPLETE`` ends the conversation."""
    outputs: Mapping[str, Any]
    """Among the outputs at the end."""
    path: Sequence[str]
    """Nodes in the order in which they ended, but for parallel ones."""
    reason: str = "terminal"
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


SUPPORT = joined(
    after_tool(
        "exactly these keys: findings.",
        calls(("search_knowledge_base", {"query": "timeouts"})),
        says("Resume the run."),
        toolName="search_knowledge_base",
    ),
    always("Choose one route", gives(route="technical", category="technical", sentiment="neutral")),
    always(answer("draft_body"), gives(draft_body="Dear customer, resume your run.")),
    [
        {
            "match": {"toolName": "send_email", "hasToolResult": False, "userMessage": number},
            "response": calls(
                ("send_email", {"to": "rohan@example.com", "subject": number, "body": "Resume your run."})
            ),
        }
        for number in ("TCK-1", "TCK-2", "TCK-3")
    ],
    always("exactly these keys: email_status.", says("sent"), toolName="send_email", hasToolResult=True),
)

ASYNC_DEMO = Script(
    "async_demo",
    joined(
        always(answer("topic_list"), gives(topic_list=["a", "b", "c"])),
        *(
            after_tool(
                f"exactly these keys: result_{letter}.",
                calls(("simulate_research", {"topic": letter})),
                says(f"found {letter}"),
            )
            for letter in "abc"
        ),
        always(answer("final_report"), gives(final_report="a, b and c")),
        always("", says("done"), userMessage="a, b and c"),
    ),
    {},
    {"result_a": "found a", "result_b": "found b", "result_c": "found c", "final_report": "a, b and c"},
    ["start", "research_topic_1", "research_topic_2", "research_topic_3", "aggregator", "finish"],
)

BRIEF = {
    "brief": "B",
    "audience": "engineers",
    "angle": "cost",
    "cta": "try it",
    "tone": "plain",
    "length_words": 900,
}
BLOG = Script(
    "blog_writer_agent",
    joined(
        in_turn(agent(*BRIEF), asks("For whom?"), sets(**BRIEF)),
        in_turn(
            agent("findings", "sources"),
            calls(("web_search", {"query": "durable agents"}), ("list_data_files", {})),
            calls(("web_scrape", {"url": "https://example.com"})),
            sets(findings=["f"], sources=["https://example.com"]),
        ),
        in_turn(agent("thesis", "outline"), sets(thesis="T", outline=["1", "2"])),
        in_turn(
            agent("needs_outline_changes", "outline_feedback"),
            asks("Do you like the outline?"),
            sets(needs_outline_changes=False, outline_feedback="good"),
        ),
        in_turn(agent("draft_md"), sets(draft_md="first"), sets(draft_md="second")),
        in_turn(agent("optimized_md", "seo_metadata"), sets(optimized_md="O", seo_metadata={"title": "T"})),
        in_turn(
            agent("needs_revision", "revision_notes"),
            asks("Publish?"),
            sets(needs_revision="false", revision_notes="none"),
        ),
        in_turn(
            agent("delivery_status"),
            calls(("save_data", {"filename": "post.md", "data": "O"})),
            calls(("serve_file_to_user", {"filename": "post.md"})),
            sets(delivery_status="delivered"),
            toolName="save_data",
        ),
    ),
    {"intake": ["engineers"], "outline_review": ["yes"], "quality_gate": ["yes"]},
    {"delivery_status": "delivered", "optimized_md": "O", "draft_md": "first", "outline_feedback": "good"},
    [
        "intake", "research", "positioning", "outline_review", "write_draft", "seo_optimize", "quality_gate",
        "publish",
    ],
    values={"topic": "durable agents"},
)  # fmt: skip

INBOX = Script(
    "email_inbox_management",
    joined(
        in_turn(
            agent("rules", "max_emails", "query"),
            calls(("gmail_list_labels", {})),
            asks("Which rules?"),
            sets(rules="bin the ads", max_emails="100"),
            asks("Another round?"),
        ),
        in_turn(
            agent("emails", "next_page_token"),
            calls(("bulk_fetch_emails", {"max_emails": "100"})),
            sets(next_page_token="p2", emails="page-1.jsonl"),
            calls(("bulk_fetch_emails", {"page_token": "p2"})),
            sets(next_page_token="", emails="page-2.jsonl"),
        ),
        in_turn(
            agent("actions_taken"),
            calls(("load_data", {"filename": "page-1.jsonl"}), ("gmail_trash_message", {"message_id": "1"})),
            sets(actions_taken="one binned"),
            calls(("gmail_batch_modify_messages", {"message_ids": ["2", "3"]})),
            sets(actions_taken="three done"),
        ),
        in_turn(
            agent("summary_report", "rules", "last_processed_timestamp"),
            calls(("get_current_timestamp", {})),
            asks("Three are done. Again?"),
            sets(summary_report="three done", rules="bin the ads", last_processed_timestamp="1790000000"),
        ),
    ),
    {"intake": ["bin the ads", COMPLETE], "report": ["again"]},
    {"summary_report": "three done", "actions_taken": "three done", "emails": "page-2.jsonl"},
    ["intake", "fetch-emails", "classify-and-act", "fetch-emails", "classify-and-act", "report", "intake"],
    "completed",
)

QA = Script(
    "agent_qa_pipeline",
    joined(
        in_turn(
            agent("agent_spec_path", "agent_spec_source"),
            asks("Which agent?"),
            sets(agent_spec_path="a.json", agent_spec_source="file"),
        ),
        in_turn(
            agent("agent_spec", "load_errors", "agent_metadata"),
            calls(("read_file", {"path": "a.json"})),
            sets(agent_spec={"nodes": []}, agent_metadata={"name": "a"}),
            sets(agent_spec={"nodes": ["n"]}, agent_metadata={"name": "a"}),
        ),
        in_turn(
            agent("static_analysis_results"),
            sets(static_analysis_results="no nodes"),
            sets(static_analysis_results="fine"),
        ),
        in_turn(agent("test_plan"), sets(test_plan=["t1"]), sets(test_plan=["t1", "t2"])),
        in_turn(
            agent("plan_approved", "modified_tests", "test_preferences"),
            asks("Is the plan right?"),
            sets(plan_approved=True),
            asks("And now?"),
            sets(plan_approved=True),
        ),
        *(
            in_turn(agent(key), sets(**{key: "1 of 1"}), sets(**{key: "2 of 2"}))
            for key in ("functional_results", "resilience_results", "security_results")
        ),
        in_turn(agent("aggregated_results"), sets(aggregated_results="3"), sets(aggregated_results="6")),
        in_turn(
            agent("verdict", "verdict_score", "verdict_reasoning"),
            sets(verdict="CONDITIONAL", verdict_score=60, verdict_reasoning="few nodes"),
            sets(verdict="PASS", verdict_score=95, verdict_reasoning="good"),
        ),
        in_turn(
            agent("continue_testing", "fix_suggestions", "updated_spec"),
            asks("Will you mend it?"),
            sets(continue_testing="true"),
        ),
        in_turn(
            agent("report_file"),
            calls(("save_data", {"filename": "report.html", "data": "<p>"})),
            sets(report_file="report.html"),
        ),
        in_turn(
            agent("delivery_status"),
            calls(("serve_file_to_user", {"filename": "report.html"})),
            sets(delivery_status="handed over"),
        ),
    ),
    {
        "intake": ["a.json"],
        "review-test-plan": ["yes", "yes"],
        "request-fixes": ["mended"],
    },
    {"delivery_status": "handed over", "verdict": "PASS", "functional_results": "2 of 2"},
    [
        "intake", "load-agent", "static-analysis", "generate-test-plan", "review-test-plan",
        "run-functional", "run-resilience", "run-security", "aggregate-results", "judge-quality",
        "request-fixes",
        "load-agent", "static-analysis", "generate-test-plan", "review-test-plan",
        "run-functional", "run-resilience", "run-security", "aggregate-results", "judge-quality",
        "generate-report", "deliver-report",
    ],
)  # fmt: skip

TRIP = Script(
    "trip_planner",
    joined(
        in_turn(agent("trip_brief"), asks("How long?"), sets(trip_brief="Ulm, 2 days")),
        in_turn(
            agent("candidates"),
            calls(("maps_place_search", {"query": "Ulm"})),
            sets(candidates=["Minster", "Danube"]),
        ),
        in_turn(
            agent("itinerary"),
            calls(
                ("maps_directions", {"from": "Minster", "to": "Danube"}),
                ("maps_distance_matrix", {"places": ["Minster", "Danube"]}),
            ),
            sets(itinerary="day 1, day 2"),
        ),
        in_turn(
            agent("approved_itinerary", "needs_revision"),
            asks("Do you like it?"),
            sets(approved_itinerary="day 1, day 2", needs_revision="false"),
        ),
        in_turn(
            agent("report_file", "next_action"),
            calls(("save_data", {"filename": "trip.html", "data": "<p>"})),
            asks("Another trip?"),
            sets(report_file="trip.html", next_action="end"),
        ),
    ),
    {"intake": ["2 days"], "review": ["yes"], "report": ["no"]},
    {"report_file": "trip.html", "itinerary": "day 1, day 2", "next_action": "end"},
    ["intake", "discovery", "route-builder", "review", "report"],
    "no_edge",
    values={"user_request": "a weekend in Ulm"},
)

SCRIPTS = [ASYNC_DEMO, BLOG, INBOX, QA, TRIP]


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtpServer]:
    with SmtpServer(tmp_path_factory.mktemp("smtp")) as server:
        yield server


def tools_of(file: Path) -> set[str]:
    """Every tool name in an exported graph."""
    data = json.loads(file.read_text("utf-8"))
    nodes = data.get("graph", data)["nodes"]
    return {name for node in nodes for name in node.get("tools") or ()}


@pytest.fixture(scope="module")
async def desk(
    ray_cluster: None, hive_agents: Path, mailbox: SmtpServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """One installation for all graphs: their tools, and one LLM server that knows every script."""
    folder = tmp_path_factory.mktemp("desk")
    names = set[str]().union(*(tools_of(hive_agents / f"{script.graph}.json") for script in SCRIPTS))
    modules = [support_tools(folder, mailbox.port), generic_tools(folder, sorted(names))]
    with AimockServer([*SUPPORT, *joined(*(script.llm for script in SCRIPTS))], folder) as llm:
        settings = settings_for(folder, modules, aimock_model(llm.openai_url))
        async with installed(settings) as installation:
            yield installation


def read(hive_agents: Path, name: str) -> dict[str, Any]:
    return json.loads((hive_agents / f"{name}.json").read_text("utf-8"))


async def play(running: Installation, graph: Mapping[str, Any], script: Script) -> RunView:
    """Run a graph to its end, and answer for its client and operator on the way."""
    said = defaultdict(deque, {node: deque(words) for node, words in script.client.items()})
    run = await running.submit(graph, script.values)
    while (view := await running.settled(run)).status not in ENDED:
        for wait in view.waits:
            if wait.reason == "pause":
                await running.resume(run)
                continue
            assert said[wait.node], f"{wait.node} asks too often: {await running.backend.loaded(wait.shown)}"
            words = said[wait.node].popleft()
            await (running.complete(wait) if words is COMPLETE else running.say(wait, words))
    return view


def path_of(running: Installation, view: RunView) -> list[str]:
    """Nodes in the order in which their visits began."""
    return [
        str(getattr(e.event, "node_id", "")) for e in events_of(running.settings, view.run_id, "NodeEntered")
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.graph)
async def test_an_exported_graph_runs_to_its_end(desk: Installation, hive_agents: Path, script: Script):
    """Every node on the way is visited in the graph's order, and its results stand in memory."""
    view = await play(desk, read(hive_agents, script.graph), script)
    outputs = await desk.outputs(view)

    assert (view.status, view.reason) == ("succeeded", script.reason), f"{view.failed_at}: {view.message}"
    assert path_of(desk, view) == list(script.path)
    assert {key: outputs.get(key) for key in script.outputs} == script.outputs
    assert view.spent_nanousd > 0
    assert view.reserved_nanousd == 0


def ticket(hive_agents: Path, number: str) -> dict[str, Any]:
    values = read(hive_agents, "customer-support-input")
    return {"ticket": values["ticket"] | {"id": number}}


async def test_an_approved_reply_is_mailed_once(desk: Installation, hive_agents: Path, mailbox: SmtpServer):
    """The run waits at the human review with the draft and a form; approved, exactly one mail goes out."""
    run = await desk.submit(read(hive_agents, "customer-support"), ticket(hive_agents, "TCK-1"))
    view = await desk.settled(run)
    (wait,) = view.waits
    shown = await desk.backend.loaded(wait.shown)
    mails_before = mailbox.count
    await desk.decide(wait, "approve", approved=True, feedback="fine")
    view = await desk.ended(run)

    assert (wait.node, wait.reason) == ("human_review", "approval")
    assert "Review the drafted response" in wait.need
    assert set(json.loads(wait.form)["properties"]) == {"approved", "feedback"}
    assert shown == {"draft_body": "Dear customer, resume your run."}
    assert mails_before == 0
    assert (view.status, view.reason) == ("succeeded", "terminal"), view
    assert [mail["subject"] for mail in mailbox.effects()].count("TCK-1") == 1
    assert (await desk.outputs(view))["email_status"] == "sent"


async def test_a_rejected_reply_is_not_mailed(desk: Installation, hive_agents: Path, mailbox: SmtpServer):
    """A rejection is an answer: the run ends well, with the feedback in memory and without a mail."""
    run = await desk.submit(read(hive_agents, "customer-support"), ticket(hive_agents, "TCK-2"))
    (wait,) = (await desk.settled(run)).waits
    await desk.decide(wait, "reject", feedback="too short")
    view = await desk.ended(run)
    outputs = await desk.outputs(view)

    assert (view.status, view.reason) == ("succeeded", "no_edge"), view
    assert (outputs["approved"], outputs["feedback"]) == (False, "too short")
    assert "TCK-2" not in [mail["subject"] for mail in mailbox.effects()]


async def test_a_worker_killed_in_the_mail_step_leaves_the_question_to_a_person(
    desk: Installation, hive_agents: Path, mailbox: SmtpServer
):
    """The agent's tool call is not repeated: a person says that it happened, and its LLM goes on."""
    run = await desk.submit(read(hive_agents, "customer-support"), ticket(hive_agents, "TCK-3"))
    (review,) = (await desk.settled(run)).waits
    mailbox.hold()
    await desk.decide(review, "approve", approved=True)
    await eventually(lambda: mailed(mailbox, "TCK-3"))
    (worker,) = await desk.workers("tool")
    os.kill(worker["pid"], signal.SIGKILL)
    mailbox.release()
    view = await desk.settled(run)
    (question,) = view.waits
    await desk.decide(question, "happened", result="sent")
    end = await desk.ended(run)

    assert (view.status, question.node, question.reason) == ("waiting", "send_response", "outcome_unknown")
    assert "send_email" in question.need
    assert (end.status, end.reason) == ("succeeded", "terminal"), end.message
    assert (await desk.outputs(end))["email_status"] == "sent"
    assert [mail["subject"] for mail in mailbox.effects()].count("TCK-3") == 1


async def mailed(mailbox: SmtpServer, subject: str) -> bool:
    return subject in [mail["subject"] for mail in mailbox.effects()]
