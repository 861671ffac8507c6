"""The `auth` section of ``hive.yaml``: who may ask, and how that is known."""

from __future__ import annotations

from typing import Annotated

from pydantic import NonNegativeFloat, StringConstraints, ValidationInfo, field_validator, model_validator

from hive_ray.config_base import Secret, Section, absolute, refuse

Claim = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ClaimsSettings(Section):
    """Where a token says what; dots lead into nested claims (`realm_access.roles`)."""

    team: Claim = "team"
    """Claim with the team's name."""
    roles: Claim = "roles"
    """Claim with the roles: a list, or text with spaces."""
    scopes: Claim = "scope"
    """Claim with the scopes: a list, or text with spaces. What is no scope of hive_ray is passed over."""


class JwtSettings(Section):
    """Tokens (JWT) of people who sign in elsewhere, verified with the issuer's public keys."""

    issuer: Annotated[str, StringConstraints(min_length=1)]
    """What `iss` must be."""
    audience: Annotated[str, StringConstraints(min_length=1)]
    """What `aud` must hold."""
    public_key: str = ""
    """The issuer's public key: PEM text, or the path of a file with it. RSA, EC or Ed25519."""
    jwks_file: str = ""
    """Instead: a file with the issuer's JSON Web Key Set. It is read again when it changes."""
    claims: ClaimsSettings = ClaimsSettings()
    leeway_s: NonNegativeFloat = 30.0
    """Seconds by which the issuer's clock may be off."""

    @field_validator("public_key")
    @classmethod
    def _pem_or_path(cls, key: str, info: ValidationInfo) -> str:
        return key if not key or key.lstrip().startswith("-----BEGIN") else absolute(key, info)

    @field_validator("jwks_file")
    @classmethod
    def _absolute_file(cls, path: str, info: ValidationInfo) -> str:
        return absolute(path, info) if path else path

    @model_validator(mode="after")
    def _one_source(self) -> JwtSettings:
        if bool(self.public_key) == bool(self.jwks_file):
            refuse("needs exactly one of public_key and jwks_file", "keep one of them")
        if "PRIVATE KEY" in self.public_key:
            refuse("public_key holds a private key", "write the public one: the issuer keeps the private key")
        return self


class AuthSettings(Section):
    """Who may ask. Without keys and on loopback: whoever reaches the port, for team `default`, everything."""

    required: bool = False
    """Refuse whoever has no key, from the first start on. A listener that is not loopback, tokens, and the
    first key that is made have the same effect."""
    jwt: JwtSettings | None = None
    """Let people in by tokens besides API keys."""
    door_secret: Secret | None = None
    """Reference to a secret with which the HTTP face proves itself to the controller. By default `up` makes
    one for each start; on a cluster that was there before (`--address`) it follows from the state's keys,
    which workers have too: where tools run on nodes of their own, give the others a secret by reference."""
