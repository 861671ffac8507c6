"""An installation that needs keys, as `hive-ray up` starts it: real Ray, real Serve, real command line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hive_ray.client import Client, connect
from hive_ray.errors import Forbidden, NotFound, Unauthenticated
from tests.http.installation import Installation, asking, chain

ISSUER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Keys and tokens are needed; nobody has made a key."""
    public = ISSUER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    folder = tmp_path_factory.mktemp("auth")
    (folder / "issuer.pem").write_bytes(public)
    with Installation(folder, auth={"required": True}) as running:
        yield running


@pytest.fixture(scope="module")
def root(closed: Installation) -> str:
    """The admin key that `up` made."""
    return (closed.folder / ".hive" / "admin.key").read_text().strip()


def cli(closed: Installation, *words: str, cwd: Path | None = None, **environ: str) -> Any:
    """The command line with an environment of its own; from another folder it finds no key."""
    argv = [sys.executable, "-m", "hive_ray.cli", *words]
    env = {**os.environ, **environ}
    return subprocess.run(
        argv, cwd=cwd or closed.folder, env=env, capture_output=True, text=True, timeout=110
    )


def made(closed: Installation, *words: str) -> dict[str, Any]:
    """A key made by the command line."""
    done = cli(closed, "keys", "create", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def client(closed: Installation, secret: str) -> Client:
    return connect(closed.url, api_key=secret)


def test_up_makes_an_admin_key_for_its_owner_only(closed: Installation, root: str):
    """Where nobody else reads it; its secret is in no log and in no record."""
    file = closed.folder / ".hive" / "admin.key"

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = cli(closed, "keys", "whoami", "--json")
    assert json.loads(told.stdout)["scopes"] == ["admin"]
    elsewhere = [
        path
        for path in (closed.folder / ".hive").rglob("*")
        if path.is_file() and path != file and root.encode() in path.read_bytes()
    ]
    assert elsewhere == []


def test_without_a_key_nothing_is_told(closed: Installation, tmp_path: Path):
    """401 as problem+json; liveness and readiness stay open."""
    for path in ("/v1/runs", "/v1/status", "/metrics", "/v1/whoami"):
        answer = httpx2.get(closed.url + path)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert httpx2.get(f"{closed.url}/readyz").status_code == 200
    done = cli(closed, "ls", "--url", closed.url, cwd=tmp_path)
    assert done.returncode == 2
    assert "needs an API key" in done.stderr and "HIVE_RAY_API_KEY" in done.stderr


def test_two_teams_work_side_by_side(closed: Installation):
    """Each with its key, over the command line and the SDK; neither sees the other."""
    graph = closed.write("chain.yaml", chain())
    acme = made(closed, "--team", "acme", "--scopes", "submit,read", "--ttl", "1h", "--name", "acme-ci")
    other = made(closed, "--team", "other", "--scopes", "read,operate")
    file = closed.folder / "acme.key"
    file.write_text(acme["secret"] + "\n")
    given = ("-i", '{"name": "Ann"}', "--json")

    done = cli(closed, "run", str(graph), *given, "--api-key-file", str(file))
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    listed = json.loads(cli(closed, "ls", "--json", HIVE_RAY_API_KEY=acme["secret"]).stdout)

    assert outcome["status"] == "succeeded"
    assert [(run["run_id"], run["team"]) for run in listed] == [(outcome["run_id"], "acme")]
    with client(closed, other["secret"]) as theirs, client(closed, acme["secret"]) as mine:
        assert list(theirs.runs()) == []
        with pytest.raises(NotFound):
            theirs.run(outcome["run_id"]).show()
        with pytest.raises(NotFound):
            next(theirs.run(outcome["run_id"]).watch())
        with pytest.raises(Forbidden, match="scope operate"):
            mine.run(outcome["run_id"]).cancel()
        shown = mine.run(outcome["run_id"]).show()
        assert (shown["team"], shown["submitted_by"]) == ("acme", "key:acme-ci")


def test_a_revoked_key_is_refused_at_once_and_its_run_goes_on(closed: Installation, root: str):
    """Also on a connection that is open, and for whoever watches."""
    key = made(closed, "--team", "acme", "--scopes", "submit,read")
    graph = closed.write("asking.yaml", asking())
    with client(closed, key["secret"]) as theirs, client(closed, root) as admin:
        run = theirs.submit(graph, input={"name": "Ann"})
        assert theirs.get("/v1/whoami")["principal"] == f"key:{key['key_id']}"

        assert cli(closed, "keys", "revoke", key["key_id"]).returncode == 0

        with pytest.raises(Unauthenticated):
            run.show()
        with pytest.raises(Unauthenticated):
            theirs.submit(graph, input={"name": "Ann"})
        assert admin.run(run.id).status in ("queued", "running", "waiting")


def test_a_rolled_key_changes_hands_without_a_gap(closed: Installation):
    """And is listed with the day of its use from then on."""
    key = made(closed, "--team", "acme", "--scopes", "read")
    listed = cli(closed, "keys", "list").stdout.splitlines()

    rolled = json.loads(cli(closed, "keys", "roll", key["key_id"], "--grace", "1h", "--json").stdout)

    assert rolled["secret"] != key["secret"]
    for secret in (key["secret"], rolled["secret"]):
        with client(closed, secret) as theirs:
            assert theirs.get("/v1/whoami")["team"] == "acme"
    assert "used never" in next(line for line in listed if line.startswith(key["key_id"]))
    used = json.loads(cli(closed, "keys", "list", "--json").stdout)
    assert next(one for one in used if one["key_id"] == key["key_id"])["last_used_on"]


def test_who_did_what_is_told(closed: Installation, root: str):
    """Of the own team with scope operate, of all with scope admin; secrets and hashes are not in it."""
    key = made(closed, "--team", "acme", "--scopes", "submit,operate", "--name", "audited")
    graph = closed.write("asking.yaml", asking())
    with client(closed, key["secret"]) as theirs:
        run = theirs.submit(graph, input={"name": "Ann"})
        run.cancel("enough")
        mine = theirs.get("/v1/audit", params={"principal": "key:audited"})["acts"]
        every = theirs.get("/v1/audit")["acts"]

    assert [act["kind"] for act in mine] == ["RunCancelled", "RunSubmitted"]
    assert {act["team"] for act in every} == {"acme"}
    told = cli(closed, "audit", "--since", "1h", "--json")
    acts = json.loads(told.stdout)
    assert {"ApiKeyCreated", "RunCancelled"} <= {act["kind"] for act in acts}
    assert key["secret"] not in told.stdout and "enough" not in told.stdout


def test_keys_survive_a_restart_and_the_admin_key_stays_the_same(closed: Installation, root: str):
    """They are in the journal; `up` makes another only when there is none."""
    key = made(closed, "--team", "acme", "--scopes", "read")

    assert cli(closed, "down").returncode == 0
    assert cli(closed, "up").returncode == 0

    assert (closed.folder / ".hive" / "admin.key").read_text().strip() == root
    with client(closed, key["secret"]) as theirs:
        assert theirs.get("/v1/whoami")["principal"] == f"key:{key['key_id']}"


def test_people_come_in_by_tokens(closed: Installation):
    """Configured beside keys; the roles of a token are the person's."""
    config = closed.config.read_text()
    tokens = {"issuer": "https://id.example", "audience": "hive", "public_key": "issuer.pem"}
    closed.config.write_text(config.replace("required: true", f"jwt: {json.dumps(tokens)}"))
    assert cli(closed, "down").returncode == 0
    assert cli(closed, "up").returncode == 0
    claims = {"iss": "https://id.example", "aud": "hive", "sub": "ann", "exp": int(time.time()) + 600}
    claims |= {"team": "acme", "scope": "openid read", "roles": ["lead"]}

    with client(closed, jwt.encode(claims, ISSUER, "RS256")) as ann:
        assert ann.get("/v1/whoami") == {
            "principal": "user:ann",
            "team": "acme",
            "scopes": ["read"],
            "roles": ["lead"],
        }
        assert {run["team"] for run in ann.runs()} == {"acme"}
        with pytest.raises(Forbidden, match="scope submit"):
            ann.submit(chain(), input={"name": "x"})
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with client(closed, jwt.encode(claims, stranger, "RS256")) as forged, pytest.raises(Unauthenticated):
        forged.get("/v1/whoami")
