"""Another process's frames as a source, as `pipeline.capture` has them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

from pipeline.errors import SourceError
from pipeline.source import Source
from pipeline.transport.address import parse_address
from pipeline.transport.wire.messages import Limits
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.receiver import POLL_S, Subscription, Turnstile
from pipeline.transport.zmq.subscriber_socket import check_subscription
from pipeline.types import ClockOffset, Frame

ALL_CAMERAS = "cameras"
"""The name of a source that takes the frames of every camera; each frame has its own."""


class FrameSubscription(Source[Frame]):
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
        self._turnstile = Turnstile() if in_turn else None
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
                if self._turnstile is not None:
                    self._turnstile.note(frame.camera)
                return dataclasses.replace(frame, camera=self.camera) if self._rename else frame
        return None

    def _may_read(self) -> bool:
        """Wait a moment for a permit to read on, where one is needed."""
        if self._turnstile is not None and not self._turnstile.pass_through():
            return False
        return self._permits is None or self._permits.acquire(timeout=POLL_S)

    def done(self) -> None:
        """One of the frames that were read is dealt with, so that another may be read."""
        if self._turnstile is not None:
            self._turnstile.done()
        if self._permits is not None:
            self._permits.release()

    def clock_of(self, camera: str) -> ClockOffset | None:
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
    subscription = Subscription(address, limits=limits, security=security)
    try:
        if not subscription.await_message(open_timeout_s):
            refused = sum(count.get("invalid", 0) for count in subscription.counts().values())
            raise SourceError(
                f"{address}: no frame{f' of {only}' if only else ''} came within "
                f"{open_timeout_s:g} s{f', {refused} messages were refused' if refused else ''}; "
                f"is something publishing there, with the keys that are expected and pictures of "
                f"at most {(limits or Limits()).max_frame_mb} MiB (--max-frame-mb)?"
            )
    except BaseException:
        subscription.close()
        raise
    if group is not None:  # its turns are for when the reader is ready
        subscription.close()
        subscription = Subscription(address, group=group, limits=limits, security=security)
    return FrameSubscription(
        subscription,
        camera or only or ALL_CAMERAS,
        rename=camera is not None,
        live=group is None,
        in_flight=in_flight,
        in_turn=in_turn,
    )


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
