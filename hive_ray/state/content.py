"""The one door through which content enters and leaves the store.

Content is what a run is about (inputs, outputs, memory, arguments, error texts, forms, graphs), as opposed
to facts about it (kinds, times, costs), which stay readable. Every sealed value begins with a version
byte; empty content stays empty.
"""

from __future__ import annotations

from typing import Protocol

from hive_ray.errors import StoreError

PLAIN = b"\x00"


class ContentCodec(Protocol):
    """Seals content before it is written and opens it after it is read.

    ``aad`` names the place the content belongs to: run, node, visit, attempt, field. A sealed value
    that turns up in another place does not open.
    """

    def seal(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return the stored form of ``data``."""
        ...

    def open(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return what was sealed for this place; raises ``StoreError`` if that cannot be done."""
        ...


class PlainCodec:
    """Content as it is, behind version byte 0."""

    def seal(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return the stored form of ``data``."""
        return PLAIN + data if data else b""

    def open(self, data: bytes, aad: tuple[str, ...]) -> bytes:
        """Return what was sealed."""
        if not data:
            return b""
        if data[:1] != PLAIN:
            place = "/".join(aad)
            raise StoreError(
                f"content of {place} is sealed in form {data[0]}, which this release cannot open; "
                "start the release that wrote it, or a newer one"
            )
        return data[1:]
