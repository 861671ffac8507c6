"""Approvals and notifications over HTTP: whom a question is asked of, what is edited, and who was told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hive_ray.config_hooks import HooksSettings
from hive_ray.core.commands import ApplyPlan
from hive_ray.core.hooks import HookPlan, HooksPlan
from hive_ray.core.outbox import Sent
from hive_ray.core.plan import ControlPlan, encode_plan
from hive_ray.state.memory_store import forget_memory
from tests.http.in_process import Face
from tests.http.teams_test import Teams

pytestmark = pytest.mark.anyio

HOUR_US = 3_600_000_000
FORM = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "amount": {"type": "number", "maximum": 100}},
    "required": ["approved", "amount"],
}
APPROVAL: dict[str, Any] = {
    "reason": "may it be paid?",
    "form": FORM,
    "owner": "key:ann",
    "deadline_s": "3h",
    "escalate": [{"owner": "role:chief", "after_s": "1h"}],
    "finally": {"amount": 1},
}
HOOKS = HooksSettings.model_validate({"callback_secret": "env:SECRET", "public_url": "https://hive.example"})


@pytest.fixture
async def face(request: pytest.FixtureRequest) -> AsyncIterator[Face]:
    name = request.node.name.replace("[", "-").rstrip("]")
    face = Face(name, [], hooks=HOOKS)
    async with face.http:
        yield face
    forget_memory(name)


def graph(**approval: Any) -> dict[str, Any]:
    node = {"id": "pay", "approval": APPROVAL | approval, "output_keys": ["approved", "amount"]}
    return {"id": "payment", "nodes": [node]}


async def begin(face: Face, approval: dict[str, Any] | None = None, **body: Any) -> str:
    answer = await face.http.post("/v1/runs", json={"graph": graph(**(approval or {}))} | body)
    assert answer.status_code == 202, answer.text
    return answer.json()["run_id"]


async def question(face: Face, **filters: Any) -> dict[str, Any]:
    answer = await face.http.get("/v1/approvals", params=filters)
    (found,) = answer.json()["approvals"]
    return found


async def test_a_question_says_whom_it_is_asked_of_until_when_and_what_follows(face: Face):
    """Before and after it went to the next owner; the run says the same."""
    run = await begin(face)
    first = await question(face)
    face.driver.pass_time(HOUR_US)
    second = (await face.http.get(f"/v1/runs/{run}")).json()["waits"][0]

    assert first["chain"] == [{"owner": "key:ann", "for_s": 3600.0}, {"owner": "role:chief", "for_s": 7200.0}]
    assert (first["owner"], first["asked"], first["finally"]) == ("key:ann", ["key:ann"], "answer")
    assert (second["owner"], second["asked"]) == ("role:chief", ["key:ann", "role:chief"])
    assert second["deadline_at"] > first["deadline_at"]


async def test_approvals_are_listed_by_owner(face: Face):
    """What is, or was, asked of somebody; of nobody else's."""
    await begin(face)
    none = (await face.http.get("/v1/approvals", params={"owner": "role:chief"})).json()
    face.driver.pass_time(HOUR_US)

    assert none["approvals"] == []
    assert (await question(face, owner="role:chief")) == (await question(face, owner="key:ann"))


async def test_an_edit_must_fit_the_whole_form(face: Face):
    """Each fault by its place; nothing is decided."""
    await begin(face)
    path = f"/v1/approvals/{(await question(face))['approval_id']}"
    large = await face.http.post(path, json={"decision": "edit", "answer": {"amount": 101}})
    none = await face.http.post(path, json={"decision": "edit"})
    right = await face.http.post(path, json={"decision": "edit", "answer": {"amount": 99}})

    assert (large.status_code, none.status_code, right.status_code) == (422, 422, 200)
    assert large.json()["faults"][0]["place"] == "body.answer.amount"
    assert "'amount' is a required property" in none.json()["detail"]
    assert right.json()["run"]["status"] == "succeeded"


