"""Another process's frames as a source, and its results to iterate over."""

from __future__ import annotations

import dataclasses
import logging
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
from pipeline.types import Detections, Frame, Image, Result

KEPT_FRAMES = 8  # per camera; a result is so many frames behind its image at most
POLL_S = 0.1  # how often a waiting reader looks whether it was closed
ALONE_S = 1.0
SILENT_S = 3.0
"""Such a silence is worth a line in the log."""
MAX_CAMERAS = 256
ALL_CAMERAS = "cameras"
"""The name of a source that takes the frames of every camera; each frame has its own."""

log = logging.getLogger(__name__)


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
        self._silence = Silence(addresses, options.get("security"))
        self._clocks: dict[str, Offset | None] = {}
        self._newest_clock: Offset | None = None

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
            self._silence.note(min(left_s, POLL_S), has_come=received is not None)
            if received is not None:
                self._note_clock(received)
                return received
        return None

    def _note_clock(self, received: Received) -> None:
        if len(self._clocks) >= MAX_CAMERAS:
            self._clocks.clear()
        self._clocks[received.header.camera] = self._newest_clock = received.clock

    def clock_of(self, camera: str) -> Offset | None:
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

    def __init__(self, addresses: str | Sequence[str], security: object) -> None:
        self._subject = addresses if isinstance(addresses, str) else ", ".join(addresses)
        has_keys = isinstance(security, Security) and security.keys is not None
        self._hint = " (is our key known there?)" if has_keys else ""
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
            log.info("%s: nothing comes from there%s; waiting for it", self._subject, why)


class FrameSubscription:
    """A source (as `pipeline.capture` has them) of the frames that another process publishes.

    `camera` is `cameras` where every camera's frames are taken. A member of a group is not `live`:
    what it reads nobody else gets, so every frame counts; with `in_flight`, `read` waits until so
    few frames are left to be `done`. With `in_turn` it waits, once frames of a second camera come,
    until one that was read is `done`, so that the reader's choice of the newest frame is one
    between each camera's and not always the same camera's.
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
        in_turn: bool = False,
    ) -> None:
        self._subscription = subscription
        self._rename = rename
        self._permits = threading.Semaphore(in_flight) if in_flight else None
        self._in_turn = in_turn
        self._is_done = threading.Event()
        self._cameras: set[str] = set()
        self.camera = camera
        self.live = live

    def read(self) -> Frame | None:
        """Wait for a frame that is newer than the last one; None once closed.

        A publisher that goes away is waited for: it may come back.
        """
        while not self._may_read():
            if self._subscription.is_stopped:
                return None
        while (received := self._subscription.receive()) is not None:
            if isinstance(received.item, Frame):
                frame = received.item
                if self._in_turn and len(self._cameras) < 2:
                    self._cameras.add(frame.camera)
                return dataclasses.replace(frame, camera=self.camera) if self._rename else frame
        return None

    def _may_read(self) -> bool:
        """Wait a moment for a permit to read on, where one is needed."""
        if len(self._cameras) > 1:
            if not self._is_done.wait(POLL_S):
                return False
            self._is_done.clear()
        return self._permits is None or self._permits.acquire(timeout=POLL_S)

    def done(self) -> None:
        """One of the frames that were read is dealt with, so that another may be read."""
        self._is_done.set()
        if self._permits is not None:
            self._permits.release()

    def clock_of(self, camera: str) -> Offset | None:
        """How far the clock that stamps a camera's frames is ahead of this machine's.

        None where that is not known (yet).
        """
        return self._subscription.clock_of(camera)

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
    in_turn: bool = False,
    limits: Limits | None = None,
    security: Security | None = None,
) -> FrameSubscription:
    """Subscribe to the frames at an address and wait for the first.

    `camera` replaces the name that the frames come with. With `group`, take turns on them with the
    group's other members, and ask for a frame only where fewer than `in_flight` are out; `in_turn`
    is for the frames of several cameras, see `FrameSubscription`. Raises `SourceError` where no
    frame comes within `open_timeout_s` seconds, `ConfigError` where the address cannot be used.
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
        in_turn=in_turn,
    )


def check_subscription(
    addresses: Sequence[str], *, group: str | None = None, security: Security | None = None
) -> None:
    """Raise `ConfigError` where it cannot be subscribed to addresses so.

    A subscription's own socket belongs to its reader, which would say it late.
    """
    Subscriber(addresses, group=group, security=security).close()


def subscribe_frames(
    addresses: Sequence[str],
    *,
    group: str | None = None,
    limits: Limits | None = None,
    security: Security | None = None,
) -> FrameSubscription:
    """Subscribe to the frames at addresses, whether or not something publishes there already.

    Cameras come in turn; a member of a `group` has one frame at a time. Raises `ConfigError` where
    an address cannot be used.
    """
    check_subscription(addresses, group=group, security=security)
    cameras = {parse_address(address).camera for address in addresses}
    only = cameras.pop() if len(cameras) == 1 else None
    return FrameSubscription(
        Subscription(
            addresses, group=group, streams=len(addresses), limits=limits, security=security
        ),
        only or ALL_CAMERAS,
        live=group is None,
        in_flight=1 if group is not None else None,
        in_turn=True,
    )


class ResultSubscription:
    """The results that other processes publish; the newest where the reader is slow.

    Iterating waits for results until `stop` or `close` is called. With `images` the frames are
    subscribed to as well, and a result has its image where that came. With `ordered`, every result
    is given, by `seq`, where detectors that take turns send theirs in any order. With
    `frames_alone` the frames of a camera are given without any object, where no result on one has
    come for a second. It can serve as a source of results: `read` is `receive`.
    """

    live = True
    frames: int | None = None
    fps: float | None = None

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        images: bool = False,
        ordered: bool = False,
        frames_alone: bool = False,
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
        self._result_at_s: dict[str, float] | None = {} if frames_alone else None

    def read(self) -> Result | None:
        """The next result; None once closed."""
        return self.receive()

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
            return self._take_frame(received.item)
        if self._result_at_s is not None:
            self._result_at_s[received.header.camera] = time.monotonic()
        if self._order is None:
            return received.item
        self._order.put(received.header.sender, received.item)
        return None

    def _take_frame(self, frame: Frame) -> Result | None:
        """Keep a frame for its result; where none is to be expected, this is all there is."""
        if len(self._frames) >= MAX_CAMERAS and frame.camera not in self._frames:
            self._frames.clear()
            self._result_at_s = self._result_at_s and {}
        self._frames[frame.camera].append(frame)
        if self._result_at_s is None:
            return None
        now_s = time.monotonic()
        if now_s - self._result_at_s.setdefault(frame.camera, now_s) < ALONE_S:
            return None
        return Result(frame.header, Detections.empty(()))

    def clock_of(self, camera: str) -> Offset | None:
        """How far the clock that stamps a camera's frames is ahead of this machine's.

        None where that is not known (yet).
        """
        return self._subscription.clock_of(camera)

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
