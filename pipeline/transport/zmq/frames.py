"""Sources of the frames that other processes publish."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

from pipeline.errors import SourceError
from pipeline.settings import Settings
from pipeline.source import Source, SourceKind, SourceOptions
from pipeline.transport.address import FORMS, is_address, parse_address
from pipeline.transport.wire.schema import Limits
from pipeline.transport.zmq.keys import Security
from pipeline.transport.zmq.receiver import POLL_S, Receiver, Subscription
from pipeline.transport.zmq.subscriber import check_subscription
from pipeline.types import Frame

ALL_CAMERAS = "cameras"
"""The name of a source of several cameras' frames; each frame has its own camera's name."""


class FrameSubscription(Subscription[Frame]):
    """A source of the frames that other processes publish.

    `camera` is the name of all frames if `rename` is set. A member of a group is not `live`: no
    other process gets what it reads, so every frame counts. `read` waits until fewer than
    `in_flight` frames are not `done`. With `in_turn`, once frames of a second camera come, it waits
    until the frame before is `done`, so that the newest frame of each camera is read in turn.
    """

    def __init__(
        self,
        receiver: Receiver,
        camera: str,
        *,
        rename: bool = False,
        live: bool = True,
        in_flight: int | None = None,
        in_turn: bool = False,
    ) -> None:
        super().__init__(receiver, in_turn)
        self._rename = rename
        self._permits = threading.Semaphore(in_flight) if in_flight else None
        self.camera = camera
        self.live = live

    def read(self) -> Frame | None:
        """Wait for a frame that is newer than the last one; None once closed.

        It continues to wait if the publisher ends, because that may restart.
        """
        if not self._may_read():
            return None
        while (received := self._receiver.receive()) is not None:
            if isinstance(received.item, Frame):
                frame = received.item
                if self._turns is not None:
                    self._turns.note(frame.camera)
                return dataclasses.replace(frame, camera=self.camera) if self._rename else frame
        return None

    def _may_read(self) -> bool:
        if not super()._may_read():
            return False
        while self._permits is not None and not self._permits.acquire(timeout=POLL_S):
            if self._receiver.is_stopped:
                return False
        return True

    def done(self) -> None:
        super().done()
        if self._permits is not None:
            self._permits.release()


def open_subscription(
    address: str,
    *,
    open_timeout_s: float = Settings.open_timeout,
    camera: str | None = None,
    group: str | None = None,
    in_flight: int | None = None,
    in_turn: bool = False,
    limits: Limits | None = None,
    security: Security | None = None,
) -> FrameSubscription:
    """Subscribe to the frames at an address and wait for the first.

    `camera` replaces the name of the frames. With `group`, share the frames with the group's other
    members, and ask for one only if fewer than `in_flight` are not done; for `in_turn` see
    `FrameSubscription`. Raises `SourceError` if no frame comes within `open_timeout_s` seconds,
    `ConfigError` if the address cannot be used.
    """
    only = parse_address(address).camera
    receiver = Receiver(address, limits=limits, security=security)
    try:
        if not receiver.await_message(open_timeout_s):
            limit_mb = (limits or Limits()).max_frame_mb
            raise SourceError(_silent(address, only, open_timeout_s, receiver, limit_mb))
    except BaseException:
        receiver.close()
        raise
    if group is not None:  # a member asks for frames only when its reader is ready
        receiver.close()
        receiver = Receiver(address, group=group, limits=limits, security=security)
    return FrameSubscription(
        receiver,
        camera or only or ALL_CAMERAS,
        rename=camera is not None,
        live=group is None,
        in_flight=in_flight,
        in_turn=in_turn,
    )


def _silent(
    address: str, camera: str | None, timeout_s: float, receiver: Receiver, limit_mb: int
) -> str:
    refused = sum(count.get("invalid", 0) for count in receiver.counts().values())
    return (
        f"{address}: no frame{f' of {camera}' if camera else ''} came within {timeout_s:g} s"
        f"{f', {refused} messages were refused' if refused else ''}; does a process publish there, "
        f"with the expected keys and images of at most {limit_mb} MiB (--max-frame-mb)?"
    )


def subscribe_frames(
    addresses: Sequence[str],
    *,
    group: str | None = None,
    limits: Limits | None = None,
    security: Security | None = None,
) -> FrameSubscription:
    """Subscribe to the frames at addresses, whether or not a process publishes there already.

    Cameras come in turn; a member of a `group` has one frame at a time. Raises `ConfigError` if an
    address cannot be used.
    """
    check_subscription(addresses, group=group, security=security)
    cameras = {parse_address(address).camera for address in addresses}
    only = cameras.pop() if len(cameras) == 1 else None
    return FrameSubscription(
        Receiver(addresses, group=group, streams=len(addresses), limits=limits, security=security),
        only or ALL_CAMERAS,
        live=group is None,
        in_flight=1 if group is not None else None,
        in_turn=True,
    )


def _open(text: str, options: SourceOptions) -> Source[Frame]:
    return open_subscription(
        text,
        open_timeout_s=options.open_timeout_s,
        camera=options.camera,
        group=options.group,
        in_flight=options.in_flight,
        in_turn=options.in_turn,
        limits=options.limits,
        security=options.security,
    )


KIND = SourceKind(
    "subscriptions",
    FORMS,
    is_address,
    _open,
    ("open_timeout_s", "group", "in_flight", "in_turn", "limits", "security"),
)
