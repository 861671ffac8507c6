"""Lines for a terminal."""

from __future__ import annotations

from typing import Any

from hive_ray.progress import needs

WAIT: dict[str, Any] = {
    "approval_id": "r.1", "run_id": "r", "node": "review", "reason": "approval", "need": "may it go out?",
    "since": "2026-01-01", "deadline_at": "2026-01-02", "owner": "", "answers": ["approve", "reject"],
    "shown": {"draft": "Dear Ann", "score": {"spam": 0.1}},
}  # fmt: skip


def test_who_decides_sees_what_is_decided():
    """Text as it is, anything else as JSON, between the question and the commands that answer it."""
    told = list(needs({"paused": False, "waits": [WAIT]}))

    assert told[1:3] == ["  draft: Dear Ann", '  score: {"spam": 0.1}']
    assert told[-2:] == ["    hive-ray approve r.1", "    hive-ray reject r.1 --comment WHY"]
