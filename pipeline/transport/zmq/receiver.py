"""Receives in one thread what another may stop, and the base of sources that receive."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.source import Item, Source
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.subscriber import Received, Subscriber
from pipeline.types import ClockOffset
from pipeline.unclosed import close_when_dropped

POLL_S = 0.1  # how often a waiting reader checks whether it was closed
CLOSE_S = 0.5
"""Closing waits this long for a message that is being read; then its reader closes the socket."""
SILENT_S = 3.0
"""A silence of this length is logged."""
MAX_CAMERAS = 256

log = logging.getLogger(__name__)


class Receiver:
    """A subscriber that may be closed by another thread than the one that reads.

    The first thread that needs the socket creates it; one thread at a time uses it.
    """

    def __init__(self, addresses: str | Sequence[str], **options: Any) -> None:
        self._addresses = addresses
        self._options = options
        self._subscriber: Subscriber | None = None
        self._lock = threading.Lock()  # held while the socket is used or closed
        self._closed = threading.Event()
        what = "message" if options.get("frames", True) else "result"
        self._silence = SilenceLog(addresses, options.get("security"), what)
        self._clocks: dict[str, ClockOffset | None] = {}
        self._newest_clock: ClockOffset | None = None

    def __str__(self) -> str:
        return self._silence.subject

    def _opened(self) -> Subscriber:
        if self._subscriber is None:
            self._subscriber = Subscriber(self._addresses, **self._options)
        return self._subscriber

    def await_message(self, timeout_s: float) -> bool:
        """Wait for a message, which `receive` returns; False if none came in time."""
        with self._lock:
            return self._opened().await_message(timeout_s)

    def receive(self, timeout_s: float | None = None) -> Received | None:
        """The newest message; None once closed, or if none came within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while not self._closed.is_set():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            with self._lock:
                if self._closed.is_set():
                    return None
                received = self._opened().receive(min(left_s, POLL_S))
                if self._closed.is_set():
                    self._opened().close()
            self._silence.note(min(left_s, POLL_S), has_come=received is not None)
            if received is not None:
                self._note_clock(received)
                return received
        return None

    def _note_clock(self, received: Received) -> None:
        if len(self._clocks) >= MAX_CAMERAS:
            self._clocks.clear()
        self._clocks[received.header.camera] = self._newest_clock = received.clock

    def clock_of(self, camera: str) -> ClockOffset | None:
        """The clock that stamps a camera's frames, of an unknown camera that of the newest."""
        return self._clocks.get(camera, self._newest_clock)

    def counts(self) -> dict[str, dict[str, int]]:
        """What happened to the messages so far, by topic; see `Subscriber`."""
        subscriber = self._subscriber
        return {topic: dict(c) for topic, c in subscriber.counts.items()} if subscriber else {}

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped or closed."""
        return self._closed.is_set()

    def stop(self) -> None:
        """Make a waiting reader return None; takes no lock, so a signal handler may call it."""
        self._closed.set()

    def close(self) -> None:
        """Stop, and close the socket. Idempotent."""
        self._closed.set()
        if not self._lock.acquire(timeout=CLOSE_S):
            log.warning("%s: a message is still being decoded and is left behind", self)
            return
        try:
            if self._subscriber is not None:
                self._subscriber.close()
        finally:
            self._lock.release()


class SilenceLog:
    """Logs once that no message comes from some addresses, and once that messages come again."""

    def __init__(
        self, addresses: str | Sequence[str], security: Security | None, what: str
    ) -> None:
        self._what = what
        self.subject = addresses if isinstance(addresses, str) else ", ".join(addresses)
        self._hint = ""
        if security is not None and security.keys is not None:
            self._hint = " (does the publisher know our key, and is the key that we expect right?)"
        elif security is not None and security.insecure:
            self._hint = " (or does the publisher require keys?)"
        self._waited_s = 0.0
        self._has_come = False

    def note(self, waited_s: float, *, has_come: bool) -> None:
        """Note that a reader waited for a message, and whether one came."""
        was_long = self._waited_s > SILENT_S
        if has_come:
            if was_long:
                log.info("%s: messages come again", self.subject)
            self._waited_s, self._has_come = 0.0, True
            return
        self._waited_s += waited_s
        if self._waited_s > SILENT_S and not was_long:
            why = " any more" if self._has_come else self._hint
            log.info("%s: no %s comes%s; waiting", self.subject, self._what, why)


class CameraTurns:
    """Makes the reader of several cameras wait until the item it read before is done.

    A reader that runs ahead keeps the newest frame of all, which may always be the same camera's.
    A reader that waits gets the newest frame of each camera in turn.
    """

    def __init__(self) -> None:
        self._cameras: set[str] = set()
        self._is_done = threading.Event()

    def note(self, camera: str) -> None:
        """Note that the reader got an item of this camera."""
        if len(self._cameras) < 2:
            self._cameras.add(camera)

    def wait(self) -> bool:
        """Wait a moment until the reader may read; returns whether it may."""
        if len(self._cameras) < 2:
            return True
        if not self._is_done.wait(POLL_S):
            return False
        self._is_done.clear()
        return True

    def done(self) -> None:
        """Note that the item that was read is done."""
        self._is_done.set()


class Subscription(Source[Item]):
    """The base of sources that receive what other processes publish.

    With `in_turn`, frames of several cameras come in turn, see `CameraTurns`.
    """

    live = True

    def __init__(self, receiver: Receiver, in_turn: bool) -> None:
        self._receiver = receiver
        self._turns = CameraTurns() if in_turn else None
        self._unclosed = close_when_dropped(self, f"subscription {receiver}", receiver.close)

    def _may_read(self) -> bool:
        """Wait until the next item may be read; False once closed."""
        while self._turns is not None and not self._turns.wait():
            if self._receiver.is_stopped:
                return False
        return True

    def done(self) -> None:
        if self._turns is not None:
            self._turns.done()

    def clock_of(self, camera: str) -> ClockOffset | None:
        return self._receiver.clock_of(camera)

    def counts(self) -> Mapping[str, Any]:
        """What happened to the messages so far, by topic, under `received`; see `Subscriber`."""
        return {"received": self._receiver.counts()}

    def stop(self) -> None:
        """End the reading; takes no lock, so a signal handler may call it."""
        self._receiver.stop()

    def close(self) -> None:
        """Close the socket. Idempotent and safe to call from another thread during `read`."""
        self._unclosed.detach()
        self._receiver.close()