async def test_four_eyes_without_keys_are_refused_with_a_way_out(face: Face):
    """Nobody could tell the two apart."""
    await begin(face, {"four_eyes": True})
    found = await question(face)
    path = f"/v1/approvals/{found['approval_id']}"
    answer = await face.http.post(path, json={"decision": "approve", "answer": {"amount": 3}})

    assert found["four_eyes"] is True
    assert answer.status_code == 403
    assert "hive-ray keys create" in answer.json()["detail"]
    assert "approvals.single_user" in answer.json()["detail"]


async def test_the_outbox_shows_what_is_pending_and_why(face: Face):
    """Newest first, by state and by run, in pages."""
    plan = encode_plan(ControlPlan(hooks=HooksPlan((HookPlan("crm", "https://crm.example/"),))))
    face.driver.command(ApplyPlan(plan, "1"))
    face.driver.receiver = lambda send: Sent("answered 503", 503) if send.hook else Sent()
    run = await begin(face, callback_url="https://submitter.example/done")
    await face.http.post(f"/v1/runs/{run}/cancel")
    page = (await face.http.get("/v1/outbox", params={"limit": 1})).json()
    rest = (await face.http.get("/v1/outbox", params={"before": page["next_before"]})).json()
    pending = (await face.http.get("/v1/outbox", params={"state": "pending", "run_id": run})).json()
    told = {one["type"]: one for one in pending["notifications"]}

    assert len(page["notifications"]) + len(rest["notifications"]) == 3
    assert set(told) == {"approval.requested", "run.finished"}
    assert (told["run.finished"]["hook"], told["run.finished"]["attempts"]) == ("crm", 1)
    assert told["run.finished"]["error"] == "answered 503"
    assert told["run.finished"]["next_attempt_at"] > told["run.finished"]["queued_at"]
    delivered = (await face.http.get("/v1/outbox", params={"state": "delivered"})).json()["notifications"]
    assert [(one["hook"], one["run_id"]) for one in delivered] == [(None, run)]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://x.example/", "no http or https URL"),
        ("https://user:word@x.example/", "no http or https URL"),
        ("https://127.0.0.1/", "127.0.0.1 is not public"),
        ("http://169.254.169.254/latest", "is not public"),
        ("http://[::1]/", "is not public"),
        ("http://localhost:8080/", "localhost is not public"),
        ("https://x.example/a b", "characters that must be escaped"),
    ],
)
async def test_a_callback_that_could_not_be_told_is_refused(face: Face, url: str, problem: str):
    """At once, with its place; no run begins."""
    answer = await face.http.post("/v1/runs", json={"graph": graph(), "callback_url": url})

    assert answer.status_code == 422
    assert answer.json()["faults"][0]["place"] == "body.callback_url"
    assert problem in answer.json()["detail"]
    assert not face.driver.engine.runs


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "https://a.example/"), ({"callback_url": "https://b.example/"}, "https://b.example/"),
     ({"callback_url": ""}, "")],
    ids=["its-parents", "its-own", "nowhere"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["fork", "resume"])
async def test_the_end_of_a_fork_is_told_where_its_parents_was(
    face: Face, how: str, given: dict[str, str], expected: str
):
    """Or where the request says, or nowhere."""
    run = await begin(face, callback_url="https://a.example/")
    await face.http.post(f"/v1/runs/{run}/cancel")
    body = given | ({"from": "pay"} if how == "fork" else {})
    answer = await face.http.post(f"/v1/runs/{run}/{how}", json=body)
    assert answer.status_code == 202, answer.text
    fork = answer.json()["run_id"]
    before = len(face.driver.sends)
    await face.http.post(f"/v1/runs/{fork}/cancel")

    assert face.driver.engine.runs[fork].callback == expected
    assert [send.url for send in face.driver.sends[before:]] == ([expected] if expected else [])


async def test_a_forks_callback_is_checked_like_a_submissions(face: Face):
    run = await begin(face)
    body = {"from": "pay", "callback_url": "http://localhost/"}
    answer = await face.http.post(f"/v1/runs/{run}/fork", json=body)

    assert answer.status_code == 422
    assert answer.json()["faults"][0]["place"] == "body.callback_url"


