"""What an attempt under way holds on the accounts above it."""

from __future__ import annotations

import msgspec


class Hold(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """From the start of an attempt until it is settled."""

    nanousd: int = 0
    """Its worst case."""
    tokens: int = 0
    likely_nanousd: int = 0
    """What it will hardly pass, as far as experience goes."""
    likely_tokens: int = 0
    at_us: int = 0
    """Wall time of its start: the windows that it is charged to."""
    pool: str = ""
    subject: str = ""
    """``model/NAME`` or ``tool/NAME``."""
