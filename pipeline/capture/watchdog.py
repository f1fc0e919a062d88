"""A source that is opened and read on a thread of its own: one that hangs holds nobody up."""

from __future__ import annotations

import abc
import queue
import threading
from collections.abc import Callable

from pipeline.errors import CaptureError
from pipeline.source import Source
from pipeline.types import Frame


class HangError(CaptureError):
    """The driver or the decoder did not come back in time, whatever its own time limits say."""


class Reader(Source[Frame]):
    """A source that is opened in a second step, so that `close` can break off the opening too.

    Until `open` has returned, a reader has none of the attributes of a `Source`.
    """

    @abc.abstractmethod
    def open(self) -> None:
        """Wait until the source is open.

        Raises `SourceError` where it cannot be opened, `HangError` where the attempt does not come
        back, and `CaptureError` where it was closed meanwhile.
        """


class ThreadReader(Reader):
    """Reads on a thread, one frame when asked for it, so that no frame waits and grows old.

    Python cannot stop a thread: one that hangs is left behind, with the device that it holds.
    """

    def __init__(
        self,
        connect: Callable[[], Source[Frame]],
        subject: str,
        *,
        open_limit_s: float,
        read_limit_s: float,
    ) -> None:
        self._connect = connect
        self._subject = subject
        self._open_limit_s = open_limit_s
        self._read_limit_s = read_limit_s
        self._source: Source[Frame] | None = None
        self._closed = threading.Event()
        self._wishes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Source[Frame] | Frame | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name="reader", daemon=True)

    def open(self) -> None:
        self._thread.start()
        source = self._answer("opening it", self._open_limit_s)
        if not isinstance(source, Source):
            raise CaptureError(f"{self._subject}: closed while it was being opened")
        self.camera, self.live = source.camera, source.live
        self.frames, self.fps = source.frames, source.fps

    def read(self) -> Frame | None:
        if self._closed.is_set():
            return None
        self._wishes.put(True)
        frame = self._answer("reading a frame", self._read_limit_s)
        return frame if isinstance(frame, Frame) else None

    def close(self) -> None:
        self._closed.set()
        self._wishes.put(False)
        self._answers.put(None)  # for a reader that waits
        if self._source is not None:
            self._source.close()

    def _answer(self, what: str, limit_s: float) -> Source[Frame] | Frame | None:
        try:
            answer = self._answers.get(timeout=limit_s)
        except queue.Empty:
            self.close()
            raise HangError(
                f"{self._subject}: {what} has not come back for {limit_s:g} s; "
                f"the driver or decoder hangs and is given up"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _work(self) -> None:
        try:
            source = self._connect()
        except BaseException as error:  # whatever it is, who waits for the answer gets it
            self._answers.put(error)
            return
        with source:
            self._source = source
            self._answers.put(source)
            while self._wishes.get():
                self._answers.put(_outcome(source.read))


def _outcome(read: Callable[[], Frame | None]) -> Frame | BaseException | None:
    try:
        return read()
    except BaseException as error:
        return error
