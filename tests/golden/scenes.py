"""What the golden runs do: graphs, their Python functions, and what their model says.

Golden states outlive the release that made them, so what stands here may grow and must never change: later
releases lead the same runs to their end with the same functions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.cluster.scripts import agent, asks, calls, sets
from tests.servers.aimock import Fixture

TOOLS = '''
import time
from pathlib import Path

import hive_ray as hive

HERE = Path(__file__).parent


@hive.function(idempotent=True)
def greet(name: str):
    return {"greeting": f"hello {name}"}


@hive.function(idempotent=True)
def shout(greeting: str):
    return {"shouted": greeting.upper()}


@hive.function(idempotent=True)
def boom(name: str):
    raise ValueError(f"no {name} today")


@hive.function(idempotent=True)
def write_much(name: str):
    return {"text": name * 10_000}


@hive.function(idempotent=True)
def count(text: str):
    return {"length": len(text)}


@hive.function(idempotent=True, timeout_s=600)
def await_file(name: str):
    while not (HERE / name).exists():
        time.sleep(0.02)
    return {"found": name}


@hive.function(idempotent=False, timeout_s=600)
def await_file_once(name: str):
    while not (HERE / name).exists():
        time.sleep(0.02)
    return {"found": name}


@hive.function(idempotent=True)
def await_start(name: str):
    if not (HERE / name).exists():
        raise OSError(f"{name} is not there yet")
    return {"found": name}


@hive.function(idempotent=True)
def square(item: int):
    return {"squared": item * item}


@hive.tool(idempotent=True)
def look_up(topic: str) -> str:
    """Tell what is known of a topic."""
    return f"{topic}: 42"
'''


def function(name: str, inputs: list[str], outputs: list[str], **more: Any) -> dict[str, Any]:
    node = {"id": name, "node_type": "function", "function": name, "max_retries": 0}
    return node | {"input_keys": inputs, "output_keys": outputs} | more


def edge(source: str, target: str) -> dict[str, Any]:
    return {"id": f"{source}-{target}", "source": source, "target": target, "condition": "on_success"}


def _graph(name: str, *nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    ids = [node["id"] for node in nodes]
    edges = [edge(a, b) for a, b in pairwise(ids)]
    return {"id": name, "nodes": list(nodes), "edges": edges} | more


_GREET = function("greet", ["name"], ["greeting"])
_SHOUT = function("shout", ["greeting"], ["shouted"])
_HUMAN = {
    "id": "check",
    "node_type": "human_input",
    "input_keys": ["greeting"],
    "output_keys": ["approved", "feedback"],
    "approval": {"reason": "Is this polite?", "deadline_s": "8700h"},
}


def _map(name: str, body: dict[str, Any]) -> dict[str, Any]:
    node = {"id": "each", "node_type": "map", "map_over": "items", "input_keys": ["items"]}
    return _graph(name, node | {"output_keys": ["results"], "window": 2, "body": body})


GRAPHS: dict[str, dict[str, Any]] = {
    "chain": _graph("chain", _GREET, _SHOUT),
    "large": _graph(
        "large", function("write_much", ["name"], ["text"]), function("count", ["text"], ["length"])
    ),
    "failing": _graph("failing", function("boom", ["name"], ["never"])),
    "asking": _graph("asking", _GREET, _HUMAN, _SHOUT),
    "running": _graph("running", function("await_file", ["name"], ["found"], max_retries=3), _GREET),
    "once": _graph("once", function("await_file_once", ["name"], ["found"]), _GREET),
    "retrying": _graph(
        "retrying",
        function("await_start", ["name"], ["found"], max_retries=3, retry={"base_s": "1h", "cap_s": "2h"}),
    ),
    "mapping": _map("mapping", _graph("squares", function("square", ["item"], ["squared"]))),
    "mapping_files": _map(
        "mapping_files",
        _graph(
            "files", function("await_file", ["item"], ["found"], max_retries=3) | {"input_keys": ["name"]}
        ),
    ),
    "talking": _graph(
        "talking",
        {
            "id": "talk",
            "node_type": "event_loop",
            "client_facing": True,
            "idle_s": "8700h",
            "model": "mock",
            "system_prompt": "Answer the question.",
            "input_keys": ["name"],
            "output_keys": ["answer"],
            "tools": ["look_up"],
        },
    ),
}
GRAPHS["mapping_files"]["nodes"][0]["item_key"] = "name"
for _graph_data in GRAPHS.values():
    _graph_data["budget"] = {"deadline_s": "8700h"}

_TALK = agent("answer")
MODEL: list[Fixture] = [
    {"match": {"systemMessage": _TALK, "userMessage": "enough"}, "response": sets(answer="42")},
    {
        "match": {"systemMessage": _TALK, "hasToolResult": False},
        "response": calls(("look_up", {"topic": "all"})),
    },
    {"match": {"systemMessage": _TALK, "hasToolResult": True}, "response": asks("Will that do?")},
]
PRICES = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 4}
