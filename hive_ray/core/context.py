"""The part of a conversation that a model is shown when there is room for less than all of it.

Older turns are left out, whole: a tool call is never parted from its result, and the last turn stays however
long it is. The system prompt and the task are no part of the conversation; they always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hive_ray.core.messages import Turn


class Shown(NamedTuple):
    """What is left of a conversation."""

    turns: Sequence[Turn]
    dropped: int = 0
    """Entries at its beginning that were left out."""


def recent(turns: Sequence[Turn], limit_bytes: int, size: Callable[[Turn], int]) -> Shown:
    """The newest turns that fit together, in any case the last one.

    A turn is a message of the model with the results of all its calls, or a message of the client. The last
    turn begins with the last message of the model, and holds what the client said to it.

    Args:
        limit_bytes: 0 leaves nothing out.
        size: bytes of an entry as it is shown.
    """
    if not limit_bytes or not turns:
        return Shown(turns)
    starts = [index for index, turn in enumerate(turns) if turn.role != "tool"]
    last = max((index for index in starts if turns[index].role == "assistant"), default=starts[-1])
    start, room = last, limit_bytes - sum(size(turn) for turn in turns[last:])
    for index in reversed([index for index in starts if index < last]):
        room -= sum(size(turn) for turn in turns[index:start])
        if room < 0:
            break
        start = index
    return Shown(turns[start:], start)
