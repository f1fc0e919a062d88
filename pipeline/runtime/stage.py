"""A stage: the only owner of threads in the pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.errors import StageError
from pipeline.runtime.mailbox import Closed

In = TypeVar("In")
Out = TypeVar("Out")


class Stage(Generic[In, Out]):
    """Takes items, works on each, and passes the outcome on, in one or more threads of its own.

    - `take`: gives the next item, waiting for it; `Closed` ends the stage
    - `work`: turns an item into what is passed on; several workers call it at once
    - `give`: hands the outcome over; `Closed` ends the stage
    - `discard`: gets every outcome that could not be handed over, and `fail` every item whose work
      raised, so that nothing taken is ever lost from the count
    - `abort`: called as soon as `take`, `work` or `give` has raised, to wake the other workers
    - `finish`: called once, after the last worker has ended, with the failure or None

    What was raised reaches `finish` as a `StageError` with its cause. A `StageError` that `take`
    raises is an earlier stage's and is passed on as it is, so that it arrives behind all results
    that were finished before.
    """

    def __init__(
        self,
        name: str,
        *,
        take: Callable[[], In],
        work: Callable[[In], Out],
        give: Callable[[Out], object],
        discard: Callable[[Out], None],
        fail: Callable[[In], None],
        abort: Callable[[], None],
        finish: Callable[[StageError | None], None],
        workers: int = 1,
    ) -> None:
        self.name = name
        self._take = take
        self._work = work
        self._give = give
        self._discard = discard
        self._fail = fail
        self._abort = abort
        self._finish = finish
        self._lock = threading.Lock()
        self._running = workers
        self._failure: StageError | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def join(self, deadline_s: float) -> bool:
        """Wait for all workers until `time.monotonic()` is `deadline_s`; False if one runs on."""
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        try:
            while True:
                self._pass_one_on()
        except Closed:
            pass
        except BaseException as cause:  # whatever it is, the pipeline's user must get to see it
            self._failure = self._failure or self._as_stage_error(cause)
            self._abort()
        finally:
            with self._lock:
                self._running -= 1
                is_last = self._running == 0
            if is_last:
                self._finish(self._failure)

    def _as_stage_error(self, cause: BaseException) -> StageError:
        if isinstance(cause, StageError):
            return cause
        error = StageError(f"stage {self.name}: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error

    def _pass_one_on(self) -> None:
        item = self._take()
        try:
            outcome = self._work(item)
        except BaseException:
            self._fail(item)
            raise
        try:
            self._give(outcome)
        except Closed:
            self._discard(outcome)
            raise
