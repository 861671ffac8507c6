"""The controller's door: whom a credential belongs to, and what may be asked with it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from hive_ray.config import Settings
from hive_ray.control import buckets
from hive_ray.control import budget_views as b
from hive_ray.control import queries as q
from hive_ray.control.access import NEEDS
from hive_ray.control.door import Door, Entered, Refusals
from hive_ray.control.envelope import INSTALLATION, NOBODY, Asked, Caller
from hive_ray.core import commands as c
from hive_ray.core.api_keys import ApiKey
from hive_ray.core.commands import Refused
from hive_ray.core.engine import Engine
from hive_ray.core.messages import StepContent
from hive_ray.core.principals import OPERATOR, Principal
from tests.core.graphs import Facts

DIGEST = b"d" * 32
NOW = 1_000


def key(name: str, *scopes: str, team: str = "acme", **fields: Any) -> ApiKey:
    return ApiKey(name, name, team, scopes, ("lead",), DIGEST, 1, **fields)


def keys(*known: ApiKey) -> dict[str, ApiKey]:
    return {one.id: one for one in known}


def door(**auth: Any) -> Door:
    return Door(Settings.model_validate({"auth": auth} if auth else {}))


def by(name: str, digest: bytes = DIGEST, team: str = "") -> Caller:
    return Caller("key", name, digest, team=team)


def entered(answer: Entered | Refused) -> Entered:
    assert isinstance(answer, Entered), answer
    return answer


def turned_away(answer: Entered | Principal | Refused | None, problem: str) -> str:
    assert isinstance(answer, Refused), answer
    assert answer.problem == problem
    return answer.message


def test_every_request_names_its_scope():
    """One that is forgotten needs admin; none is forgotten."""
    assert set(get_args(q.Request)) == set(NEEDS)


def test_without_keys_on_loopback_whoever_asks_is_the_operator():
    found = entered(door().enter(Asked(NOBODY, c.Cancel("r")), {}, NOW))

    assert found == Entered(OPERATOR, c.Cancel("r", principal="operator"))


@pytest.mark.parametrize(
    "settings",
    [
        {"auth": {"required": True}},
        {"http": {"host": "0.0.0.0"}},
        {"auth": {"jwt": {"issuer": "i", "audience": "a", "public_key": "-----BEGIN x"}}},
    ],
)
def test_nobody_comes_in_where_others_could_reach_the_listener(settings: dict[str, Any]):
    """Also before the first key is made."""
    answer = Door(Settings.model_validate(settings)).enter(Asked(NOBODY, c.Cancel("r")), {}, NOW)

    assert "needs an API key" in turned_away(answer, "unauthenticated")


@pytest.mark.parametrize("status", ["valid", "revoked", "expired"])
def test_the_first_key_closes_the_door_for_good(status: str):
    """Keys that have ended do not open it again: that would let everybody in."""
    ends: dict[str, dict[str, Any]] = {
        "valid": {},
        "revoked": {"revoked_us": 5},
        "expired": {"expires_us": 5},
    }
    known = ends[status]

    answer = door().enter(Asked(NOBODY, q.GetRun("r")), keys(key("ci", "read", **known)), NOW)

    turned_away(answer, "unauthenticated")


def test_team_name_and_roles_follow_from_the_key():
    """Whatever the request says."""
    command = c.Resolve("r", "r.1", "approve", StepContent(), "somebody", roles=("boss",))

    found = entered(door().enter(Asked(by("ci"), command), keys(key("ci", "approve")), NOW))

    assert found.request.principal == "key:ci"
    assert found.request.roles == ("lead",)
    submit = c.Submit("r", "q", "other", "a", "g", StepContent())
    found = entered(door().enter(Asked(by("ci"), submit), keys(key("ci", "submit")), NOW))
    assert found.request.team == "acme"


def test_a_missing_scope_is_named():
    answer = door().enter(Asked(by("ci"), c.Cancel("r")), keys(key("ci", "read", "submit")), NOW)

    said = turned_away(answer, "forbidden")
    assert "needs scope operate" in said
    assert "key:ci has read, submit" in said


def test_a_wrong_secret_and_an_unknown_key_are_answered_alike():
    """Nobody learns which keys there are."""
    known = keys(key("ci", "read"), key("old", "read", revoked_us=5))
    asked = [by("ci", b"x" * 32), by("none"), by("old", b"x" * 32)]

    said = {
        turned_away(door().enter(Asked(one, q.GetRun("r")), known, NOW), "unauthenticated") for one in asked
    }

    assert len(said) == 1


@pytest.mark.parametrize(("ended", "why"), [({"revoked_us": 5}, "revoked"), ({"expires_us": 5}, "expired")])
def test_whoever_has_the_secret_of_a_key_that_has_ended_is_told(ended: dict[str, Any], why: str):
    answer = door().enter(Asked(by("ci"), q.GetRun("r")), keys(key("ci", "read", **ended)), NOW)

    assert why in turned_away(answer, "unauthenticated")


def test_the_old_secret_is_good_for_the_grace_time():
    known = keys(key("ci", "read", old_digest=b"o" * 32, old_until_us=NOW + 1))

    assert isinstance(door().principal(by("ci", b"o" * 32), known, NOW), Principal)
    turned_away(door().principal(by("ci", b"o" * 32), known, NOW + 1), "unauthenticated")


def test_a_key_that_was_never_rolled_has_no_old_secret():
    """The empty digest of before is nobody's."""
    turned_away(door().principal(by("ci", b""), keys(key("ci", "read")), NOW), "unauthenticated")


