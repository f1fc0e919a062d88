"""A source in a process of its own: it can be killed where a thread that hangs cannot be stopped.

The parent asks for one frame at a time over a socket; the child writes the pixels into memory that
both have mapped and answers with a line of JSON. The memory has no name in the file system, so
nothing is left behind whoever dies. The child ends when its parent does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Any, BinaryIO

import numpy as np

from pipeline.capture.watchdog import HangError, Reader
from pipeline.errors import CaptureError, ConfigError, FrameError, SourceError
from pipeline.types import Frame, Image

log = logging.getLogger(__name__)

START_LIMIT_S = 10.0
"""What starting Python and OpenCV may take on a small machine, beside opening the source."""
_REAP_LIMIT_S = 1.0  # a process stuck in a driver outlives even SIGKILL until the driver lets go
_ERRORS = {error.__name__: error for error in (SourceError, CaptureError, FrameError, ConfigError)}


class ChildReader(Reader):
    """Reads in a child process, which opens what `request` says with `capture.open.open_plain`."""

    def __init__(
        self, request: dict[str, Any], subject: str, *, open_limit_s: float, read_limit_s: float
    ) -> None:
        self._request = request
        self._subject = subject
        self._open_limit_s = open_limit_s + START_LIMIT_S
        self._read_limit_s = read_limit_s
        self._closed = threading.Event()
        self._in_use = threading.Lock()
        self._socket, self._childs_end = socket.socketpair()
        self._lines = self._socket.makefile("rb")
        self._memory = anonymous_file()
        self._pixels: mmap.mmap | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        about = self._ask(self._request, "opening it", self._open_limit_s)
        if about is None:
            raise CaptureError(f"{self._subject}: closed while it was being opened")
        self.camera, self.live = about["camera"], about["live"]
        self.frames, self.fps = about["frames"], about["fps"]

    def read(self) -> Frame | None:
        about = self._ask({}, "reading a frame", self._read_limit_s)
        if about is None or about.get("end"):
            return None
        return Frame(about["image"], about["stamp_ns"], about["seq"], self.camera)

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):  # not connected any more, which is just as well
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a reader that waits
        # A reader that holds the lock tidies up in our place.
        if self._in_use.acquire(blocking=False):
            try:
                self._tidy_up()
            finally:
                self._in_use.release()

    def _ask(self, wish: dict[str, Any], what: str, limit_s: float) -> dict[str, Any] | None:
        """The child's answer, with the picture as `image` where one came; None once closed."""
        try:
            with self._in_use:
                if self._closed.is_set():
                    return None
                if self._process is None:
                    self._process = self._start()
                return self._exchange(wish, what, limit_s)
        finally:
            if self._closed.is_set():
                self.close()

    def _exchange(self, wish: dict[str, Any], what: str, limit_s: float) -> dict[str, Any] | None:
        self._socket.settimeout(limit_s)
        try:
            self._socket.sendall(json.dumps(wish).encode() + b"\n")
            line = self._lines.readline()
        except TimeoutError:
            self._closed.set()
            raise HangError(
                f"{self._subject}: {what} has not come back for {limit_s:g} s; "
                f"the process that reads it is killed"
            ) from None
        except OSError:
            line = b""
        if self._closed.is_set():
            return None
        if not line:
            raise CaptureError(f"{self._subject}: the process that reads it {self._how_it_ended()}")
        about: dict[str, Any] = json.loads(line)
        if "error" in about:
            raise _ERRORS.get(about["error"], CaptureError)(about["message"])
        if "shape" in about:
            about["image"] = self._copy(about["shape"])
        return about

    def _copy(self, shape: list[int]) -> Image:
        """The picture in memory of our own, since the child writes the next one over it."""
        size = int(np.prod(shape))
        if self._pixels is None or len(self._pixels) < size:
            self._pixels = mmap.mmap(self._memory.fileno(), 0, prot=mmap.PROT_READ)
        image: Image = np.frombuffer(self._pixels, np.uint8, size).reshape(shape).copy()
        return image

    def _start(self) -> subprocess.Popen[bytes]:
        ours, memory = self._childs_end.fileno(), self._memory.fileno()
        command = [sys.executable, "-m", "pipeline.capture.child_process", str(ours), str(memory)]
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
            pass_fds=(ours, memory),
            start_new_session=True,  # Ctrl-C at the terminal is for us, who then end it
        )
        self._childs_end.close()  # so that its death is the end of the stream
        return process

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "did not start"
        try:
            code = self._process.wait(_REAP_LIMIT_S)
        except subprocess.TimeoutExpired:
            return "broke off"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _tidy_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_LIMIT_S)
        self._lines.close()
        self._socket.close()
        self._childs_end.close()
        self._memory.close()
        if self._pixels is not None:
            self._pixels.close()


def anonymous_file() -> BinaryIO:
    """An empty file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("vision-frame"), "w+b")
    return tempfile.TemporaryFile()
