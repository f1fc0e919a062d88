"""A subscriber that may be closed from another thread than the one that reads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.subscriber import Received, Subscriber
from pipeline.types import ClockOffset

POLL_S = 0.1  # how often a waiting reader looks whether it was closed
SILENT_S = 3.0
"""Such a silence is worth a line in the log."""
MAX_CAMERAS = 256

log = logging.getLogger(__name__)


class Subscription:
    """A subscriber that may be closed from another thread than the one that reads.

    The socket is made by whoever needs it first, and used by one thread at a time.
    """

    def __init__(self, addresses: str | Sequence[str], **options: object) -> None:
        self._addresses = addresses
        self._options = options
        self._subscriber: Subscriber | None = None
        self._lock = threading.Lock()  # held while the socket is used, and to close it
        self._closed = threading.Event()
        what = "nothing comes" if options.get("frames", True) else "no result comes"
        self._silence = Silence(addresses, options.get("security"), what)
        self._clocks: dict[str, ClockOffset | None] = {}
        self._newest_clock: ClockOffset | None = None

    def _opened(self) -> Subscriber:
        if self._subscriber is None:
            self._subscriber = Subscriber(self._addresses, **self._options)  # type: ignore[arg-type]
        return self._subscriber

    def await_message(self, timeout_s: float) -> bool:
        """Wait for a message at most so long, and leave it to be received; whether there is one."""
        with self._lock:
            return self._opened().await_message(timeout_s)

    def receive(self, timeout_s: float | None = None) -> Received | None:
        """The newest message; None once closed, or where none came within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while not self._closed.is_set():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            with self._lock:
                if self._closed.is_set():
                    return None
                received = self._opened().receive(min(left_s, POLL_S))
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
        """How far the clock that stamps a camera's frames is ahead, None where not known.

        Of a camera that is not known it is that of the newest message.
        """
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
        """Make a reader that waits get None; takes no lock, so a signal handler may call it."""
        self._closed.set()

    def close(self) -> None:
        """Stop, and close the socket."""
        self._closed.set()
        with self._lock:
            if self._subscriber is not None:
                self._subscriber.close()


class Silence:
    """Says once that nothing comes from some addresses, and that it is over."""

    def __init__(self, addresses: str | Sequence[str], security: object, what: str) -> None:
        self._what = what
        self._subject = addresses if isinstance(addresses, str) else ", ".join(addresses)
        self._hint = ""
        if isinstance(security, Security) and security.keys is not None:
            self._hint = " (is our key known there, and the key that we expect right?)"
        elif isinstance(security, Security) and security.insecure:
            self._hint = " (or does it expect keys?)"
        self._waited_s = 0.0
        self._has_come = False

    def note(self, waited_s: float, *, has_come: bool) -> None:
        """Note that so long was waited for a message, and whether one came."""
        was_long = self._waited_s > SILENT_S
        if has_come:
            if was_long:
                log.info("%s: messages come now", self._subject)
            self._waited_s, self._has_come = 0.0, True
            return
        self._waited_s += waited_s
        if self._waited_s > SILENT_S and not was_long:
            why = " any more" if self._has_come else self._hint
            log.info("%s: %s from there%s; waiting for it", self._subject, self._what, why)


class Turnstile:
    """Makes a reader who has met a second camera wait until what it read before is done.

    A reader that runs ahead keeps the newest frame of all, which may be the same camera's again and
    again; one that comes when it is ready gets each camera's newest in turn.
    """

    def __init__(self) -> None:
        self._cameras: set[str] = set()
        self._is_done = threading.Event()

    def note(self, camera: str) -> None:
        """The reader was given something of this camera."""
        if len(self._cameras) < 2:
            self._cameras.add(camera)

    def pass_through(self) -> bool:
        """Wait a moment for the right to read; whether it came."""
        if len(self._cameras) < 2:
            return True
        if not self._is_done.wait(POLL_S):
            return False
        self._is_done.clear()
        return True

    def done(self) -> None:
        """What was read is dealt with."""
        self._is_done.set()
