"""Opens sources: the table of all kinds of sources, and `open_source`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from pipeline.capture import camera as cameras
from pipeline.capture import files, scene, stream
from pipeline.capture.files import Paced
from pipeline.capture.live import Backoff
from pipeline.errors import SourceError
from pipeline.source import Source, SourceKind, SourceOptions, check_camera_name
from pipeline.transport.wire.schema import Limits
from pipeline.transport.zmq import frames as subscriptions
from pipeline.transport.zmq.keys import Security
from pipeline.types import Frame

log = logging.getLogger(__name__)

Opened = TypeVar("Opened")


KINDS: tuple[SourceKind, ...] = (
    cameras.KIND,
    stream.KIND,
    scene.KIND,
    subscriptions.KIND,
    files.KIND,
)
"""Every kind of source; the first that accepts a text opens it."""

FORMS = ", ".join(kind.forms for kind in KINDS)

_NEVER_REPORTED = ("camera", "open_timeout_s", "real_time", "in_turn", "limits", "security")


def open_source(
    text: str | int,
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
    real_time: bool = False,
    group: str | None = None,
    in_flight: int | None = None,
    in_turn: bool = False,
    limits: Limits | None = None,
    security: Security | None = None,
) -> Source[Frame]:
    """Open what `text` names: a camera, a file, images, a stream, the scene, or a subscription.

    `SourceOptions` explains the options. Those without an effect on the source are
    logged. Raises `SourceError` if the source cannot be opened and `ConfigError` if an option makes
    no sense.
    """
    options = SourceOptions(
        width, height, fps, fourcc, open_timeout_s, read_timeout_s, camera, reconnect, isolate,
        real_time, group, in_flight, in_turn, limits, security,
    )  # fmt: skip
    text = str(text)
    if camera is not None:
        check_camera_name(camera)
    kind = kind_of(text)
    unused = _unused(kind, options)
    if unused:
        log.warning("%s: without effect on %s: %s", text, kind.name, ", ".join(unused))
    source = kind.open(text, options)
    return Paced(source) if real_time and not source.live else source


def kind_of(text: str) -> SourceKind:
    """The kind of source that `text` names.

    Raises `SourceError` if it names none.
    """
    for kind in KINDS:
        if kind.accepts(text):
            return kind
    scheme, separator, _ = text.partition("://")
    why = f"unknown kind '{scheme}://'" if separator else files.why_missing(text)
    raise SourceError(f"source {text!r}: {why}; expected {FORMS}")


def _unused(kind: SourceKind, options: SourceOptions) -> list[str]:
    """The options that were chosen and have no effect on a kind of source."""
    defaults = vars(SourceOptions())
    return [
        name
        for name, value in vars(options).items()
        if value != defaults[name] and name not in (*kind.uses, *_NEVER_REPORTED)
    ]


def open_with_retries(
    attempt: Callable[[], Opened], closing: threading.Event, say: Callable[[str], object]
) -> Opened:
    """Call `attempt` until it opens a source, waiting with back-off after each failure.

    `say` is called with each failure. Once `closing` is set, the next failure is raised as
    `SourceError`.
    """
    backoff = Backoff()
    attempts = 0
    while True:
        try:
            return attempt()
        except SourceError as error:
            if closing.is_set():
                raise
            wait_s = backoff.wait_s(attempts)
            say(f"{error}; trying again in {wait_s:.1f} s")
        attempts += 1
        closing.wait(wait_s)
