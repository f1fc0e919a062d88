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
from pipeline.transport.order import InSequence
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


class FrameSubscription:
    """A source (as `pipeline.capture` has them) of the frames that another process publishes.

    `clock` says how far the clock that stamped the newest frame is ahead of this machine's, None
    where that is not known. `camera` is `cameras` where every camera's frames are taken. A member
    of a group is not `live`: what it reads nobody else gets, so every frame counts; with
    `in_flight`, `read` waits until so few frames are left to be `done`.
    """

    frames: int | None = None
    fps: float | None = None

    def __init__(
        self,
        subscription: Subscription,
        camera: str,
        *,
        rename: bool = False,
        live: bool = True,
        in_flight: int | None = None,
    ) -> None:
        self._subscription = subscription
        self._rename = rename
        self._permits = threading.Semaphore(in_flight) if in_flight else None
        self.camera = camera
        self.live = live
        self.clock: Offset | None = None

    def read(self) -> Frame | None:
        """Wait for a frame that is newer than the last one; None once closed.

        A publisher that goes away is waited for: it may come back.
        """
        while self._permits is not None and not self._permits.acquire(timeout=POLL_S):
            if self._subscription.is_stopped:
                return None
        while (received := self._subscription.receive()) is not None:
            if isinstance(received.item, Frame):
                self.clock = received.clock
                frame = received.item
                return dataclasses.replace(frame, camera=self.camera) if self._rename else frame
        return None

    def done(self) -> None:
        """One of the frames that were read is dealt with; with `in_flight`, another may be read."""
        if self._permits is not None:
            self._permits.release()

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
    group: str | None = None,
    in_flight: int | None = None,
    limits: Limits | None = None,
    security: Security | None = None,
) -> FrameSubscription:
    """Subscribe to the frames at an address and wait for the first.

    `camera` replaces the name that the frames come with. With `group`, take turns on them with the
    group's other members, and ask for a frame only where fewer than `in_flight` are out. Raises
    `SourceError` where no frame comes within `open_timeout_s` seconds, `ConfigError` where the
    address cannot be used.
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
    return FrameSubscription(
        Subscription(address, group=group, limits=limits, security=security),
        camera or only or ALL_CAMERAS,
        rename=camera is not None,
        live=group is None,
        in_flight=in_flight,
    )


class ResultSubscription:
    """The results that other processes publish; the newest where the reader is slow.

    Iterating waits for results until `stop` or `close` is called. With `images` the frames are
    subscribed to as well, and a result has its image where that came. With `ordered`, every result
    is given, by `seq`, where detectors that take turns send theirs in any order. `clock` says how
    far the clock that stamped the newest result's frame is ahead of this machine's, None where that
    is not known.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        images: bool = False,
        ordered: bool = False,
        streams: int = 1,
        limits: Limits | None = None,
        security: Security | None = None,
    ) -> None:
        self._subscription = Subscription(
            addresses,
            frames=images,
            results=True,
            every=ordered,
            streams=2 * streams if images else streams,
            limits=limits,
            security=security,
        )
        self._order = InSequence() if ordered else None
        self._frames: defaultdict[str, deque[Frame]] = defaultdict(
            lambda: deque(maxlen=KEPT_FRAMES)
        )
        self.clock: Offset | None = None

    def receive(self, timeout_s: float | None = None) -> Result | None:
        """The next result; None once closed, or where none came within `timeout_s` seconds."""
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        while True:
            result = self._order.get() if self._order is not None else None
            if result is None:
                left_s = deadline_s - time.monotonic()
                received = self._subscription.receive(min(left_s, POLL_S))
                if received is not None:
                    result = self._take(received)
                elif left_s <= 0 or self._subscription.is_stopped:
                    return None
            if result is not None:
                return dataclasses.replace(result, image=self._image(result))

    def _take(self, received: Received) -> Result | None:
        """Keep what came, or the result itself where it need not wait for others."""
        if isinstance(received.item, Frame):
            self._frames[received.item.camera].append(received.item)
            return None
        self.clock = received.clock
        if self._order is None:
            return received.item
        self._order.put(received.header.sender, received.item)
        return None

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
