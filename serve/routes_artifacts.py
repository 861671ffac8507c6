"""Artifacts over HTTP: the files that a run's steps made, listed and downloaded."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from hive_ray.core.artifacts import Artifact, KeptArtifact
from hive_ray.core.run import root_of
from hive_ray.errors import NotFound, ObjectMissing
from hive_ray.state.blobs import BlobRef
from serve import shapes
from serve.backend import Backend
from serve.routes_runs import answer, backend_of

router = APIRouter(prefix="/v1/runs", tags=["artifacts"])

CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@router.get("/{run_id}/artifacts", summary="Files that a run made")
async def list_artifacts(request: Request, run_id: str) -> Response:
    """A root run shows those of its child runs too; in the order in which steps succeeded."""
    found = await _artifacts(backend_of(request), run_id)
    return answer({"run_id": run_id, "artifacts": [shape(item) for item in found]})


@router.get("/{run_id}/artifacts/{name}", summary="Download one")
async def get_artifact(
    request: Request,
    run_id: str,
    name: str,
    if_none_match: Annotated[str, Header()] = "",
    byte_range: Annotated[str, Header(alias="Range")] = "",
) -> Response:
    """By id, or by name: the newest of that name. ``ETag`` is the SHA-256 of the bytes."""
    backend = backend_of(request)
    kept = _chosen(await _artifacts(backend, run_id), run_id, name)
    headers = _headers(kept.artifact)
    if if_none_match and headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    data = await _bytes(backend, kept)
    part = _part(byte_range, len(data))
    if part is None:
        return Response(None, 416, {"Content-Range": f"bytes */{len(data)}"})
    start, stop = part
    status = 206 if byte_range and (start, stop) != (0, len(data)) else 200
    headers["Content-Length"] = str(stop - start)
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return StreamingResponse(_chunks(data, start, stop), status, headers)


def shape(kept: KeptArtifact) -> dict[str, Any]:
    """An artifact as it is listed."""
    made = kept.artifact
    return {
        "artifact_id": kept.id,
        "name": made.name,
        "media_type": made.media_type,
        "size_bytes": made.size,
        "sha256": made.digest,
        "run_id": kept.run,
        "node": made.node,
        "visit": kept.serial,
        "call": kept.call,
        "attempt": kept.attempt,
        "made_at": shapes.iso(kept.at_us),
    }


async def _artifacts(backend: Backend, run_id: str) -> list[KeptArtifact]:
    root = root_of(run_id)
    view = await backend.run(run_id)
    if root == run_id:
        return list(view.artifacts)
    whole = await backend.run(root)
    return [kept for kept in whole.artifacts if kept.run == run_id or _descends(kept.run, run_id)]


def _descends(run: str, ancestor: str) -> bool:
    return run.startswith(ancestor) and not run[len(ancestor)].isalnum()


def _chosen(found: list[KeptArtifact], run_id: str, name: str) -> KeptArtifact:
    for kept in found:
        if kept.id == name:
            return kept
    for kept in reversed(found):
        if kept.artifact.name == name:
            return kept
    # The name is content: the answer does not repeat it.
    raise NotFound(f"run {run_id} has no artifact of that name or id; it has {len(found)}: list them")


async def _bytes(backend: Backend, kept: KeptArtifact) -> bytes:
    ref = BlobRef(kept.artifact.blob, kept.artifact.size)
    try:
        return await asyncio.to_thread(backend.blobs.get, ref)
    except ObjectMissing as error:
        raise NotFound(f"the bytes of {kept.id} are gone: forgotten, or past their retention") from error


def _headers(made: Artifact) -> dict[str, str]:
    """What a browser may do with it: save it, under its name, and nothing else."""
    digest = base64.b64encode(bytes.fromhex(made.digest)).decode()
    return {
        # Here and not as the response's type, which would say of every text that it is UTF-8.
        "Content-Type": made.media_type,
        "ETag": f'"{made.digest}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Content-Disposition": disposition(made.name),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
    }


def disposition(name: str) -> str:
    """``attachment`` under a name (RFC 6266): an ASCII form without quotes, and all of it encoded."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _part(given: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the one range that is served; whole for anything odd, None if it lies outside."""
    match = _RANGE.fullmatch(given.strip())
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    return (start, stop) if start < stop else None


def _chunks(data: bytes, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, CHUNK_BYTES):
        yield data[at : min(at + CHUNK_BYTES, stop)]
