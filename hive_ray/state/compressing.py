"""Compression contexts of one thread: one that two threads share writes damaged frames."""

from __future__ import annotations

import threading

import zstandard


class Contexts(threading.local):
    """What each thread compresses and decompresses zstd frames with.

    Attributes:
        small: level 1 costs 5 us more than level -3 on a segment of three rows and saves a third; on 400 KB
            it would cost 170 us more and save a twentieth.
        large: for more than that.
        bare: half the time of level 1, without a checksum: for what is sealed behind a tag of its own.
    """

    def __init__(self) -> None:
        self.small = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
        self.large = zstandard.ZstdCompressor(level=-3, write_checksum=True, write_content_size=True)
        self.bare = zstandard.ZstdCompressor(level=-1, write_checksum=False, write_content_size=True)
        self.reader = zstandard.ZstdDecompressor()


CONTEXTS = Contexts()
