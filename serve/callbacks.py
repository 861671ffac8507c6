"""The address that is told the end of a run, as far as it can be checked before anything is sent."""

from __future__ import annotations

import ipaddress

from hive_ray.config_hooks import HooksSettings
from hive_ray.control.webhooks import Refused, is_public, target_of
from serve.problems import invalid

PLACE = "body.callback_url"


def checked(url: str, settings: HooksSettings) -> str:
    """The address itself. A name is looked up at each attempt, not here.

    Raises:
        Problem: nothing could be sent to it, or nobody could tell who sent it.
    """
    if not url:
        return url
    if settings.callback_secret is None:
        problem = "callbacks are signed, and no secret is configured"
        raise invalid(PLACE, problem, "set hooks.callback_secret in hive.yaml")
    try:
        target = target_of(url)
    except Refused as error:
        raise invalid(PLACE, str(error), "give an http or https URL without a password") from error
    if not settings.allow_private and _is_private(target.host):
        raise invalid(PLACE, f"{target.host} is not public", "name a public host, or set hooks.allow_private")
    return url


def _is_private(host: str) -> bool:
    try:
        return not is_public(str(ipaddress.ip_address(host)))
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost")
