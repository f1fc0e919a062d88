"""A bounded hand-over between threads that can be closed from both ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - a signal between threads, not a fault
    """Nothing more can be put in, or nothing more will come out."""


class Mailbox(Generic[T]):
    """Passes items from writers to readers, at most `capacity` at a time, oldest first.

    A full mailbox makes its writer wait, or with `newest_wins` gives the oldest item back to the
    writer and takes the new one. Either end may leave: after `close` readers still get what is
    inside and then `Closed` (or the writer's failure); after `cancel` both ends get `Closed` at
    once.
    """

    def __init__(self, capacity: int, *, newest_wins: bool = False) -> None:
        if capacity < 1:
            raise ValueError(f"Mailbox.capacity must be at least 1, but got {capacity}")
        self._capacity = capacity
        self._newest_wins = newest_wins
        self._items: deque[T] = deque()
        self._is_closed = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._changed_for_readers = threading.Condition(self._lock)
        self._changed_for_writers = threading.Condition(self._lock)

    def put(self, item: T) -> T | None:
        """Hand an item over; returns the older one that it displaced, if any.

        Raises `Closed` where an end has left; the item then still belongs to the caller.
        """
        with self._lock:
            while not self._is_closed and len(self._items) >= self._capacity:
                if self._newest_wins:
                    break
                self._changed_for_writers.wait()
            if self._is_closed:
                raise Closed
            displaced = self._items.popleft() if len(self._items) >= self._capacity else None
            self._items.append(item)
            self._changed_for_readers.notify()
            return displaced

    def get(self, timeout_s: float | None = None) -> T:
        """Take the oldest item, waiting for one.

        Raises `Closed` after the last item of a closed mailbox, the failure that the writer closed
        it with, or `TimeoutError` where nothing came in time.
        """
        with self._lock:
            self._changed_for_readers.wait_for(lambda: self._items or self._is_closed, timeout_s)
            if self._items:
                item = self._items.popleft()
                self._changed_for_writers.notify()
                return item
            if not self._is_closed:
                raise TimeoutError
            if self._failure is not None:
                raise self._failure
            raise Closed

    def close(self, failure: BaseException | None = None) -> None:
        """The writer leaves: readers get what is inside, then `failure` or `Closed`."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._failure = failure
            self._changed_for_readers.notify_all()
            self._changed_for_writers.notify_all()

    def cancel(self) -> list[T]:
        """The reader leaves: returns what was inside; both ends get `Closed` from now on."""
        with self._lock:
            self._is_closed = True
            left = list(self._items)
            self._items.clear()
            self._changed_for_readers.notify_all()
            self._changed_for_writers.notify_all()
            return left


class NewestOfEach(Mailbox[T]):
    """Keeps the newest item of each kind, as `kind` tells them apart, and gives them in turn.

    An item takes the place of the older one of its kind, so whoever sends often comes no sooner to
    its turn than others. Writers never wait. Of more than `kinds` kinds, the one that has waited
    longest is displaced: no sender of ever new names can fill the memory.
    """

    def __init__(self, kind: Callable[[T], Hashable], *, kinds: int = 64) -> None:
        super().__init__(kinds, newest_wins=True)
        self._kind = kind

    def put(self, item: T) -> T | None:
        """Hand an item over; returns the older one that it displaced, if any.

        Raises `Closed` where an end has left; the item then still belongs to the caller.
        """
        kind = self._kind(item)
        with self._lock:
            if self._is_closed:
                raise Closed
            for place, older in enumerate(self._items):
                if self._kind(older) == kind:
                    self._items[place] = item
                    return older
            displaced = self._items.popleft() if len(self._items) >= self._capacity else None
            self._items.append(item)
            self._changed_for_readers.notify()
            return displaced
