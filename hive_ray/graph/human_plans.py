"""What a human node asks for, of whom, until when, and what holds if nobody answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from jsonschema import Draft202012Validator

from hive_ray.graph.asking import Asked, AskPlan, Final, chain_of
from hive_ray.graph.compiled import HumanPlan, NodeKind
from hive_ray.graph.environment import AskDefaults
from hive_ray.graph.findings import Findings
from hive_ray.graph.prompts import canonical_json, schema_bytes
from hive_ray.graph.spec import ApprovalSpec, NodeSpec

Json = Any
APPROVED = "approved"
"""The output key that the decision itself fills."""


def plan_human(node: NodeSpec, defaults: AskDefaults, findings: Findings) -> HumanPlan | None:
    """The plan of a human node; none of any other."""
    if node.node_type is not NodeKind.HUMAN_INPUT:
        return None
    approval = node.approval or ApprovalSpec()
    if not approval.reason:
        said = node.prompt or node.description or f"'{node.name or node.id}' needs an answer"
        approval = approval.model_copy(update={"reason": said})
    form = _derived_form(node.output_keys)
    plan = human_plan(approval, form, f"nodes.{node.id}.approval", defaults, findings)
    return msgspec.structs.replace(plan, has_approved=APPROVED in node.output_keys)


def human_plan(
    approval: ApprovalSpec, derived: dict[str, Json], place: str, defaults: AskDefaults, findings: Findings
) -> HumanPlan:
    """What is asked for, of whom, and until when.

    Args:
        derived: the form if the approval gives none.
    """
    form = schema_bytes(approval.form or derived, f"{place}.form", findings)
    asks = _asks(approval, defaults, place, findings)
    return HumanPlan(
        reason=approval.reason,
        form=form,
        deadline_us=sum(asked.us for asked in asks.chain),
        owner=asks.chain[0].owner,
        asks=asks,
        default=_default(approval.final, asks.final, form, f"{place}.finally", findings),
    )


def _derived_form(keys: Sequence[str]) -> dict[str, Json]:
    """A field for each output: ``approved`` is yes or no, the others are text or nothing."""
    fields = {key: {"type": "boolean"} if key == APPROVED else {"type": ["string", "null"]} for key in keys}
    required = [APPROVED] if APPROVED in fields else []
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def _asks(approval: ApprovalSpec, defaults: AskDefaults, place: str, findings: Findings) -> AskPlan:
    final = defaults.final
    if approval.final is not None:
        final = Final(approval.final) if isinstance(approval.final, str) else Final.ANSWER
    four_eyes = defaults.four_eyes if approval.four_eyes is None else approval.four_eyes
    return AskPlan(_chain(approval, defaults, place, findings), final, four_eyes)


def _chain(
    approval: ApprovalSpec, defaults: AskDefaults, place: str, findings: Findings
) -> tuple[Asked, ...]:
    owner = defaults.owner if approval.owner is None else approval.owner
    deadline_us = defaults.deadline_us
    if approval.deadline_s is not None:
        deadline_us = round(approval.deadline_s * 1e6)
    escalate = defaults.escalate
    if approval.escalate is not None:
        escalate = tuple(Asked(step.owner, round(step.after_s * 1e6)) for step in approval.escalate)
    try:
        return chain_of(owner, deadline_us, escalate)
    except ValueError as error:
        own = "escalate" if approval.escalate is not None else "deadline_s"
        remedy = "raise deadline_s (approvals.default_deadline_s in hive.yaml), or shorten the after_s"
        findings.error(f"{place}.{own}", f"nothing is left for the last owner: {error}", remedy)
        return (Asked(owner, deadline_us),)


def _default(written: object, final: Final, form: bytes, place: str, findings: Findings) -> bytes:
    """The answer that holds if nobody gives one; it must fit the form."""
    if final is Final.ANSWER:
        answer = dict(cast("Mapping[str, Json]", written))
    elif final is Final.APPROVE:
        answer = {}
    else:
        return b""
    schema: dict[str, Json] = msgspec.json.decode(form) if form else {}
    if APPROVED in schema.get("properties", {}):
        answer.setdefault(APPROVED, True)
    for error in Draft202012Validator(schema).iter_errors(answer):
        where = ".".join([place, *map(str, error.absolute_path)])
        findings.error(where, f"does not fit the form: {error.message[:200]}", "give an answer that fits it")
    return canonical_json(answer) if final is Final.ANSWER else b""
