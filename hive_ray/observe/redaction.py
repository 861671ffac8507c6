"""The one redaction: what may leave the process as readable text.

Logs, observers and the codec's readable fields all pass through ``redact``. It knows exact secret
values (registered when a reference is resolved), names of keys that hold secrets, and the shapes
of well-known tokens. Applying it twice changes nothing.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

MASK = "[redacted]"
MIN_SECRET_CHARS = 4
"""Shorter values are no secrets: masking them everywhere would only make texts unreadable."""
LONG_SECRET_CHARS = 12
"""From this length on a secret stands nowhere by chance: it is masked in users' values too."""
MAX_DEPTH = 40
"""Anything nested deeper is masked whole: redaction must end on every value."""

_SECRET_WORDS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "access_key",
    "private_key",
    "authorization",
    "cookie",
    "credential",
    "credentials",
)
_HARMLESS_KEYS = frozenset({"page_token", "next_page_token", "sync_token", "continuation_token"})
"""End like a secret's name, and are positions in a listing that graphs branch on."""

_TOKENS = re.compile(
    r"\b(?:sk|rk|pk)[-_][A-Za-z0-9_-]{12,}"
    r"|\bgh[opsur]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bhrk_[A-Za-z0-9_]{12,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
_TOKEN_STARTS = (
    "sk-",
    "sk_",
    "rk_",
    "pk_",
    "pk-",
    "rk-",
    "gh",
    "glpat-",
    "hrk_",
    "AKIA",
    "ASIA",
    "xox",
    "AIza",
    "eyJ",
    "PRIVATE KEY",
)
"""One of these stands in every match of ``_TOKENS``; looking for them is far cheaper."""
_BEARER = re.compile(r"\b(bearer|basic)\s+(?!\[redacted\])[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_USERINFO = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")
_HEADER = re.compile(r"((?:authorization|cookie)[\"']?\s*[:=]\s*[\"']?)([^\r\n\"',}]+)", re.IGNORECASE)


_OWN_KEYS = re.compile(rb"\bhrk_[a-z2-7]{12}_[0-9A-Za-z]{40,60}")
"""``control.api_secrets``, with a few more or fewer characters."""
_NUMBER = re.compile(r"[0-9eE.+-]+")
"""Could be a number in JSON, where a mask would not be JSON."""


class Redactor:
    """Secret values and key names known so far; ``redact`` below is the process's own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._words: set[str] = set(_SECRET_WORDS)
        self._exact: re.Pattern[str] | None = None
        self._long: set[bytes] = set()
        self._exact_bytes: re.Pattern[bytes] | None = None
        self._keys: dict[str, bool] = {}
        self._compile()

    def add_values(self, values: Iterable[str]) -> None:
        """Mask these values wherever they occur, also inside JSON, URLs and base64."""
        with self._lock:
            for value in values:
                if len(value) >= MIN_SECRET_CHARS:
                    self._values.update(_spellings(value))
                if len(value) >= LONG_SECRET_CHARS and not _NUMBER.fullmatch(value):
                    self._long.update(spelling.encode() for spelling in _spellings(value))
            self._compile()

    def add_key_names(self, names: Iterable[str]) -> None:
        """Mask what stands under keys that end in one of these names."""
        with self._lock:
            self._words.update(_normal(name) for name in names)
            self._compile()

    def _compile(self) -> None:
        # Longest first: one secret may be the beginning of another.
        ordered = sorted(self._values, key=lambda value: (-len(value), value))
        self._exact = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        longest = sorted(self._long, key=lambda value: (-len(value), value))
        self._exact_bytes = re.compile(b"|".join(map(re.escape, longest))) if longest else None
        words = "|".join(re.escape(word).replace("_", "[-_ ]?") for word in sorted(self._words))
        self._assignment = re.compile(rf"({words})([\"']?\s*[:=]\s*[\"']?)([^\s\"',;&}}\])]+)", re.IGNORECASE)
        # Most texts hold none of these pieces; looking for them is far cheaper than the pattern.
        self._pieces = tuple(sorted({max(word.split("_"), key=len) for word in self._words}))
        self._keys = {}

    def is_secret_key(self, key: str) -> bool:
        known = self._keys.get(key)
        if known is None:
            known = self._judge(_normal(key))
            if len(self._keys) < 4096:
                self._keys[key] = known
        return known

    def _judge(self, name: str) -> bool:
        if name in _HARMLESS_KEYS:
            return False
        return any(name == word or name.endswith("_" + word) for word in self._words)

    def text(self, text: str) -> str:
        if self._exact is not None:
            text = self._exact.sub(MASK, text)
        if any(start in text for start in _TOKEN_STARTS):
            text = _TOKENS.sub(MASK, text)
        if ":" not in text and "=" not in text and " " not in text:
            return text
        text = _BEARER.sub(rf"\1 {MASK}", text)
        if "://" in text:
            text = _USERINFO.sub(rf"\1{MASK}@", text)
        lower = text.lower()
        if not any(piece in lower for piece in self._pieces):
            return text
        text = _HEADER.sub(rf"\1{MASK}", text)
        return self._assignment.sub(self._mask_assigned, text)

    def mask_bytes(self, data: bytes) -> bytes:
        """Encoded JSON without the exact values of long secrets and without our API keys; all else stays."""
        if b"hrk_" in data:
            data = _OWN_KEYS.sub(MASK.encode(), data)
        return data if self._exact_bytes is None else self._exact_bytes.sub(MASK.encode(), data)

    def _mask_assigned(self, match: re.Match[str]) -> str:
        key, sign, value = match.groups()
        text, start = match.string, match.start()
        while start and (text[start - 1].isalnum() or text[start - 1] in "_-"):
            start -= 1
        if (
            not self.is_secret_key(text[start : match.end(1)])
            or value in ("None", "null", "true", "false")
            or MASK.startswith(value)
        ):
            return match.group()
        return f"{key}{sign}{MASK}"

    def redact(self, value: Any, depth: int = 0) -> Any:
        """The same value with every secret masked; keys and shapes stay.

        Args:
            value: JSON, or anything else, which is turned into its ``repr`` first.
        """
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth >= MAX_DEPTH:
            return MASK
        if isinstance(value, Mapping):
            return self._mapping(cast("Mapping[Any, Any]", value), depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            return [self.redact(item, depth + 1) for item in cast("Sequence[Any]", value)]
        if isinstance(value, bytes | bytearray):
            return self.text(value.decode("utf-8", "replace"))
        return self.text(repr(value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, item in value.items():
            name = key if isinstance(key, str) else str(key)
            hidden = item is not None and not isinstance(item, bool) and self.is_secret_key(name)
            out[self.text(name)] = MASK if hidden else self.redact(item, depth)
        return out


def _normal(key: str) -> str:
    """``X-Api-Key``, ``apiKey`` and ``API KEY`` are one name."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return re.sub(r"[^a-z0-9]+", "_", snake.lower()).strip("_")


def _spellings(value: str) -> set[str]:
    """The value as it looks inside JSON, a URL, a ``repr`` and base64."""
    encoded = base64.b64encode(value.encode()).decode()
    return {value, json.dumps(value)[1:-1], quote(value, safe=""), repr(value)[1:-1], encoded}


_process = Redactor()
register_secrets = _process.add_values
register_key_names = _process.add_key_names
redact = _process.redact
redact_text = _process.text
mask_bytes = _process.mask_bytes
