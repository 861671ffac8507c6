"""What every section of ``hive.yaml`` is made of: frozen mappings, names, and references to secrets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is to be found: ``env:NAME`` or ``file:PATH``. It never holds the value."""

    scheme: Literal["env", "file"]
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"

    def __repr__(self) -> str:
        return f"SecretRef({self!s})"


def refuse(problem: str, remedy: str) -> NoReturn:
    raise PydanticCustomError("fault", "{problem}", {"problem": problem, "remedy": remedy})


def secret_ref(value: Any, info: ValidationInfo) -> SecretRef:
    """Parse a reference; a message never repeats what may be a secret."""
    if isinstance(value, SecretRef):
        return value
    scheme, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if scheme == "vault":
        refuse("vault: references are not supported yet", "write env:NAME or file:PATH")
    if scheme == "env" and name:
        return SecretRef("env", name)
    if scheme == "file" and name:
        return SecretRef("file", absolute(name, info))
    refuse("is not a reference to a secret", "write env:NAME or file:PATH, never the secret itself")


def absolute(path: str, info: ValidationInfo) -> str:
    """A path as seen from the folder of ``hive.yaml``."""
    folder = (info.context or {}).get("folder")
    return str(Path(folder, path)) if folder else path


def text_or_ref(value: Any, info: ValidationInfo) -> str | SecretRef:
    if isinstance(value, str) and not value.startswith(("env:", "file:", "vault:")):
        return value
    return secret_ref(value, info)


Secret = Annotated[SecretRef, PlainValidator(secret_ref), PlainSerializer(str, return_type=str)]
TextOrSecret = Annotated[str | SecretRef, PlainValidator(text_or_ref), PlainSerializer(str, return_type=str)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


class Section(BaseModel):
    """A mapping in ``hive.yaml``: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )
