"""What an LLM says in a run, node by node, as fixtures of aimock.

A request is known by its system prompt, in which every node's output keys stand; within a node the answers
come in order. An answer that is not foreseen is an error of the server, and fails the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.servers.aimock import Fixture

Answer = dict[str, Any]


def calls(*made: tuple[str, Mapping[str, Any]]) -> Answer:
    """A turn that calls tools."""
    return {"toolCalls": [{"name": name, "arguments": dict(arguments)} for name, arguments in made]}


def sets(**outputs: Any) -> Answer:
    """A turn in which an agent gives results."""
    return calls(*(("set_output", {"key": key, "value": value}) for key, value in outputs.items()))


def asks(question: str) -> Answer:
    """A turn in which an agent asks its client."""
    return calls(("ask_user", {"question": question}))


def says(text: str) -> Answer:
    return {"content": text}


def gives(**outputs: Any) -> Answer:
    """A structured answer."""
    return says(json.dumps(outputs))


def agent(*keys: str) -> str:
    """By which an agent loop with those outputs is known."""
    return f"with the tool set_output: {', '.join(keys)}."


def answer(*keys: str) -> str:
    """By which a node is known that answers with one JSON object."""
    return f"with one JSON object that has exactly these keys: {', '.join(keys)}."


def in_turn(system: str, *answers: Answer, **match: Any) -> list[Fixture]:
    """The answers to the requests with that text in their system prompt, in order."""
    return [
        {"match": {"systemMessage": system, "sequenceIndex": i, **match}, "response": response}
        for i, response in enumerate(answers)
    ]


def always(system: str, response: Answer, **match: Any) -> list[Fixture]:
    return [{"match": {"systemMessage": system, **match}, "response": response}]


def after_tool(system: str, call: Answer, then: Answer, **match: Any) -> list[Fixture]:
    """Call a tool, then go on with its result; for any number of runs."""
    return [
        {"match": {"systemMessage": system, "hasToolResult": False, **match}, "response": call},
        {"match": {"systemMessage": system, "hasToolResult": True, **match}, "response": then},
    ]


def joined(*parts: Sequence[Fixture]) -> list[Fixture]:
    return [fixture for part in parts for fixture in part]
