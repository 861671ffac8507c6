"""Approvals over HTTP: what waits for a person, and the person's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from jsonschema import Draft202012Validator

from hive_ray.control.queries import ListApprovals
from hive_ray.control.views import RunView, WaitView
from hive_ray.core.commands import Resolve
from hive_ray.errors import Fault
from serve import shapes
from serve.backend import Backend, answer_key, check_size
from serve.bodies import Decision
from serve.problems import Problem, invalid
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1/approvals", tags=["approvals"])

APPROVED = "approved"
"""The form's key that the decision itself fills."""


@router.get("", summary="What waits for a person, oldest first")
async def list_approvals(
    request: Request,
    run_id: str = "",
    owner: str = "",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """``owner`` is a principal or a role as it stands in the graph: what is, or was, asked of it.

    ``next_after`` of one page is ``after`` of the next; it is null on the last.
    """
    query = ListApprovals("", run_id, _cursor(after), limit, owner)
    waits: list[WaitView] = await backend_of(request).read(query, list[WaitView])
    following = f"{waits[-1].since_us}-{waits[-1].approval_id}" if len(waits) == limit else None
    return answer({"approvals": [shapes.wait(wait) for wait in waits], "next_after": following})


def _cursor(after: str) -> tuple[int, str]:
    since_us, dash, approval = after.partition("-")
    if after and not (dash and since_us.isdigit()):
        raise invalid("after", f"{after!r} ends no page", "take it from next_after of the page before")
    return (int(since_us), approval) if after else (0, "")


@router.post("/{approval_id}", summary="Answer an approval")
async def resolve(request: Request, approval_id: str, body: Decision) -> Response:
    """Resolved exactly once: the same answer again is answered as at first, another one is 409."""
    backend = backend_of(request)
    run_id = approval_id.rpartition(".")[0]
    if not run_id:
        raise invalid(
            "approval_id", f"{approval_id!r} is no approval", "take one from GET /v1/approvals: RUN.N"
        )
    view = await backend.run(run_id)
    open_wait = next((wait for wait in view.waits if wait.approval_id == approval_id), None)
    given = body.answer if open_wait is None else _answer(open_wait, body)
    check_size(given, backend.settings.limits.max_input_bytes, "body.answer")
    after = await _resolved(backend, view, approval_id, body, given)
    return answer({"approval_id": approval_id, "decision": body.decision, "run": shapes.run(after)})


async def _resolved(
    backend: Backend, view: RunView, approval_id: str, body: Decision, given: Mapping[str, Any]
) -> RunView:
    graph = await backend.acceptance.known(view.graph_version)
    key = answer_key(view, graph, "outcome_unknown")
    content = await backend.content(view.run_id, graph, given, body.comment, key)
    told = [body.answer, body.comment] + ([body.edition] if body.edition is not None else [])
    digest, plain = await backend.sealing.digests(told)
    edition = -1 if body.edition is None else body.edition
    command = Resolve(
        view.run_id,
        approval_id,
        body.decision,
        content,
        digest=digest,
        plain_digest=plain,
        edition=edition,
    )
    return await backend.view(command)


def _answer(wait: WaitView, body: Decision) -> dict[str, Any]:
    """The answer that fits the form, with what the decision itself says filled in.

    Raises:
        Problem: it does not fit; every place is named.
    """
    if wait.reason == "policy":
        return _arguments(wait, body)
    if not wait.form or body.decision in ("did_not_happen", "abort", "resume", "retry"):
        return body.answer
    if wait.edition and body.decision == "approve":
        # The edited answer fits the form already.
        if body.answer:
            raise invalid(
                "body.answer", "an edited answer is approved as it is", "leave it out, or edit again"
            )
        return {}
    form = msgspec.json.decode(wait.form)
    given = dict(body.answer)
    if APPROVED in form.get("properties", {}) and wait.reason != "fallback":
        means = body.decision != "reject"
        if given.get(APPROVED, means) is not means:
            said = f"{body.decision} means approved = {str(means).lower()}"
            remedy = "leave approved out; to refuse, decide reject" if means else "leave approved out"
            raise invalid("body.answer.approved", f"contradicts the decision: {said}", remedy)
        given[APPROVED] = means
    if body.decision == "reject" or wait.reason not in _ASK_FOR_OUTPUTS:
        # Who rejects need not fill in all that an approval asks for; a step's edit holds what changes.
        form = {key: value for key, value in form.items() if key != "required"}
    _check_form(form, given)
    return given


_ASK_FOR_OUTPUTS = ("approval", "fallback")
"""Questions whose answer is what a node gives: whoever approves must fill in all of it."""


def _arguments(wait: WaitView, body: Decision) -> dict[str, Any]:
    """Of a call that a policy asks about: an edit gives all its arguments, any other decision none."""
    if body.decision != "edit":
        if body.answer:
            remedy = "to change the arguments, decide edit"
            raise invalid("body.answer", f"{body.decision} takes what is shown as it is", remedy)
        return {}
    if wait.form:
        _check_form(msgspec.json.decode(wait.form), body.answer)
    return body.answer


def _check_form(form: dict[str, Any], given: dict[str, Any]) -> None:
    faults = [
        Fault(
            ".".join(["body.answer", *map(str, error.absolute_path)]),
            error.message,
            "see the approval's form",
        )
        for error in Draft202012Validator(form).iter_errors(given)
    ]
    if faults:
        raise Problem(422, "invalid", "; ".join(map(str, faults)), faults)
