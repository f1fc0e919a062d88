"""From what a user types to a source of frames, of this process or of another."""

from __future__ import annotations

from pipeline import capture
from pipeline.capture import Source
from pipeline.capture.source import check_camera_name
from pipeline.transport.address import FORMS as ADDRESS_FORMS
from pipeline.transport.address import is_address
from pipeline.transport.security import Security
from pipeline.transport.source import FrameSubscription, open_subscription
from pipeline.transport.wire import Limits

AnySource = Source | FrameSubscription
FORMS = f"{capture.FORMS}, or {ADDRESS_FORMS}"


def open_source(
    text: str,
    *,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    fourcc: str | None = None,
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 5.0,
    camera: str | None = None,
    reconnect: bool | None = None,
    isolate: bool = False,
    group: str | None = None,
    in_flight: int | None = None,
    in_turn: bool = False,
    limits: Limits | None = None,
    security: Security | None = None,
) -> AnySource:
    """Open what `text` names: something to capture, or another process's frames.

    `zmq+tcp://` and `zmq+ipc://` addresses take `group`, `in_flight`, `in_turn`, `limits` and
    `security`, as `pipeline.transport.open_subscription` explains; everything else takes the
    settings that `pipeline.capture.open_source` explains.

    Raises `SourceError` where it cannot be opened and `ConfigError` where a setting makes no sense.
    """
    if is_address(text):
        if camera is not None:
            check_camera_name(camera)
        return open_subscription(
            text,
            open_timeout_s=open_timeout_s,
            camera=camera,
            group=group,
            in_flight=in_flight,
            in_turn=in_turn,
            limits=limits,
            security=security,
        )
    return capture.open_source(
        text,
        width=width,
        height=height,
        fps=fps,
        fourcc=fourcc,
        open_timeout_s=open_timeout_s,
        read_timeout_s=read_timeout_s,
        camera=camera,
        reconnect=reconnect,
        isolate=isolate,
    )
