"""Runs as items of snapshots and of the history: the one place that knows both forms."""

from __future__ import annotations

import msgspec

from hive_ray.core.run import Run, decode_run
from hive_ray.errors import Corrupt
from hive_ray.state.content import ContentCodec
from hive_ray.state.snapshot_items import open_item
from hive_ray.state.snapshots import Item

FLEET = "fleet"
RUN = "run/"
"""Prefix of the keys under which snapshots hold runs."""


def open_run(codec: ContentCodec, key: str, item: Item) -> Run:
    """The run in an item.

    Raises:
        Corrupt: it does not decode.
        KeyErased: its content was erased.
    """
    try:
        return decode_run(open_item(codec, key, item))
    except msgspec.MsgspecError as error:
        raise Corrupt(key, f"an item does not decode: {error}") from error
