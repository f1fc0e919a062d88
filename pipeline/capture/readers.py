"""Sources opened and read on a thread or in a child process, so that none can hang its reader.

The parent asks its child for one frame at a time over a socket; the child writes the pixels into
shared memory and answers with a line of JSON. The memory has no name in the file system, so
nothing is left behind if a process dies. The child ends when its parent does.
"""

from __future__ import annotations

import abc
import contextlib
import json
import logging
import mmap
import os
import queue
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import CaptureError, ConfigError, FrameError, SourceError
from pipeline.process.children import python_command
from pipeline.source import Source, SourceOptions
from pipeline.types import Frame
from pipeline.unclosed import close_when_dropped

log = logging.getLogger(__name__)

START_LIMIT_S = 10.0
"""The time to start Python and OpenCV on a small machine, in addition to opening the source."""
ALIGNMENT = 64
"""Arrays in the shared memory begin at multiples of this."""
_REAP_LIMIT_S = 1.0  # a process blocked in a driver survives SIGKILL until the driver returns
_ERRORS = {error.__name__: error for error in (SourceError, CaptureError, FrameError, ConfigError)}


class HangError(CaptureError):
    """The driver or the decoder did not return in time, in spite of its own timeouts."""


@dataclass(frozen=True)
class Request:
    """The text and the options of a source to open.

    - `again`: it was open before, so what the server has kept is skipped
    """

    text: str
    options: SourceOptions
    again: bool = False


Connect = Callable[[Request], Source[Frame]]


@dataclass(eq=False)
class Reader(Source[Frame]):
    """A source that is opened in a second step, so that `close` can end the opening too.

    Until `open` has returned, a reader has none of the attributes of a `Source`.
    """

    connect: Connect
    request: Request
    subject: str
    open_limit_s: float
    read_limit_s: float

    def __post_init__(self) -> None:
        self._closed = threading.Event()

    @abc.abstractmethod
    def open(self) -> None:
        """Wait until the source is open.

        Raises `SourceError` if it cannot be opened, `HangError` if the attempt does not return,
        and `CaptureError` if it was closed meanwhile.
        """


