"""The functions of hello.yaml."""

from __future__ import annotations

import hive_ray as hive


@hive.function(idempotent=True)
def greet(name: str) -> str:
    return f"Hello, {name}!"


@hive.function(idempotent=True)
def measure(greeting: str) -> int:
    return sum(letter.isalpha() for letter in greeting)