def test_a_token_is_good_until_it_expires():
    user = Principal("user:ann", "acme", ("read",))

    assert door().principal(Caller("user", user=user, until_us=NOW + 1), {}, NOW) == user
    turned_away(door().principal(Caller("user", user=user, until_us=NOW), {}, NOW), "unauthenticated")


def test_only_an_admin_acts_for_another_team():
    known = keys(key("ci", "read", "submit"), key("root", "admin"))

    assert "only admin" in turned_away(door().principal(by("ci", team="other"), known, NOW), "forbidden")
    submit = c.Submit("r", "q", "", "a", "g", StepContent())
    found = entered(door().enter(Asked(by("root", team="other"), submit), known, NOW))
    assert (found.request.team, found.request.principal) == ("other", "key:root")


def test_all_teams_can_be_listed_and_nothing_else_be_done_for_them():
    known = keys(key("root", "admin"))
    everything = by("root", team="*")

    found = entered(door().enter(Asked(everything, q.ListRuns("acme")), known, NOW))
    assert found.request.team == ""
    submit = c.Submit("r", "q", "", "a", "g", StepContent())
    for request in (submit, q.GetAgent("acme", "a"), q.ListMemory("team", "acme")):
        turned_away(door().enter(Asked(everything, request), known, NOW), "invalid")


# --- nobody is locked out ------------------------------------------------------------------------------


def let(request: Any, *known: ApiKey, auth: dict[str, Any] | None = None) -> Refused | None:
    engine = Engine(Facts(), buckets.take)
    engine.fleet.api_keys.update(keys(*known))
    return door(**(auth or {})).let(Entered(OPERATOR, request), engine, NOW)


def create(*scopes: str, expires_us: int = 0) -> c.CreateKey:
    return c.CreateKey("new", "new", "acme", scopes, DIGEST, (), expires_us)


def test_the_first_key_must_be_one_that_can_make_others():
    assert "scope admin" in turned_away(let(create("submit", "read")), "conflict")
    assert "does not expire" in turned_away(let(create("admin", expires_us=NOW * 2)), "conflict")
    assert let(create("admin")) is None
    assert let(create("submit"), key("root", "admin")) is None


def test_the_last_admin_key_cannot_be_revoked():
    root, other = key("root", "admin"), key("other", "admin")

    assert "last key" in turned_away(let(c.RevokeKey("root"), root, key("ci", "read")), "conflict")
    assert let(c.RevokeKey("root"), root, other) is None
    assert let(c.RevokeKey("ci"), root, key("ci", "read")) is None


def test_with_tokens_there_are_other_ways_in():
    jwt = {"jwt": {"issuer": "i", "audience": "a", "public_key": "-----BEGIN x"}}

    assert let(create("submit"), auth=jwt) is None
    assert let(c.RevokeKey("root"), key("root", "admin"), auth=jwt) is None


def test_refusals_are_counted_and_said_at_most_once_a_second(caplog: pytest.LogCaptureFixture):
    """Whoever asks in a loop must not fill the log."""
    refusals = Refusals()

    for _ in range(100):
        refusals.note(ValueError("it carries no credential"))

    assert refusals.count == 100
    assert len([r for r in caplog.records if "refused" in r.message]) == 1


def test_the_installation_itself_needs_no_key():
    """Its supervisor holds the door secret."""
    found = entered(door(required=True).enter(Asked(INSTALLATION, q.ListKeys()), {}, NOW))

    assert found.principal == OPERATOR


def test_who_operates_a_team_may_stop_its_spending_and_nobody_elses():
    """And may not raise a limit, nor let go on what was stopped."""
    known = keys(key("k", "read", "operate"))
    engine = Engine(Facts(), buckets.take)

    def told(request: q.Request) -> Entered | Refused:
        return door().enter(Asked(by("k"), request), known, NOW)

    own = entered(told(c.StopSpending("agent/acme/bot")))
    other, pool = (entered(told(c.StopSpending(name))) for name in ("team/other", "pool/llm"))
    assert door().let(own, engine, NOW) is None
    for foreign in (other, pool, entered(told(b.GetAccount("team/other", 1)))):
        assert "of team acme" in turned_away(door().let(foreign, engine, NOW), "not_found")
    for raising in (c.AllowSpending("team/acme"), c.ChangeBudget("team/acme", None), c.Maintain(True)):
        turned_away(told(raising), "forbidden")


def test_lists_of_budgets_show_an_admin_all_teams_and_others_their_own():
    """Whatever team they name."""
    known = keys(key("k", "read"), key("boss", "admin"))
    asked = b.ListAccounts(1, "other")

    own = entered(door().enter(Asked(by("k"), asked), known, NOW))
    every = entered(door().enter(Asked(by("boss"), asked), known, NOW))

    assert (own.request.team, every.request.team) == ("acme", "")
