"""Threads that take items from one place and put them into the next, and the source reader."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pipeline.errors import FrameError, StageError
from pipeline.runtime.mailbox import Closed
from pipeline.runtime.statistics import RunStatistics
from pipeline.source import Source
from pipeline.types import Frame, Result, described

logger = logging.getLogger(__name__)


class SourceReader:
    """Reads a source until it ends, is stopped, or has given `limit` items."""

    def __init__(
        self, source: Source[Any], statistics: RunStatistics, limit: int | None = None
    ) -> None:
        self._source = source
        self._statistics = statistics
        self._limit = limit
        self._is_handed_out = False
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopped

    def stop(self) -> None:
        """Read nothing more. Takes no lock, so a signal handler or any thread may call it."""
        self._is_stopped = True

    def get(self) -> Frame | Result:
        """Return the next item; a frame that cannot be decoded is counted and skipped.

        Raises `Closed` at the end.
        """
        counts = self._statistics.counts
        while not self._is_stopped and counts["captured"] != self._limit:
            started_ns = time.perf_counter_ns()
            try:
                item: object = self._source.read()
            except FrameError as error:
                counts.add("captured")
                counts.add("failed")
                logger.warning("%s", error)
                continue
            if item is None:
                break
            counts.add("captured")
            if not isinstance(item, (Frame, Result)):
                counts.add("failed")
                raise ValueError(
                    f"{type(self._source).__name__}.read must return a Frame, a Result or None, "
                    f"but returned {described(item)}"
                )
            self._statistics.add_time("capture", time.perf_counter_ns() - started_ns)
            return item
        raise Closed

    def cancel(self) -> tuple[()]:
        """Read nothing more; no item waits here."""
        self._is_stopped = True
        return ()

    def hand_out(self) -> None:
        """Note that the consumer gets an item that was read."""
        self._is_handed_out = True

    def acknowledge(self) -> None:
        """Note that the consumer has returned, so it has processed what was handed out."""
        if self._is_handed_out:
            self._is_handed_out = False
            self._source.done()


In = TypeVar("In")
Out = TypeVar("Out")
In_co = TypeVar("In_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)


class Inbox(Protocol[In_co]):
    """Where a stage takes its items: `Mailbox`, `Admission` or `SourceReader`."""

    def get(self) -> In_co: ...
    def cancel(self) -> Sequence[Any]: ...


class Outbox(Protocol[Out_contra]):
    """Where a stage puts its results: `Mailbox` or `InOrder`; `put` returns what it displaced."""

    def put(self, item: Out_contra, /) -> Any: ...
    def close(self, failure: BaseException | None, /) -> None: ...


class Stage(Generic[In, Out]):
    """Takes items from `inbox`, calls `work` with each, and puts the results into `outbox`.

    - `work`: called by `workers` threads at once
    - `lose`: called with each item that goes no further, and whether `work` failed on it, so that
      nothing taken is lost from the counts

    `Closed` from either box ends the stage, and so does any other exception: it reaches the outbox
    as a `StageError` with its cause, after the results that were finished before. The `StageError`
    of an earlier stage is passed on unchanged.
    """

    def __init__(
        self,
        name: str,
        inbox: Inbox[In],
        work: Callable[[In], Out],
        outbox: Outbox[Out],
        lose: Callable[[Any, bool], None],
        workers: int = 1,
    ) -> None:
        self._inbox = inbox
        self._work = work
        self._outbox = outbox
        self._lose = lose
        self._lock = threading.Lock()
        self._running = workers
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def join(self, deadline_s: float) -> list[str]:
        """Wait until `time.monotonic()` is `deadline_s`; returns the names of running threads."""
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _run(self) -> None:
        try:
            while True:
                self._process_next()
        except Closed:
            pass
        except BaseException as cause:  # whatever it is, the consumer has to see it
            self._failure = self._failure or _as_failure(cause)
            for item in self._inbox.cancel():  # which wakes the other workers
                self._lose(item, False)
        finally:
            self._end_worker()

    def _end_worker(self) -> None:
        """Close the outbox behind the last worker.

        The failure is kept neither here nor in the frame of `_run`: its traceback refers to both,
        and to the models, which such a cycle would keep until a garbage collection.
        """
        with self._lock:
            self._running -= 1
            is_last = self._running == 0
        if is_last:
            failure, self._failure = self._failure, None
            self._outbox.close(failure)

    def _process_next(self) -> None:
        item = self._inbox.get()
        try:
            result = self._work(item)
        except BaseException:
            self._lose(item, True)
            raise
        try:
            displaced = self._outbox.put(result)
        except Closed:
            self._lose(result, False)
            raise
        if displaced is not None:
            self._lose(displaced, False)


def _as_failure(cause: BaseException) -> BaseException:
    """The cause with the name of the thread, which is that of the stage or of its current step.

    What ends a program (`SystemExit`, `KeyboardInterrupt`) stays as it is.
    """
    if isinstance(cause, StageError) or not isinstance(cause, Exception):
        return cause
    name = threading.current_thread().name
    error = StageError(f"stage {name}: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
