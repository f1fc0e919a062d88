"""A stage: threads that take items from one place, work on them, and put them into the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pipeline.errors import StageError
from pipeline.runtime.mailbox import Closed

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
        self._failure: StageError | None = None
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
            self._failure = self._failure or _as_stage_error(cause)
            for item in self._inbox.cancel():  # which wakes the other workers
                self._lose(item, False)
        finally:
            with self._lock:
                self._running -= 1
                is_last = self._running == 0
            if is_last:
                self._outbox.close(self._failure)

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


def _as_stage_error(cause: BaseException) -> StageError:
    """The cause with the name of the thread, which is that of the stage or of its current step."""
    if isinstance(cause, StageError):
        return cause
    name = threading.current_thread().name
    error = StageError(f"stage {name}: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
