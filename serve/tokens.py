"""Tokens (JWT) of people who signed in elsewhere: verified here, and turned into principals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import AllowedPublicKeys

from hive_ray.config_auth import JwtSettings
from hive_ray.core.principals import SCOPES, Principal
from hive_ray.errors import ConfigError, Fault

RSA = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
LATEST_US = 1 << 62
NEEDED = ("exp", "iss", "aud", "sub")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SUBJECT = re.compile(r"[\x21-\x7e]{1,200}")


class BadToken(Exception):
    """A token that lets nobody in; says why."""


class Tokens:
    """Verifies tokens of one issuer."""

    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._keys: dict[str, AllowedPublicKeys] = {}
        self._read_at = (0, 0)

    def check(self) -> None:
        """Raises ``ConfigError`` unless the issuer's keys can be read."""
        if not self._current_keys():
            raise _fault("auth.jwt.jwks_file", f"{self._settings.jwks_file} holds no public key")

    def principal(self, token: str) -> tuple[Principal, int]:
        """Who a token names, and until when (microseconds of the wall clock).

        Raises:
            BadToken: it is not the issuer's, not for us, expired, or says too little.
            ConfigError: the issuer's keys cannot be read.
        """
        keys = self._current_keys()
        settings = self._settings
        try:
            key = self._key(token, keys)
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms_of(key),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": list(NEEDED)},
            )
        except jwt.PyJWTError as error:
            raise BadToken(f"the token is refused: {error}") from error
        until_us = (int(claims["exp"]) + int(settings.leeway_s)) * 1_000_000
        return self._named(claims), min(until_us, LATEST_US)

    def _key(self, token: str, keys: Mapping[str, AllowedPublicKeys]) -> AllowedPublicKeys:
        """The key that a token says it was signed with; the only one, if there is only one."""
        if len(keys) == 1:
            return next(iter(keys.values()))
        header: Mapping[str, Any] = jwt.get_unverified_header(token)
        kid = str(header.get("kid"))
        if kid not in keys:
            raise BadToken(f"the token is signed with key {kid[:80]!r}, which is not the issuer's")
        return keys[kid]

    def _named(self, claims: Mapping[str, Any]) -> Principal:
        names = self._settings.claims
        subject, team = str(claims["sub"]), claim(claims, names.team)
        if not _SUBJECT.fullmatch(subject):
            raise BadToken("the token's sub is empty, too long, or holds spaces")
        if not isinstance(team, str) or not _NAME.fullmatch(team):
            raise BadToken(f"the token names no team (claim {names.team})")
        scopes = tuple(scope for scope in _words(claim(claims, names.scopes)) if scope in SCOPES)
        return Principal(f"user:{subject}", team, scopes, _words(claim(claims, names.roles)))

    def _current_keys(self) -> Mapping[str, AllowedPublicKeys]:
        settings = self._settings
        if not settings.jwks_file:
            if not self._keys:
                self._keys = {"": _public_key(settings.public_key)}
            return self._keys
        try:
            stat = Path(settings.jwks_file).stat()
            if (stat.st_mtime_ns, stat.st_ino) != self._read_at:
                self._keys = _key_set(Path(settings.jwks_file).read_text("utf-8"))
                self._read_at = (stat.st_mtime_ns, stat.st_ino)
        except (OSError, ValueError, jwt.PyJWTError) as error:
            # An issuer's file that is being replaced must not lock everybody out.
            if not self._keys:
                raise _fault(
                    "auth.jwt.jwks_file", f"{settings.jwks_file} holds no key set: {error}"
                ) from error
        return self._keys


def algorithms_of(key: AllowedPublicKeys) -> list[str]:
    """Those that go with a public key. The token does not choose: with a shared secret, or with none, whoever
    verifies could sign, too."""
    if isinstance(key, RSAPublicKey):
        return RSA
    if isinstance(key, EllipticCurvePublicKey):
        return [CURVES[key.curve.name]] if key.curve.name in CURVES else []
    return ["EdDSA"]


def _public_key(given: str) -> AllowedPublicKeys:
    try:
        pem = given if "-----BEGIN" in given else Path(given).read_text("utf-8")
        return cast("AllowedPublicKeys", load_pem_public_key(pem.encode()))
    except (OSError, ValueError) as error:
        raise _fault("auth.jwt.public_key", f"is no public key: {error}") from error


def _key_set(text: str) -> dict[str, AllowedPublicKeys]:
    keys = jwt.PyJWKSet.from_dict(json.loads(text)).keys
    # A symmetric key in the set is nobody's public key.
    return {key.key_id or "": key.key for key in keys if key.key_type != "oct"}


def _fault(place: str, problem: str) -> ConfigError:
    remedy = "write the issuer's public key (PEM), or the path of its JSON Web Key Set"
    return ConfigError("configuration", [Fault(place, problem, remedy)])


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by its path through nested ones."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = cast("Mapping[str, Any]", found).get(part) if isinstance(found, Mapping) else None
    return found


def _words(given: Any) -> tuple[str, ...]:
    """Text with spaces, or a list of texts; as one value of a header would hold them."""
    words = given.split() if isinstance(given, str) else given
    if not isinstance(words, list):
        return ()
    return tuple(
        word for word in cast("list[Any]", words) if isinstance(word, str) and _SUBJECT.fullmatch(word)
    )
