"""Many runs in one request: what the SDK sends, page by page, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

Json = Any
Post = Callable[[str, Json], Json]
"""Sends a body to a path, and gives the answer's."""

AT_ONCE = 1000
"""Submissions in one request."""
Verb = Literal["cancel", "resume"]


def submitted(post: Post, bodies: Sequence[Mapping[str, Json]]) -> Iterator[dict[str, Json]]:
    """The answer to each submission, in order: with ``status`` 202 and ``run_id``, or a problem."""
    for start in range(0, len(bodies), AT_ONCE):
        yield from post("/v1/runs:batch", {"runs": list(bodies[start : start + AT_ONCE])})["runs"]


def steered(post: Post, verb: Verb, selection: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """The answers for all runs of a selection, each with counts, ``runs`` and ``problems``."""
    cursor = ""
    while cursor is not None:
        page = post(f"/v1/runs:{verb}", {**selection, "cursor": cursor})
        yield page
        cursor = page["next_cursor"]


def totals(pages: Iterator[dict[str, Json]]) -> dict[str, Json]:
    """All pages as one answer."""
    told: dict[str, Json] = {"selected": 0, "done": 0, "refused": 0, "runs": [], "problems": []}
    for page in pages:
        for key in told:
            told[key] += page[key]
    return told
