"""Run keys for new runs, taken one after the other from pages that are durable before the first is taken."""

from __future__ import annotations

import threading
from collections import deque

from hive_ray.core.keys import key_ref
from hive_ray.state.key_pages import PAIRS
from hive_ray.state.keyring import Keyring

LOW = PAIRS // 2
"""With fewer keys left it is time to make the next page."""


class KeySupply:
    """The keys that this process may give away; what is left over when it ends is never used."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._left: deque[bytes] = deque()
        self._refilling = threading.Lock()

    @property
    def is_low(self) -> bool:
        return len(self._left) < LOW

    def take(self) -> bytes | None:
        """The next run key; None while there is none. Never blocks, never gives a key twice."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def refill(self) -> None:
        """Make a page if keys are low; blocks. Raises what ``Keyring.open`` raises."""
        with self._refilling:
            if self.is_low:
                page = self._keyring.add_page()
                self._left.extend(key_ref(page.page, slot) for slot in range(0, page.slots, 2))
