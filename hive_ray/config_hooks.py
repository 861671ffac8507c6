"""``hooks`` in ``hive.yaml``: who outside is told of what happens here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import PositiveFloat, PositiveInt, StringConstraints, field_validator, model_validator

from hive_ray.config_base import Name, Secret, SecretRef, Section, refuse

HookUrl = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)]
Kind = Literal["approval.requested", "approval.escalated", "run.finished", "budget.warned", "breaker.opened"]


class HookSettings(Section):
    """One receiver of webhooks."""

    name: Name = ""
    """By which it is shown; by default the host of its URL."""
    url: HookUrl
    """Where notifications are posted."""
    secret: Secret
    """Reference to the secret that signs them: `whsec_` and base64, as Standard Webhooks has it."""
    events: tuple[Kind, ...] = ()
    """What it is told: `approval.requested`, `approval.escalated`, `run.finished`, `budget.warned`,
    `breaker.opened`; by default all of it."""
    teams: tuple[Name, ...] = ()
    """Of which teams; by default of all, and of what belongs to none."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("name"):
            return data
        return {**data, "name": urlsplit(str(data.get("url", ""))).hostname or "hook"}

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if "@" in urlsplit(url).netloc:
            refuse("holds a user name or password", "take it out: notifications are signed")
        return url


class HooksSettings(Section):
    """Notifications by signed webhook (Standard Webhooks). A list stands for `to`."""

    to: tuple[HookSettings, ...] = ()
    """Who is told."""
    callback_secret: Secret | None = None
    """Reference to the secret that signs what goes to a run's `callback_url`; without it none is taken."""
    allow_private: bool = False
    """Send to private, loopback, link-local and metadata addresses too."""
    timeout_s: PositiveFloat = 10.0
    """Seconds for one attempt."""
    attempts: PositiveInt = 8
    """Attempts until a notification is given up."""
    first_retry_s: PositiveFloat = 5.0
    """Seconds of the first pause at most; each further one is four times as long, up to an hour."""
    public_url: str = ""
    """Address of this installation as receivers see it: links begin with it."""

    @model_validator(mode="before")
    @classmethod
    def _list_of_receivers(cls, data: Any) -> Any:
        return {"to": data} if isinstance(data, list | tuple) else data

    @field_validator("to")
    @classmethod
    def _told_apart(cls, to: tuple[HookSettings, ...]) -> tuple[HookSettings, ...]:
        names = [hook.name for hook in to]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            refuse(f"several receivers are named {', '.join(twice)}", "give each a name of its own")
        return to

    def secret_of(self, name: str) -> SecretRef | None:
        """Reference to the secret of a receiver; of whoever submitted a run if the name is empty."""
        if not name:
            return self.callback_secret
        return next((hook.secret for hook in self.to if hook.name == name), None)
