"""From what a user types to a source of frames, of this process or of another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from pipeline import capture
from pipeline.errors import SourceError
from pipeline.source import Source, check_camera_name
from pipeline.transport.address import FORMS as ADDRESS_FORMS
from pipeline.transport.address import is_address
from pipeline.transport.wire.schema import (
    Limits,
)
from pipeline.transport.zmq.frames import FrameSubscription, open_subscription
from pipeline.transport.zmq.keys import Security
from pipeline.types import Frame

AnySource = Source[Frame] | FrameSubscription
FORMS = f"{capture.FORMS}, or {ADDRESS_FORMS}"
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 5.0

Opened = TypeVar("Opened")


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


def open_with_retries(
    attempt: Callable[[], Opened], closing: threading.Event, say: Callable[[str], object]
) -> Opened:
    """What `attempt` opens, tried again with pauses that double, as often as it takes.

    `say` is told of each failure; once `closing` is set, the next one is raised as `SourceError`.
    """
    wait_s = FIRST_RETRY_S
    while True:
        try:
            return attempt()
        except SourceError as error:
            if closing.is_set():
                raise
            say(f"{error}; trying again in {wait_s:g} s")
        closing.wait(wait_s)
        wait_s = min(2 * wait_s, LAST_RETRY_S)
