"""Lines for a terminal."""

from __future__ import annotations

from typing import Any

from hive_ray.progress import line, needs

WAIT: dict[str, Any] = {
    "approval_id": "r.1", "run_id": "r", "node": "review", "reason": "approval", "need": "may it go out?",
    "since": "2026-01-01", "deadline_at": "2026-01-02", "owner": "", "answers": ["approve", "reject"],
    "shown": {"draft": "Dear Ann", "score": {"spam": 0.1}}, "asked": [""], "chain": [], "finally": "fail",
    "four_eyes": False, "edit": None,
}  # fmt: skip


def test_who_decides_sees_what_is_decided():
    """Text as it is, anything else as JSON, between the question and the commands that answer it."""
    told = list(needs({"paused": False, "waits": [WAIT]}))

    assert told[1:3] == ["  draft: Dear Ann", '  score: {"spam": 0.1}']
    assert told[-2:] == ["    hive-ray approve r.1", "    hive-ray reject r.1 --comment WHY"]


def test_what_policies_said_is_told_unless_what_follows_tells_it():
    """An allow, a rung, and rules that had no answer; not that a person is asked."""
    base = {"kind": "PolicyDecided", "time": "2026-01-01T10:04:11.120Z", "node": "pay", "rules": ["a"]}
    told = [
        line({**base, "effect": "allow", "rule": "a"}),
        line({**base, "level": 2}),
        line({**base, "effect": "deny", "rule": "a", "errors": ["a"]}),
        line({**base, "effect": "require_approval", "rule": "a"}),
        line({**base, "kind": "StepRouted", "pool": "slow"}),
    ]

    assert [text[19 + 14 :].strip() for text in told] == [
        "allowed by policy a",
        "policies put it on rung 2",
        "policies were asked; without an answer: a",
        "",
        "is sent to pool slow by a policy",
    ]
