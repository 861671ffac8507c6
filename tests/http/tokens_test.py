"""Tokens of people who sign in elsewhere: whom they let in, and what is tried with them in vain."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import jwt.algorithms
import jwt.utils
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hive_ray.config_auth import JwtSettings
from hive_ray.core.principals import Principal
from hive_ray.errors import ConfigError
from serve.tokens import BadToken, Tokens

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


def settings(**fields: Any) -> JwtSettings:
    given = {"issuer": "https://id.example", "audience": "hive", "public_key": pem(RSA)} | fields
    return JwtSettings.model_validate(given)


def claims(**fields: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": "https://id.example",
        "aud": ["hive", "other"],
        "sub": "ann",
        "exp": now + 600,
        "team": "acme",
        "scope": "openid read approve",
        "roles": ["lead"],
    } | fields


def signed(
    key: Any = RSA, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **fields: Any
) -> str:
    return jwt.encode(claims(**fields), key, algorithm, headers)


def test_a_token_is_a_person_of_a_team():
    """With scopes that are ours, and roles."""
    principal, until_us = Tokens(settings()).principal(signed())

    assert principal == Principal("user:ann", "acme", ("read", "approve"), ("lead",))
    assert until_us > time.time_ns() // 1000


def test_claims_have_the_names_that_the_issuer_gives_them():
    """Nested, or with dots in a name of their own."""
    names = {
        "team": "https://acme.example/team",
        "roles": "realm_access.roles",
        "scopes": "permissions",
    }
    told: dict[str, Any] = {
        "https://acme.example/team": "acme",
        "realm_access": {"roles": ["boss", 7, "two words"]},
        "permissions": ["operate", "fly"],
    }
    token = jwt.encode(claims(**told), RSA, "RS256")

    principal, _ = Tokens(settings(claims=names)).principal(token)

    assert principal == Principal("user:ann", "acme", ("operate",), ("boss",))


def unsigned() -> str:
    return jwt.encode(claims(), None, "none")  # pyright: ignore[reportArgumentType]


def confused() -> str:
    """Signed with the public key as if it were a shared secret."""
    head = jwt.utils.base64url_encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = jwt.utils.base64url_encode(json.dumps(claims()).encode())
    import hashlib
    import hmac

    mac = hmac.digest(pem(RSA).encode(), head + b"." + body, hashlib.sha256)
    return b".".join((head, body, jwt.utils.base64url_encode(mac))).decode()


@pytest.mark.parametrize(
    "token",
    [
        signed(OTHER),
        signed(EC, "ES256"),
        unsigned(),
        confused(),
        signed()[:-4] + "AAAA",
        "a.b.c",
        "..",
        signed(iss="https://evil.example"),
        signed(aud="other"),
        signed(exp=int(time.time()) - 3600),
        signed(exp="soon"),
        signed(nbf=int(time.time()) + 3600),
        signed(sub=""),
        signed(sub="two words"),
        signed(team=None),
        signed(team="../other"),
        signed(team=["acme"]),
    ],
)
def test_any_other_token_lets_nobody_in(token: str):
    with pytest.raises(BadToken):
        Tokens(settings()).principal(token)


@pytest.mark.parametrize("left_out", ["exp", "iss", "aud", "sub"])
def test_what_a_token_must_say_cannot_be_left_out(left_out: str):
    given = claims()
    del given[left_out]

    with pytest.raises(BadToken, match=left_out):
        Tokens(settings()).principal(jwt.encode(given, RSA, "RS256"))


@pytest.mark.parametrize(("key", "algorithm"), [(EC, "ES256"), (ED, "EdDSA"), (RSA, "PS512")])
def test_keys_of_every_kind_are_known(key: Any, algorithm: str):
    tokens = Tokens(settings(public_key=pem(key)))

    assert tokens.principal(signed(key, algorithm))[0].name == "user:ann"


def key_set(file: Path, **keys: Any) -> Path:
    found = [
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"}
        for kid, key in keys.items()
    ]
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps({"keys": found}))
    draft.replace(file)
    return file


def test_a_key_set_is_read_again_when_it_changes(tmp_path: Path):
    """The issuer rotates its keys without asking us; a set that is damaged meanwhile locks nobody out."""
    file = key_set(tmp_path / "jwks.json", old=RSA, next=OTHER)
    tokens = Tokens(settings(public_key="", jwks_file=str(file)))
    old, new = signed(headers={"kid": "old"}), signed(OTHER, headers={"kid": "next"})
    assert {tokens.principal(token)[0].name for token in (old, new)} == {"user:ann"}
    with pytest.raises(BadToken, match="not the issuer's"):
        tokens.principal(signed(headers={"kid": "unknown"}))

    file.write_text("{")
    assert tokens.principal(old)[0].name == "user:ann"
    key_set(file, next=OTHER)

    assert tokens.principal(new)[0].name == "user:ann"
    with pytest.raises(BadToken):
        tokens.principal(old)


def test_what_holds_no_public_key_is_refused_at_start_up(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("not a key")
    symmetric = tmp_path / "jwks.json"
    symmetric.write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}))
    for given in (
        settings(public_key=str(file)),
        settings(public_key=str(tmp_path / "absent")),
        settings(public_key="", jwks_file=str(symmetric)),
        settings(public_key="", jwks_file=str(file)),
    ):
        with pytest.raises(ConfigError, match="jwt"):
            Tokens(given).check()


def test_settings_name_one_source_of_keys_and_no_private_one():
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for wrong in (
        {"public_key": ""},
        {"public_key": pem(RSA), "jwks_file": "jwks.json"},
        {"public_key": private},
    ):
        with pytest.raises(ValueError, match="public_key"):
            settings(**wrong)
