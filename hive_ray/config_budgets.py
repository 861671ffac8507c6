"""What ``hive.yaml`` says about money, rates and shares.

Keys are names of accounts: ``team/acme``, ``agent/acme/support``, ``workflow/acme/refunds``, ``pool/llm``,
``model/small``, ``tool/send_mail``; ``team/*``, ``agent/*`` or ``agent/acme/*`` stand for those not named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, model_validator

from hive_ray.config_base import Section, refuse

Usd = Annotated[Decimal, Field(ge=0, decimal_places=9, le=Decimal(10) ** 9)]
"""US dollars, up to a thousand million, in whole nano-dollars."""
PriorityClass = Literal["interactive", "normal", "batch"]

_WORD = r"[A-Za-z0-9][A-Za-z0-9_. -]*"
_ONE = rf"({_WORD}|\*)"
_TWO = rf"({_WORD}/{_WORD}|{_WORD}/\*|\*)"
_ACCOUNT = re.compile(rf"(team|pool|model|tool)/{_ONE}|(agent|workflow)/{_TWO}")
_RATED = re.compile(rf"(pool|model|tool)/{_ONE}")
_RUNNING = re.compile(rf"team/{_ONE}|agent/{_TWO}")


def _account(name: str) -> str:
    if not _ACCOUNT.fullmatch(name):
        refuse(
            f"no account is called {name!r}",
            "write team/NAME, agent/TEAM/NAME, workflow/TEAM/GRAPH, pool/NAME, model/NAME or tool/NAME; "
            "* in the last place means every one",
        )
    return name


def _rated(name: str) -> str:
    if not _RATED.fullmatch(name):
        refuse(f"{name!r} has no rate", "write pool/NAME, model/NAME or tool/NAME; pool/* means every one")
    return name


def _running(name: str) -> str:
    if not _RUNNING.fullmatch(name):
        refuse(f"{name!r} has no runs", "write team/NAME or agent/TEAM/NAME; team/* means every one")
    return name


AccountName = Annotated[str, AfterValidator(_account)]
RatedName = Annotated[str, AfterValidator(_rated)]
RunningName = Annotated[str, AfterValidator(_running)]


class BudgetSettings(Section):
    """The limits of one account. Windows are those of UTC: teams and workflows have a month, agents a day,
    pools, models and tools an hour."""

    usd: Usd | None = None
    """US dollars in a window."""
    tokens: NonNegativeInt | None = None
    """Tokens of LLM calls, input and output, in a window."""
    at_limit: Literal["stop", "pause_for_approval", "degrade"] = "stop"
    """`stop` fails the step and is never passed; `pause_for_approval` asks a person to raise the limit for
    the run; `degrade` goes on with cheaper models."""
    warn_percent: Annotated[int, Field(ge=1, le=100)] = 80
    """Share of the limit at which a warning is given, once in a window."""
    owner: str = ""
    """Principal or role that is asked when the budget pauses; empty asks anyone of the team."""

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetSettings:
        if self.usd is None and self.tokens is None:
            refuse("a budget without usd and tokens", "give usd, tokens, or both")
        return self


class RateSettings(Section):
    """How much may begin in a minute: a token bucket that holds one minute's worth."""

    requests_per_minute: NonNegativeInt = 0
    """Attempts that may begin; 0 does not limit them."""
    tokens_per_minute: NonNegativeInt = 0
    """Tokens of LLM calls, input and output; 0 does not limit them."""


class SharesSettings(Section):
    """Who goes first when more is ready than workers can take."""

    weights: Mapping[str, Annotated[int, Field(ge=1, le=1000)]] = {}
    """Shares of teams within a priority class; 1 for those that are not named."""
    priorities: Mapping[RunningName, PriorityClass] = {}
    """Class of the runs of a team or an agent (`team/acme`, `agent/acme/support`) that name none:
    `interactive` goes before `normal`, and that before `batch`."""
