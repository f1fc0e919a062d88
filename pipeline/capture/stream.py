"""Streams over http and rtsp."""

from __future__ import annotations

import logging
import math
import re
import socket
import time
from urllib.parse import urlsplit

import cv2

from pipeline.capture.live import open_live
from pipeline.capture.opencv import open_parameters
from pipeline.capture.readers import Request
from pipeline.capture.video import Video
from pipeline.errors import CaptureError, InputError, SourceError
from pipeline.ffmpeg import open_address
from pipeline.source import Source, SourceKind, SourceOptions, safe_name
from pipeline.text.display import shown_source
from pipeline.text.native import utf8
from pipeline.types import Frame

log = logging.getLogger(__name__)

_DEFAULT_PORT = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_PROBE_TIMEOUT_S = 1.0
_BACKLOG_LIMIT_S = {"rtsp": 3.0, "http": 1.0}
_USUAL_FPS = 25.0  # OpenCV states it for http, whatever the rate is
_PACED = 0.4  # of the time between two frames


class Stream(Video):
    """A stream, or a file of known length on a server."""

    def skip_backlog(self, limit_s: float) -> int:
        """Skip the frames that queued up before the first read; returns their number.

        Such frames arrive faster than they were captured: their arrivals are closer together than
        their presentation times. The backlog ends with two frames in a row that are not, or after
        `limit_s` seconds.
        """
        deadline_s = time.monotonic() + limit_s
        paced = skipped = 0
        arrived_ms = position_ms = math.inf
        while paced < 2 and time.monotonic() < deadline_s:
            if not self._grab():
                return skipped
            skipped += 1
            now_ms, then_ms = 1000 * time.monotonic(), self._capture.get(cv2.CAP_PROP_POS_MSEC)
            step_ms = then_ms - position_ms
            if step_ms <= 0:  # some versions of OpenCV state no positions for http
                step_ms = 1000 / (self.fps or _USUAL_FPS)
            is_paced = now_ms - arrived_ms >= _PACED * step_ms
            paced = paced + 1 if is_paced else 0
            arrived_ms, position_ms = now_ms, then_ms
        return skipped


def is_stream(text: str) -> bool:
    """Whether `text` is an http or rtsp address, well-formed or not."""
    return text.partition("://")[0].lower() in _DEFAULT_PORT and "://" in text


def check_address(url: str) -> str:
    """Scheme, host and port of a stream, for messages: all else may hold a password.

    Raises `SourceError` if it is not an address.
    """
    subject = shown_source(url)
    try:
        is_valid = bool(urlsplit(utf8(url)).hostname)
        _ = urlsplit(url).port
    except (ValueError, InputError):  # whose messages repeat parts of the address
        is_valid = False
    if not is_valid:
        raise SourceError(
            f"{subject}: not a valid address; expected SCHEME://HOST[:PORT]/PATH, with / # ? @ in "
            f"a user name or password written as %2F %23 %3F %40"
        )
    return subject


def open_stream(text: str, options: SourceOptions) -> Source[Frame]:
    """Open an http or rtsp stream that reconnects, unless `reconnect` is False.

    It is live, unless the server sends a file of known length. Raises `SourceError`.
    """
    return open_live(connect, Request(text, options), subject=check_address(text))


def connect(request: Request) -> Stream:
    """Open a stream once.

    An rtsp stream begins with the frame that is being sent, not with those that arrived while it
    was opened; so does an http stream that is opened again.

    Raises `SourceError` if nothing answers within the timeout or no video comes, and `CaptureError`
    if the stream breaks at once.
    """
    url, options = request.text, request.options
    subject = check_address(url)
    parameters = open_parameters(
        OPEN_TIMEOUT_MSEC=options.open_timeout_s * 1000,
        READ_TIMEOUT_MSEC=options.read_timeout_s * 1000,
        N_THREADS=1,
    )
    started = time.monotonic()
    kind = url.lower()[:4]
    capture = open_address(url, parameters)
    if not capture.isOpened():
        raise SourceError(f"{subject}: {_why_not(url, time.monotonic() - started)}")
    source = Stream(
        capture,
        options.camera or _name_of(url),
        subject,
        is_stream=True,
        read_timeout_s=options.read_timeout_s,
    )
    if source.live and (request.again or kind == "rtsp"):
        try:
            skipped = source.skip_backlog(_BACKLOG_LIMIT_S[kind])
        except CaptureError:
            source.close()
            raise
        log.debug("%s: skipped a backlog of %d frames", subject, skipped)
    return source


def _why_not(url: str, waited_s: float) -> str:
    """FFmpeg does not say why a stream does not open, so check whether the server answers."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORT[parts.scheme.lower()]
    try:
        with socket.create_connection((parts.hostname or "", port), _PROBE_TIMEOUT_S):
            return (
                f"the server answers, but no video came within {waited_s:.1f} s; check the path, "
                f"the user name and the password"
            )
    except (OSError, UnicodeError) as error:  # UnicodeError: too long for the name of a host
        reason = getattr(error, "strerror", None) or "not the name of a host"
        return f"nothing answers on port {port} ({reason}); check the address"


def _name_of(url: str) -> str:
    """The host; if it is not clear which part of the address that is, the scheme."""
    scheme, _, rest = shown_source(url).partition("://")
    host = re.sub(r":\d*$", "", rest).strip("[].")
    return safe_name(host or scheme)


KIND = SourceKind(
    "streams",
    "rtsp://... or http(s)://...",
    is_stream,
    open_stream,
    ("open_timeout_s", "read_timeout_s", "reconnect", "isolate"),
)
