"""Putting things back in order after several workers have had them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.runtime.mailbox import Closed

T = TypeVar("T")


class InOrder(Generic[T]):
    """Passes items on by their tickets 0, 1, 2, ...; an early one waits for those before it.

    At most as many items wait as are between the ticket office and here. `give` must not block for
    long; where it raises `Closed`, `discard` gets the item.
    """

    def __init__(self, give: Callable[[T], object], discard: Callable[[T], None]) -> None:
        self._give = give
        self._discard = discard
        self._early: dict[int, T] = {}
        self._next = 0
        self._lock = threading.Lock()

    def put(self, ticket: int, item: T) -> None:
        """Pass on this item and every waiting one whose turn has come."""
        with self._lock:
            self._early[ticket] = item
            while self._next in self._early:
                ready = self._early.pop(self._next)
                self._next += 1
                try:
                    self._give(ready)
                except Closed:
                    self._discard(ready)

    def cancel(self) -> list[T]:
        """Give up the items that still wait, because one before them will never come."""
        with self._lock:
            left = list(self._early.values())
            self._early.clear()
            return left
