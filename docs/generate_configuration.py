"""Write ``docs/configuration.md`` from the settings: ``python -m docs.generate_configuration``."""

from __future__ import annotations

import re
from collections import abc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hive_ray.config import Section, Settings

PAGE = Path(__file__).with_name("configuration.md")

_HEAD = """# Configuration

<!-- Generated from hive_ray/config.py by `python -m docs.generate_configuration`; a test compares them. -->

One file, `hive.yaml`: the one that an option or `HIVE_RAY_CONFIG` names, else the one in the current folder,
else every default below. Keys that are not listed here are refused, by name. Paths are seen from the file's
folder.

A secret is written as a reference, never as its value: `env:NAME` (an environment variable) or `file:PATH`.

```yaml
environment: production
state: {url: "s3://acme-agents/hive"}
keys: {key: "env:HIVE_RAY_KEY"}
models:
  fast: {provider: openai, model: gpt-4o-mini, api_key: "env:OPENAI_API_KEY"}
  local: {provider: openai-compatible, model: smollm2, base_url: "http://127.0.0.1:8080/v1",
          input_usd_per_mtok: 0, output_usd_per_mtok: 0}
default_model: fast
pools:
  llm: {workers: {min: 1, max: 4}}
tools:
  modules: [tools.py]
  mcp:
    time: {command: [mcp-server-time], allow_annotations: true}
```
"""


def page() -> str:
    """The page as Markdown: one table for each section, in the order of the file."""
    return "\n".join([_HEAD, *_section("hive.yaml", Settings, "")])


def _section(title: str, model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield f"## `{title}`\n"
    yield f"{_prose(model.__doc__ or '')}\n"
    yield "| key | default | meaning |\n|---|---|---|"
    nested: list[tuple[str, type[BaseModel]]] = []
    for field, info in model.model_fields.items():
        name = info.alias or field
        inner = _model_in(info.annotation)
        if inner is not None:
            nested.append((f"{prefix}{name}{_many(info.annotation)}", inner))
        meaning = info.description or _prose(inner.__doc__ or "" if inner else "")
        yield f"| `{name}` | {_default(info)} | {_prose(meaning)} |"
    yield ""
    for path, inner in nested:
        yield from _section(path, inner, f"{path}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, itself or as the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((model for arg in get_args(annotation) if (model := _model_in(arg))), None)


def _many(annotation: Any) -> str:
    """How one of several sections under a key is told apart: by name, by position, or not at all."""
    return {abc.Mapping: ".NAME", tuple: "[]"}.get(get_origin(annotation), "")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required" if not _follows_kind(info) else "by kind"
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel) or value in (None, "", (), {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:,}`" if isinstance(value, int | float | Decimal) and value > 9_999 else f"`{value}`"


def _follows_kind(info: FieldInfo) -> bool:
    return "By default" in (info.description or "")


def _prose(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
