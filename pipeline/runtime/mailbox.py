"""Bounded, closable connections between threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - a signal between threads, not a fault
    """The connection has ended: no item can be put in, or none comes out any more."""


class Mailbox(Generic[T]):
    """A queue of at most `capacity` items, oldest first.

    A full mailbox blocks its writer, or with `newest_wins` returns the oldest item to the writer
    and accepts the new one. Either side may end it: after `close` readers get the items inside and
    then `Closed` (or the writer's failure); after `cancel` both sides get `Closed` at once.
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
        """Append an item; returns the older one that it displaced, if any.

        Raises `Closed` if the mailbox has ended; the item then still belongs to the caller.
        """
        with self._lock:
            while not self._is_closed and len(self._items) >= self._capacity:
                if self._newest_wins:
                    break
                self._changed_for_writers.wait()
            if self._is_closed:
                raise Closed
            return self._append(item)

    def get(self, timeout_s: float | None = None) -> T:
        """Remove and return the oldest item, waiting for one.

        Raises `Closed` after the last item of a closed mailbox, the failure that the writer closed
        it with, or `TimeoutError` if nothing came in time.
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
        """End it from the writer's side: readers get the items inside, then `failure` or `Closed`.

        The first reason for closing stays.
        """
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._failure = failure
            self._changed_for_readers.notify_all()
            self._changed_for_writers.notify_all()

    def cancel(self) -> list[T]:
        """End it from the reader's side: returns the items inside; both sides get `Closed`."""
        with self._lock:
            self._is_closed = True
            self._failure = None  # its traceback refers to the stage, and so to the models
            left = list(self._items)
            self._items.clear()
            self._changed_for_readers.notify_all()
            self._changed_for_writers.notify_all()
            return left

    def _append(self, item: T) -> T | None:
        displaced = self._items.popleft() if len(self._items) >= self._capacity else None
        self._items.append(item)
        self._changed_for_readers.notify()
        return displaced


class NewestOfEach(Mailbox[T]):
    """Keeps the newest item of each kind, and gives the kinds in turn.

    An item replaces the oldest of its kind once `depth` of them wait, and the newer ones move up.
    A kind keeps its turn, so a fast sender does not get more turns than a slow one. Writers never
    wait. More than `capacity` items displace the one that has waited longest, so that ever new
    kinds cannot fill the memory.
    """

    def __init__(self, kind: Callable[[T], Hashable], *, depth: int = 1, capacity: int = 64):
        super().__init__(max(capacity, depth), newest_wins=True)
        self._kind = kind
        self._depth = depth

    def put(self, item: T) -> T | None:
        """Add an item; returns the older one that it displaced, if any.

        Raises `Closed` if the mailbox has ended; the item then still belongs to the caller.
        """
        kind = self._kind(item)
        with self._lock:
            if self._is_closed:
                raise Closed
            places = [i for i, older in enumerate(self._items) if self._kind(older) == kind]
            if len(places) < self._depth:
                return self._append(item)
            displaced = self._items[places[0]]
            for place, following in pairwise(places):
                self._items[place] = self._items[following]
            self._items[places[-1]] = item
            return displaced


class Admission(Generic[T]):
    """Gives items of a mailbox while fewer than `limit` of them are in flight.

    The item is chosen once there is room for it, so it is the newest that there is.
    """

    def __init__(self, inbox: Mailbox[T], limit: int) -> None:
        self._inbox = inbox
        self._room = limit
        self._is_closed = False
        self._changed = threading.Condition()

    def get(self) -> T:
        """Wait for room, then for an item. Raises as `Mailbox.get` does."""
        with self._changed:
            self._changed.wait_for(lambda: self._room > 0 or self._is_closed)
            if self._is_closed:
                raise Closed
            self._room -= 1
        return self._inbox.get()

    def leave(self) -> None:
        """Make room: an item is no longer in flight."""
        with self._changed:
            self._room += 1
            self._changed.notify()

    def cancel(self) -> list[T]:
        """Admit nothing more; returns the items that wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        return self._inbox.cancel()


class InOrder(Generic[T]):
    """Puts items into a mailbox in the order of their numbers 0, 1, 2, ...

    An item that comes early is held until those before it have come, and so is one that comes
    after the mailbox has ended: `cancel` returns them. `outbox` needs room for all items in flight.

    This class and `transport.zmq.reorder` remain two: results of several processes have gaps,
    restarts and deadlines, the numbers of one run have none of them.
    """

    def __init__(self, outbox: Mailbox[T], number: Callable[[T], int]) -> None:
        self._outbox = outbox
        self._number = number
        self._held: dict[int, T] = {}
        self._next = 0
        self._lock = threading.Lock()

    def put(self, item: T) -> None:
        """Put in this item and every held one whose turn has come."""
        with self._lock:
            self._held[self._number(item)] = item
            while self._next in self._held:
                try:
                    self._outbox.put(self._held[self._next])
                except Closed:
                    return
                del self._held[self._next]
                self._next += 1

    def close(self, failure: BaseException | None = None) -> None:
        """Close the mailbox; see `Mailbox.close`."""
        self._outbox.close(failure)

    def cancel(self) -> list[T]:
        """Return the held items, whose turn will never come."""
        with self._lock:
            left = list(self._held.values())
            self._held.clear()
            return left