class ThreadReader(Reader):
    """Reads on a thread, one frame per request, so that no frame waits and grows old.

    Python cannot stop a thread: one that hangs is left behind, with the device that it holds.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._work = _ReaderWork(self.connect, self.request)
        self._unclosed: weakref.finalize[..., object] | None = None

    def open(self) -> None:
        threading.Thread(target=self._work.run, name="reader", daemon=True).start()
        self._answer("opening", self.open_limit_s)
        source = self._work.source
        if self._closed.is_set() or source is None:
            raise CaptureError(f"{self.subject}: closed while it was being opened")
        self._unclosed = close_when_dropped(self, f"source {self.subject}", self._work.end)
        self.camera, self.live = source.camera, source.live
        self.frames, self.fps = source.frames, source.fps

    def read(self) -> Frame | None:
        if self._closed.is_set():
            return None
        self._work.requests.put(True)
        return self._answer("reading a frame", self.read_limit_s)

    def close(self) -> None:
        self._closed.set()
        if self._unclosed is not None:
            self._unclosed.detach()
        self._work.end()

    def _answer(self, what: str, limit_s: float) -> Frame | None:
        try:
            frame, error = self._work.answers.get(timeout=limit_s)
        except queue.Empty:
            self.close()
            raise HangError(
                f"{self.subject}: {what} timed out after {limit_s:g} s; "
                f"the driver or decoder hangs and is abandoned"
            ) from None
        if error is not None:
            raise error
        return frame


class _ReaderWork:
    """What the thread of a `ThreadReader` does. It does not refer to the reader."""

    def __init__(self, connect: Connect, request: Request) -> None:
        self._connect = connect
        self._request = request
        self.source: Source[Frame] | None = None
        self.requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[Frame | None, BaseException | None]] = (
            queue.SimpleQueue()
        )

    def run(self) -> None:
        try:
            source = self.source = self._connect(self._request)
        except BaseException as error:  # raised by `open`, whatever it is
            self.answers.put((None, error))
            return
        with source:
            self.answers.put((None, None))
            while self.requests.get():
                try:
                    self.answers.put((source.read(), None))
                except BaseException as error:  # noqa: PERF203 - raised by `read`
                    self.answers.put((None, error))

    def end(self) -> None:
        """End the thread, and a reader that waits for it."""
        self.requests.put(False)
        self.answers.put((None, None))
        if self.source is not None:
            self.source.close()


class ChildReader(Reader):
    """Reads in a child process, which can be killed; the child imports and calls `connect`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._in_use = threading.Lock()
        self._socket, self._childs_end = socket.socketpair()
        self._lines = self._socket.makefile("rb")
        self._memory = anonymous_file()
        self._mapped: mmap.mmap | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        opener = {"module": self.connect.__module__, "function": self.connect.__name__}
        wish = {**opener, **asdict(self.request)}
        answer = self._ask(wish, "opening", self.open_limit_s + START_LIMIT_S)
        if answer is None:
            raise CaptureError(f"{self.subject}: closed while it was being opened")
        self.camera, self.live = answer["camera"], answer["live"]
        self.frames, self.fps = answer["frames"], answer["fps"]

    def read(self) -> Frame | None:
        answer = self._ask({}, "reading a frame", self.read_limit_s)
        if answer is None or "arrays" not in answer:
            return None
        arrays = answer["arrays"]
        return Frame(arrays.pop(""), camera=self.camera, planes=arrays, **answer["fields"])

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a reader that waits
        # A reader that holds the lock cleans up afterwards.
        if self._in_use.acquire(blocking=False):
            try:
                self._clean_up()
            finally:
                self._in_use.release()

    def _ask(self, wish: dict[str, Any], what: str, limit_s: float) -> dict[str, Any] | None:
        """The child's answer, with `arrays` if it is a frame; None once closed."""
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
                f"{self.subject}: {what} timed out after {limit_s:g} s; reader process killed"
            ) from None
        except OSError:
            line = b""
        if self._closed.is_set():
            return None
        if not line:
            raise CaptureError(f"{self.subject}: the reader process {self._how_it_ended()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind, message = answer["error"], answer["message"]
            if kind not in _ERRORS:
                raise CaptureError(f"{self.subject}: {kind}: {message}")
            raise _ERRORS[kind](message)
        if "arrays" in answer:
            answer["arrays"] = {name: self._copy(*place) for name, *place in answer["arrays"]}
        return answer

    def _copy(self, offset: int, shape: list[int], dtype: str) -> npt.NDArray[Any]:
        """An array of the shared memory, copied because the child overwrites it."""
        count = int(np.prod(shape))
        end = offset + count * np.dtype(dtype).itemsize
        if self._mapped is None or len(self._mapped) < end:
            self._mapped = mmap.mmap(self._memory.fileno(), 0, prot=mmap.PROT_READ)
        shared = np.frombuffer(self._mapped, dtype, count, offset).reshape(shape)
        array: npt.NDArray[Any] = shared.copy()
        return array

    def _start(self) -> subprocess.Popen[bytes]:
        channel, memory = self._childs_end.fileno(), self._memory.fileno()
        process = subprocess.Popen(
            python_command(
                "from pipeline.capture.child_process import main; main()", channel, memory
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
            pass_fds=(channel, memory),
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
        )
        self._childs_end.close()  # so that the child's death is the end of the stream
        return process

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "did not start"
        try:
            code = self._process.wait(_REAP_LIMIT_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_LIMIT_S)
        self._lines.close()
        self._socket.close()
        self._childs_end.close()
        self._memory.close()
        if self._mapped is not None:
            self._mapped.close()


def anonymous_file() -> BinaryIO:
    """An empty file without a name, in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("vision-frame"), "w+b")
    return tempfile.TemporaryFile()
