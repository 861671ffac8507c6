"""``approvals`` in ``hive.yaml``: who is asked where nothing else is said, and what if nobody answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveFloat, StringConstraints, model_validator

from hive_ray.config_base import Section, refuse

Owner = Annotated[str, StringConstraints(pattern=r"^[!-~]*$", max_length=200)]


class EscalationSettings(Section):
    """Who is asked next."""

    owner: Owner
    """Principal (`key:NAME`, `user:SUB`) or role (`role:NAME`)."""
    after_s: PositiveFloat
    """Seconds that the owner before has the question for himself."""


class ApprovalsSettings(Section):
    """What holds for a human node, or any other question to a person, that says nothing."""

    model_config = ConfigDict(populate_by_name=True)

    default_deadline_s: PositiveFloat = 259_200.0
    """Seconds from the first asking to the end, later owners included."""
    owner: Owner = ""
    """Principal or role that is asked; empty asks anyone of the team."""
    escalate: tuple[EscalationSettings, ...] = ()
    """Who is asked after that, one after the other."""
    final: Literal["fail", "reject"] = Field(default="fail", alias="finally")
    """If nobody answers: `fail` with `EXPIRED`, or `reject`. Only a graph may approve, or give an answer."""
    four_eyes: bool = False
    """Who approves must be neither who submitted the run nor who edited the answer. Needs API keys."""
    single_user: bool = False
    """There is one user: `four_eyes` asks for nothing. Without it, an installation without keys refuses to
    approve what needs four eyes."""

    @model_validator(mode="after")
    def _time_for_all(self) -> ApprovalsSettings:
        taken = sum(step.after_s for step in self.escalate)
        if taken >= self.default_deadline_s:
            problem = f"escalate takes {taken:g} s of {self.default_deadline_s:g} s"
            refuse(problem, "raise default_deadline_s, or shorten the after_s: the last owner needs time too")
        return self
