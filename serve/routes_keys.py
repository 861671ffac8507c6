"""API keys over HTTP: made, listed, rolled, revoked. A secret is shown once, in the answer that makes it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from hive_ray.control.api_secrets import Minted, digest, mint, pepper_of
from hive_ray.control.queries import ListKeys, WhoAmI
from hive_ray.control.views import KeyView
from hive_ray.core.commands import CreateKey, RevokeKey, RollKey
from hive_ray.core.principals import Principal
from serve import shapes
from serve.backend import Backend
from serve.bodies import NewKey, Roll
from serve.routes_runs import answer, backend_of, listed

router = APIRouter(prefix="/v1", tags=["keys"])


@router.get("/whoami", summary="Whom this credential belongs to")
async def whoami(request: Request) -> Response:
    found: Principal = await backend_of(request).read(WhoAmI(), Principal)
    told = {"principal": found.name, "team": found.team, "scopes": found.scopes, "roles": found.roles}
    return answer(told)


@router.get("/keys", summary="All API keys, those that have ended too")
async def list_keys(request: Request) -> Response:
    return await listed(request, "keys", ListKeys(), list[KeyView], _told)


@router.post("/keys", status_code=201, summary="Make an API key")
async def create_key(request: Request, body: NewKey) -> Response:
    """``secret`` is in this answer and nowhere else. With the first key requests without one are refused."""
    backend = backend_of(request)
    minted = mint()
    command = CreateKey(
        minted.id,
        body.name or minted.id,
        body.team or "",
        tuple(dict.fromkeys(body.scopes)),
        await _digest(backend, minted),
        tuple(dict.fromkeys(body.roles)),
        _from_now_us(body.ttl_s) if body.ttl_s else 0,
    )
    view: KeyView = await backend.read(command, KeyView)
    return _shown_once(view, minted, 201)


@router.post("/keys/{key_id}/roll", summary="Give a key a new secret")
async def roll_key(request: Request, key_id: str, body: Roll | None = None) -> Response:
    """The old secret ends at once, or after ``grace_s``."""
    backend = backend_of(request)
    minted = mint(key_id)
    until_us = _from_now_us(body.grace_s) if body and body.grace_s else 0
    view: KeyView = await backend.read(RollKey(key_id, await _digest(backend, minted), until_us), KeyView)
    return _shown_once(view, minted, 200)


@router.delete("/keys/{key_id}", summary="Revoke a key")
async def revoke_key(request: Request, key_id: str) -> Response:
    """At once, for good; what it began goes on."""
    view: KeyView = await backend_of(request).read(RevokeKey(key_id), KeyView)
    return answer(_told(view))


async def _digest(backend: Backend, minted: Minted) -> bytes:
    pepper = await asyncio.to_thread(pepper_of, backend.keyring)
    return digest(pepper, minted.secret)


def _from_now_us(seconds: float) -> int:
    return time.time_ns() // 1000 + int(seconds * 1e6)


def _shown_once(view: KeyView, minted: Minted, status: int) -> Response:
    """Past the masking, which knows what keys look like; and past every cache."""
    body = msgspec.json.encode(_told(view) | {"secret": minted.secret})
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def _told(key: KeyView) -> dict[str, Any]:
    now_us = time.time_ns() // 1000
    expired = 0 < key.expires_us <= now_us
    return {
        "key_id": key.key_id,
        "name": key.name,
        "team": key.team,
        "scopes": key.scopes,
        "roles": key.roles,
        "status": "revoked" if key.revoked_us else "expired" if expired else "valid",
        "created_at": shapes.iso(key.created_us),
        "created_by": key.created_by or None,
        "expires_at": shapes.iso(key.expires_us),
        "rolled_at": shapes.iso(key.rolled_us),
        "old_secret_until": shapes.iso(key.old_until_us) if key.old_until_us > now_us else None,
        "revoked_at": shapes.iso(key.revoked_us),
        "revoked_by": key.revoked_by or None,
        "last_used_on": shapes.day(key.used_us),
    }
