"""Cameras and streams as the pipeline reads them: watched, and opened again when they break."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pipeline.capture.child import ChildReader
from pipeline.capture.frozen import FrozenCheck
from pipeline.capture.reconnect import Reconnecting
from pipeline.capture.watchdog import HangError, Reader, ThreadReader
from pipeline.errors import CaptureError, SourceError
from pipeline.source import Source
from pipeline.types import Frame

HANG_GRACE_S = 5.0
"""So much longer than their own time limits may the driver and the decoder take."""
FROZEN_LIMIT_S = 5.0


@dataclasses.dataclass(frozen=True)
class Request:
    """What to open and how; the fields are those of `open_source`.

    With `again` it had been open before: what the server has kept is passed over.
    """

    text: str
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None
    open_timeout_s: float = 5.0
    read_timeout_s: float = 5.0
    camera: str | None = None
    again: bool = False


class Dialer:
    """Makes readers for one request: on a thread, and once one has hung in a child process.

    A child costs 70 MB and a copy of every frame, so nobody has one without need; a thread that
    hangs keeps its memory, and maybe its core, so there is at most one.
    """

    def __init__(
        self,
        request: Request,
        connect: Callable[[Request], Source[Frame]],
        subject: str,
        isolate: bool,
    ) -> None:
        self.request = request
        self._connect = connect
        self._subject = subject
        self._isolate = isolate

    def __call__(self, failure: CaptureError | SourceError | None = None) -> Reader:
        if isinstance(failure, HangError):
            self._isolate = True
        request = self.request
        read_limit_s = request.read_timeout_s + HANG_GRACE_S
        open_limit_s = request.open_timeout_s + read_limit_s  # a stream's first frames are read
        if self._isolate:
            return ChildReader(
                dataclasses.asdict(request),
                self._subject,
                open_limit_s=open_limit_s,
                read_limit_s=read_limit_s,
            )
        return ThreadReader(
            lambda: self._connect(request),
            self._subject,
            open_limit_s=open_limit_s,
            read_limit_s=read_limit_s,
        )


def open_live(
    request: Request,
    connect: Callable[[Request], Source[Frame]],
    *,
    subject: str,
    reconnect: bool,
    isolate: bool = False,
    locate: Callable[[str], str] = str,
    may_freeze: bool = False,
) -> Source[Frame]:
    """Open what `connect` makes of `request`, watched; where it is live, reconnecting if wanted.

    `locate` gives the lasting name of what was opened, under which it is looked for later;
    `may_freeze` says that equal pictures mean a broken device. Raises `SourceError`.
    """
    dialer = Dialer(request, connect, subject, isolate)
    reader = dialer()
    try:
        reader.open()
    except CaptureError as error:
        raise SourceError(str(error)) from error
    if not reader.live:
        return reader
    dialer.request = dataclasses.replace(
        request, text=locate(request.text), camera=reader.camera, again=True
    )
    return Reconnecting(
        reader,
        dialer if reconnect else None,
        check=FrozenCheck(FROZEN_LIMIT_S) if may_freeze else None,
        patience_s=request.read_timeout_s,
    )