async def test_a_callback_needs_a_secret_to_sign_it(face: Face):
    """It says which setting."""
    face.backend.settings = face.backend.settings.model_copy(update={"hooks": HooksSettings()})
    answer = await face.http.post("/v1/runs", json={"graph": graph(), "callback_url": "https://x.example/"})

    assert answer.status_code == 422
    assert "hooks.callback_secret" in answer.json()["detail"]


async def test_the_events_show_who_answered_and_whose_answer_did_not_count(face: Face):
    """Both, with their names; the second came too late."""
    run = await begin(face)
    path = f"/v1/approvals/{(await question(face))['approval_id']}"
    await face.http.post(path, json={"decision": "approve", "answer": {"amount": 3}})
    late = await face.http.post(path, json={"decision": "reject"})
    events = (await face.http.get(f"/v1/runs/{run}/events")).json()["events"]
    answers = [(e["kind"], e["decision"], e["principal"]) for e in events if "decision" in e]

    assert late.status_code == 409
    assert answers == [("ApprovalResolved", "approve", "operator"), ("AnswerRefused", "reject", "operator")]


async def test_with_keys_only_the_owner_answers_and_never_for_himself(request: pytest.FixtureRequest):
    """By name, by role, by neither; four eyes over an edit; an admin stands in for anyone but himself."""
    face = Face(request.node.name, [], hooks=HOOKS)
    async with face.http:
        teams = Teams(face)
        ann = teams.key("ann", "acme", ("submit", "read", "approve"))
        chief = teams.key("chief", "acme", ("approve",), ("chief",))
        body = {
            "graph": graph(four_eyes=True, owner="role:chief", escalate=[{"owner": "key:ann", "after_s": 9}])
        }
        run = (await teams.call(ann, "POST", "/v1/runs", body)).json()["run_id"]
        path = f"/v1/approvals/{run}.1"
        pay: dict[str, Any] = {"decision": "approve", "answer": {"amount": 3}}
        early = await teams.call(ann, "POST", path, pay)
        face.driver.pass_time(10_000_000)
        own = await teams.call(ann, "POST", path, pay)
        edited = await teams.call(chief, "POST", path, {"decision": "edit", "answer": {"amount": 4}})
        blind = await teams.call(teams.root, "POST", path, pay)
        stale = await teams.call(teams.root, "POST", path, {"decision": "approve"})
        seen = await teams.call(teams.root, "POST", path, {"decision": "approve", "edition": 1})
        result = (await teams.call(ann, "GET", f"/v1/runs/{run}/result")).json()
    forget_memory(request.node.name)

    assert (early.status_code, own.status_code) == (403, 403)
    assert "is asked of role:chief, and key:ann" in early.json()["detail"]
    assert "key:ann submitted the run" in own.json()["detail"]
    assert edited.json()["run"]["waits"][0]["edit"]["by"] == "key:chief"
    assert blind.json()["faults"][0]["problem"] == "an edited answer is approved as it is"
    assert (stale.status_code, seen.status_code) == (412, 200)
    assert result["outputs"] == {"approved": True, "amount": 4}


async def test_the_audit_shows_every_answer_and_the_deadlines_acts(face: Face):
    """Who was handed the question, whose answer came too late, and that nobody's came in time."""
    await begin(face, {"finally": "fail"})
    path = f"/v1/approvals/{(await question(face))['approval_id']}"
    face.driver.pass_time(HOUR_US)
    face.driver.pass_time(2 * HOUR_US)
    await face.http.post(path, json={"decision": "reject"})
    acts = (await face.http.get("/v1/audit")).json()["acts"]
    told = [(act["principal"], act["kind"]) for act in acts if act["kind"].startswith("A") and act["run_id"]]

    assert told == [
        ("operator", "AnswerRefused"),
        ("deadline", "ApprovalResolved"),
        ("deadline", "ApprovalEscalated"),
    ]
