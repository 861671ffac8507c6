"""Artifacts: files that steps make. They travel with a step's success and stand in the root run.

An artifact's bytes are a blob of its run, written by the worker before it reports. What an attempt made
counts only if that attempt's success does. Everything that an artifact says of itself is content.
"""

from __future__ import annotations

import msgspec

ID_PREFIX = "art-"
"""Ids are ``art-1``, ``art-2``, … in the order in which steps succeeded; no name may look like one."""


class Artifact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file as its worker tells of it."""

    name: str
    media_type: str
    size: int
    """Bytes."""
    digest: str
    """Hex SHA-256 of its bytes."""
    blob: str
    node: str = ""
    """Id of the node whose step made it."""


class KeptArtifact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An artifact of a run or of one of its child runs, as the root run keeps it."""

    id: str
    artifact: Artifact
    run: str
    serial: int
    call: int
    attempt: int
    at_us: int
    """Wall time of the step's success."""


class ArtifactBounds(msgspec.Struct, frozen=True):
    """What one run with its children may keep."""

    most: int = 256
    bytes: int = 256 * 1024 * 1024


def excess(kept: list[KeptArtifact], more: tuple[Artifact, ...], bounds: ArtifactBounds) -> str:
    """Why a run may not keep these too; empty if it may."""
    if len(kept) + len(more) > bounds.most:
        return (
            f"the run has {len(kept)} artifacts and this step made {len(more)} more: at most {bounds.most} "
            "are kept (limits.run_artifacts)"
        )
    size = sum(item.artifact.size for item in kept)
    added = sum(item.size for item in more)
    if size + added > bounds.bytes:
        return (
            f"the run's artifacts have {size} bytes and this step made {added} more: at most {bounds.bytes} "
            "are kept (limits.run_artifact_bytes)"
        )
    return ""


def keep(
    kept: list[KeptArtifact], made: tuple[Artifact, ...], step: tuple[str, int, int, int], at_us: int
) -> None:
    """Add what a step's attempt ``(run, serial, call, attempt)`` made."""
    for artifact in made:
        kept.append(KeptArtifact(f"{ID_PREFIX}{len(kept) + 1}", artifact, *step, at_us))
