"""Another process's frames as a source, and its results to iterate over."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from pipeline.errors import SourceError
from pipeline.transport.address import parse_address
from pipeline.transport.clock import Offset
from pipeline.transport.security import Security
from pipeline.transport.subscriber import Received, Subscriber
from pipeline.transport.wire import Limits
from pipeline.types import Frame, Image, Result

KEPT_FRAMES = 8  # per camera; a result is so many frames behind its image at most
POLL_S = 0.1  # how often a waiting reader looks whether it was closed
ALL_CAMERAS = "cameras"
"""The name of a source that takes the frames of every camera; each frame has its own."""


class Subscription:
    """A subscriber that may be closed from another thread than the one that reads.

    The socket is made by the first `receive`, in its thread.
    """

    def __init__(self, addresses: str | Sequence[str], **options: object) -> None:
        self._addresses = addresses
        self._options = options
        self._subscriber: Subscriber | None = None
        self._lock = threading.Lock()  # held while the socket is used, and to close it
        self._closed = threading.Event()

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
                if self._subscriber is None:
                    self._subscriber = Subscriber(self._addresses, **self._options)  # type: ignore[arg-type]
                received = self._subscriber.receive(min(left_s, POLL_S))
            if received is not None:
                return received
        return None

    def counts(self) -> dict[str, dict[str, int]]:
        """What happened to the messages so far, by topic; see `Subscriber`."""
        subscriber = self._subscriber
        return {topic: dict(c) for topic, c in subscriber.counts.items()} if subscriber else {}

    def stop(self) -> None:
        """Make a reader that waits get None; takes no lock, so a signal handler may call it."""
        self._closed.set()

    def close(self) -> None:
        """Stop, and close the socket."""
        self._closed.set()
        with self._lock:
            if self._subscriber is not None:
                self._subscriber.close()


class FrameSubscription:
    """A source (as `pipeline.capture` has them) of the frames that another process publishes.

    `clock` says how far the clock that stamped the newest frame is ahead of this machine's, None
    where that is not known. `camera` is `cameras` where every camera's frames are taken.
    """

    live = True
    frames: int | None = None
    fps: float | None = None

    def __init__(self, subscription: Subscription, camera: str, rename: bool = False) -> None:
        self._subscription = subscription
        self._rename = rename
        self.camera = camera
        self.clock: Offset | None = None

    def read(self) -> Frame | None:
        """Wait for a frame that is newer than the last one; None once closed.

        A publisher that goes away is waited for: it may come back.
        """
        while (received := self._subscription.receive()) is not None:
            if isinstance(received.item, Frame):
                self.clock = received.clock
                frame = received.item
                return dataclasses.replace(frame, camera=self.camera) if self._rename else frame
        return None

    def counts(self) -> dict[str, dict[str, int]]:
        """What happened to the messages so far, by topic; see `Subscriber`."""
        return self._subscription.counts()

    def close(self) -> None:
        """Let go of the socket; may be called twice, and from another thread during `read`."""
        self._subscription.close()

    def __enter__(self) -> FrameSubscription:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def open_subscription(
    address: str,
    *,
    open_timeout_s: float = 5.0,
    camera: str | None = None,
    limits: Limits | None = None,
    security: Security | None = None,
) -> FrameSubscription:
    """Subscribe to the frames at an address and wait for the first.

    `camera` replaces the name that the frames come with. Raises `SourceError` where no frame comes
    within `open_timeout_s` seconds, `ConfigError` where the address cannot be used.
    """
    only = parse_address(address).camera
    # Looked at with a socket of its own, which ends here: the source's belongs to its reader.
    with Subscriber(address, limits=limits, security=security) as probe:
        if probe.receive(open_timeout_s) is None:
            refused = sum(count["invalid"] for count in probe.counts.values())
            raise SourceError(
                f"{address}: no frame{f' of {only}' if only else ''} came within "
                f"{open_timeout_s:g} s{f', {refused} messages were refused' if refused else ''}; "
                f"is something publishing there, with the keys that are expected?"
            )
    subscription = Subscription(address, limits=limits, security=security)
    return FrameSubscription(subscription, camera or only or ALL_CAMERAS, camera is not None)


class ResultSubscription:
    """The results that other processes publish; the newest where the reader is slow.

    Iterating waits for results until `stop` or `close` is called. With `images` the frames are
    subscribed to as well, and a result has its image where that came. `clock` says how far the
    clock that stamped the newest result's frame is ahead of this machine's, None where that is not
    known.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        images: bool = False,
        streams: int = 1,
        limits: Limits | None = None,
        security: Security | None = None,
    ) -> None:
        self._subscription = Subscription(
            addresses,
            frames=images,
            results=True,
            streams=2 * streams if images else streams,
            limits=limits,
            security=security,
        )
        self._frames: defaultdict[str, deque[Frame]] = defaultdict(
            lambda: deque(maxlen=KEPT_FRAMES)
        )
        self.clock: Offset | None = None

    def receive(self, timeout_s: float | None = None) -> Result | None:
        """The next result; None once closed, or where none came within `timeout_s` seconds."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            received = self._subscription.receive(left_s)
            if received is None:
                return None
            if isinstance(received.item, Result):
                self.clock = received.clock
                image = self._image(received.item)
                return dataclasses.replace(received.item, image=image)
            self._frames[received.item.camera].append(received.item)

    def __iter__(self) -> Iterator[Result]:
        while (result := self.receive()) is not None:
            yield result

    def counts(self) -> dict[str, dict[str, int]]:
        """What happened to the messages so far, by topic; see `Subscriber`."""
        return self._subscription.counts()

    def stop(self) -> None:
        """End the iteration; takes no lock, so a signal handler may call it."""
        self._subscription.stop()

    def close(self) -> None:
        """Let go of the socket; may be called twice, and from another thread."""
        self._subscription.close()

    def __enter__(self) -> ResultSubscription:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _image(self, result: Result) -> Image | None:
        wanted = result.header
        for frame in self._frames[wanted.camera]:
            if (frame.seq, frame.stamp_ns) == (wanted.seq, wanted.stamp_ns):
                return frame.image
        return None
