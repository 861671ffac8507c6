"""Long-term memory over HTTP: values by key, for one run, one agent, or the team."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response

from hive_ray.control.queries import GetMemory, ListMemory
from hive_ray.control.views import MemoryView
from hive_ray.core.commands import DeleteMemory, PutMemory
from hive_ray.core.longterm import ABSENT, ANY_VERSION, blob_owner
from hive_ray.core.values import INLINE_LIMIT_BYTES, Value, stored
from hive_ray.errors import NotFound
from hive_ray.graph.memory_keys import BadAddress, check_key, check_scope
from serve import shapes
from serve.backend import Backend, check_size
from serve.bodies import MemoryValue
from serve.caller import team
from serve.problems import invalid
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1/memory", tags=["memory"])

_ETAG = re.compile(r'(?:W/)?"v([0-9]{1,18})"')
_encode = msgspec.msgpack.Encoder().encode
IfMatch = Annotated[str, Header(alias="If-Match")]
IfNoneMatch = Annotated[str, Header(alias="If-None-Match")]


@router.get("/{scope}/{owner}", summary="Keys of an owner, in order")
async def list_memory(
    request: Request,
    scope: str,
    owner: str,
    prefix: str = "",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """``next_after`` of one page is ``after`` of the next; it is null on the last."""
    query = ListMemory(_scope(scope), _owner(scope, owner), prefix, after, limit)
    found: list[MemoryView] = await backend_of(request).read(query, list[MemoryView])
    following = found[-1].key if len(found) == limit else None
    return answer({"keys": [_line(view) for view in found], "next_after": following})


@router.get("/{scope}/{owner}/{key:path}", summary="A value")
async def get_memory(request: Request, scope: str, owner: str, key: str) -> Response:
    """``ETag`` is its version: give it back as ``If-Match``."""
    backend = backend_of(request)
    query = GetMemory(_scope(scope), _owner(scope, owner), _key(key))
    view: MemoryView = await backend.read(query, MemoryView)
    value = (await backend.loaded({"value": view.value}))["value"]
    return answer(_line(view) | {"value": value}, 200, _etag(view))


@router.put("/{scope}/{owner}/{key:path}", summary="Write a value")
async def put_memory(
    request: Request,
    scope: str,
    owner: str,
    key: str,
    body: MemoryValue,
    if_match: IfMatch = "",
    if_none_match: IfNoneMatch = "",
) -> Response:
    """412 unless ``If-Match`` names the version that is there; ``If-None-Match: *`` asks for none."""
    backend = backend_of(request)
    place = (_scope(scope), _owner(scope, owner), _key(key))
    condition = _condition(if_match, if_none_match)
    check_size({"value": body.value}, backend.settings.limits.memory_value_bytes, "body.value")
    value = await _stored(backend, place[0], place[1], body.value)
    command = PutMemory(*place, value, condition, request_id=request.state.request_id)
    view: MemoryView = await backend.read(command, MemoryView)
    return answer(_line(view), 200, _etag(view))


@router.delete("/{scope}/{owner}/{key:path}", status_code=204, summary="Delete a key")
async def delete_memory(
    request: Request, scope: str, owner: str, key: str, if_match: IfMatch = ""
) -> Response:
    """204, also when it is not there."""
    place = (_scope(scope), _owner(scope, owner), _key(key))
    condition = _condition(if_match, "")
    await backend_of(request).read(DeleteMemory(*place, condition, request_id=request.state.request_id), int)
    return Response(status_code=204)


def _line(view: MemoryView) -> dict[str, Any]:
    return {
        "key": view.key,
        "version": view.version,
        "size_bytes": view.value.size,
        "written_at": shapes.iso(view.written_us),
        "written_by": view.writer or None,
    }


def _etag(view: MemoryView) -> dict[str, str]:
    return {"ETag": f'"v{view.version}"'}


def _scope(scope: str) -> str:
    try:
        return str(check_scope(scope))
    except BadAddress as error:
        raise invalid("path.scope", error.problem, error.remedy) from error


def _key(key: str) -> str:
    try:
        return check_key(key)
    except BadAddress as error:
        raise invalid("path.key", error.problem, error.remedy) from error


def _owner(scope: str, owner: str) -> str:
    """The owner as the core knows it: agents are named within their team."""
    if scope == "team" and owner != team():
        raise NotFound(f"no team {owner}; yours is {team()}")
    return f"{team()}/{owner}" if scope == "agent" else owner


def _condition(if_match: str, if_none_match: str) -> int:
    if if_none_match:
        if if_none_match.strip() != "*" or if_match:
            raise invalid("headers.If-None-Match", "means something only as * and alone", "send * or nothing")
        return ABSENT
    if not if_match:
        return ANY_VERSION
    tag = _ETAG.fullmatch(if_match.strip())
    if tag is None:
        raise invalid("headers.If-Match", f"{if_match[:80]!r} is no version", 'send an ETag such as "v7"')
    return int(tag[1])


async def _stored(backend: Backend, scope: str, owner: str, value: Any) -> Value:
    """The value, as a blob if it is large: written before the command leaves."""
    data = _encode(value)
    if len(data) <= INLINE_LIMIT_BYTES:
        return Value(data, "", len(data))
    key = (await backend.run(owner)).content_key if scope == "run" else await backend.sealing.state_key()
    ref = await asyncio.to_thread(backend.blobs.put, blob_owner(scope, owner), data, key)
    return stored(value, ref.name, ref.size)
