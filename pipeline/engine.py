"""Wires a source, the detector, the classifier and their threads into one `Pipeline`.

    source -> [capture] -> newest frame or back-pressure -> [preprocess] -> [detect] -> [classify]
           -> back in order -> whoever iterates

Of a source with several cameras the newest frame of each waits, and they are served in turn.
Frames enter the part behind the capture mailbox only with a permit, and a result gives its permit
back when it is taken. The number of permits is therefore the number of frames in flight, and the
only place where a frame can be dropped in passing is the capture mailbox.

Two policies use the same cores in two ways. `latest`: one frame in flight, and every call uses all
cores, so that a result is as young as it can be. `every frame`: several frames in flight with one
core each, which wastes no time on splitting a layer between cores, so that the rate is highest.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

from pipeline.errors import ConfigError
from pipeline.inference.session import available_threads
from pipeline.inference.steps import BoxClassifier, FrameDetector, Job, Steps
from pipeline.runtime.intake import Intake
from pipeline.runtime.mailbox import Closed, Mailbox, NewestOfEach
from pipeline.runtime.ordering import InOrder
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.stage import Stage
from pipeline.types import Frame, Result

STAGES = ("capture", "preprocess", "detect", "classify", "output")
PARALLEL_STAGES = ("detect", "classify")  # with every frame wanted, as many workers as cores
POLL_S = 0.1  # how often a waiting reader looks whether it was asked to stop
DRAIN_S = 1.0  # how long frames in flight may take to finish after a request to stop
JOIN_S = 0.6  # how long all threads may take to end; a reader stuck in a driver is left behind

logger = logging.getLogger(__name__)


class FrameSource(Protocol):
    """What the pipeline needs of a source; `pipeline.capture` has the real ones."""

    live: bool

    def read(self) -> Frame | None: ...
    def close(self) -> None: ...


class Pipeline:
    """Runs a source through a detector and a classifier; iterating gives `Result`s in order.

    - `every_frame`: True for every frame, False for the newest only; by default as the source is
      (files: every frame, live sources: the newest)
    - `threads`: the cores that ONNX Runtime and OpenCV may use together, all by default
    - `max_frames`, `duration_s`: end after so many frames or seconds

    Use it as a context manager: entering starts the threads, leaving ends them and closes the
    source. A stage that fails raises its `StageError` from the iteration, after the results that
    were finished before. At the end captured = processed + dropped + failed. It runs once.

    Raises `ConfigError` for a limit that makes no sense.
    """

    def __init__(
        self,
        source: FrameSource,
        detector: FrameDetector,
        classifier: BoxClassifier | None = None,
        *,
        every_frame: bool | None = None,
        threads: int | None = None,
        max_frames: int | None = None,
        duration_s: float | None = None,
    ) -> None:
        for name, value in (("threads", threads), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, but got {value}")
        if duration_s is not None and not duration_s > 0:
            raise ConfigError(f"duration_s must be more than 0 seconds, but got {duration_s}")
        self._source = source
        self._steps = Steps(detector, classifier)
        self._every_frame = not source.live if every_frame is None else every_frame
        self._threads = threads or available_threads()
        self._max_frames = max_frames
        self._duration_s = duration_s
        self._stats = RunStats(source, STAGES)
        self._intake = Intake(source, self._stats, max_frames if self._every_frame else None)
        self._stop_by_s: float | None = None
        self._is_cancelled = False
        self._next_ticket = 0
        self._build()

    # --- building and running ---------------------------------------------------------------

    def _build(self) -> None:
        self._workers = self._threads if self._every_frame else 1
        in_flight = self._workers + 1 if self._every_frame else 1
        # So many model calls run at once, whichever stage they belong to: that is the budget.
        self._cores = threading.BoundedSemaphore(self._workers)
        self._permits: Mailbox[None] = Mailbox(in_flight)
        for _ in range(in_flight):
            self._permits.put(None)
        self._captured: Mailbox[Job] = Mailbox(1) if self._every_frame else NewestOfEach(_camera)
        self._prepared: Mailbox[Job] = Mailbox(in_flight)
        self._detected: Mailbox[Job] = Mailbox(in_flight)
        self._results: Mailbox[Job] = Mailbox(in_flight)
        self._in_order = InOrder(self._results.put, self._drop)
        captured, prepared, detected = self._captured, self._prepared, self._detected
        steps, results = self._steps, self._results
        self._stages = [
            self._stage("capture", self._read, _unchanged, self._offer, None, captured),
            self._stage("preprocess", self._admit, steps.prepare, prepared.put, captured, prepared),
            self._stage("detect", prepared.get, steps.detect, detected.put, prepared, detected),
            self._stage("classify", detected.get, steps.classify, self._order, detected, results),
        ]

    def _stage(
        self,
        name: str,
        take: Callable[[], Job],
        work: Callable[[Job], Job],
        give: Callable[[Job], object],
        inbox: Mailbox[Job] | None,
        outbox: Mailbox[Job],
    ) -> Stage[Job, Job]:
        return Stage(
            name,
            take=take,
            work=self._timed(name, work) if inbox is not None else work,
            give=give,
            discard=self._drop,
            fail=self._fail,
            abort=lambda: self._discard_all(inbox) if inbox is not None else None,
            finish=outbox.close,
            workers=self._workers if name in PARALLEL_STAGES else 1,
        )

    def __enter__(self) -> Pipeline:
        if self._stats.has_started:
            raise RuntimeError("a Pipeline runs once; make another one")
        try:
            self._steps.warm_up(1 if self._every_frame else self._threads)
        except BaseException:
            self._source.close()
            raise
        self._stats.start()
        for stage in self._stages:
            stage.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """The next result.

        Raises `StopIteration` at the end, and the `StageError` of a stage that failed.
        """
        if not self._stats.has_started:
            raise RuntimeError("a Pipeline is entered first: with Pipeline(...) as results: ...")
        self._intake.acknowledge()
        while True:
            self._check_time()
            try:
                job = self._results.get(POLL_S)
            except TimeoutError:
                continue
            except Closed:
                raise StopIteration from None
            self._stats.tally.add("processed")
            self._record_age("output", job)
            self._return_permit()
            self._intake.hand_out()
            return job.result()

    def stop(self) -> None:
        """Ask for an end: no frame is captured any more, those in flight are still given.

        Takes no lock, so a signal handler or any thread may call it.
        """
        self._intake.stop()

    def close(self) -> None:
        """End at once; frames in flight are dropped. Calling it again does nothing."""
        self._cancel()
        self._source.close()
        deadline_s = time.monotonic() + JOIN_S
        stages = self._stages if self._stats.has_started else []
        left_behind = [stage.name for stage in stages if not stage.join(deadline_s)]
        for name in left_behind:
            logger.warning("stage %s did not end in time and is left behind", name)
        self._discard_all(self._results)
        for job in self._in_order.cancel():
            self._drop(job)
        self._stats.end()
        if left_behind:
            self._stats.tally.settle()

    def record_output(self, duration_ns: int) -> None:
        """Note how long the consumer took over one result, for the statistics."""
        self._stats.add_time("output", duration_ns)

    def stats(self) -> dict[str, Any]:
        """Counts, rate, ages and stage times so far, in the form of `--stats`."""
        return self._stats.as_dict()

    # --- what the stages do -----------------------------------------------------------------

    def _read(self) -> Job:
        job = Job(self._intake.read())
        self._record_age("capture", job)
        return job

    def _offer(self, job: Job) -> None:
        displaced = self._captured.put(job)
        if displaced is not None:
            self._drop(displaced)

    def _admit(self) -> Job:
        """A permit, then the frame to use it on: the newest, where only the newest counts."""
        self._permits.get()
        if self._next_ticket == self._max_frames:
            self._end_capture()
        job = self._captured.get()
        job.ticket = self._next_ticket
        self._next_ticket += 1
        return job

    def _order(self, job: Job) -> None:
        self._in_order.put(job.ticket, job)

    def _timed(self, name: str, work: Callable[[Job], Job]) -> Callable[[Job], Job]:
        core = self._cores if name in PARALLEL_STAGES else contextlib.nullcontext()

        def timed(job: Job) -> Job:
            with core:
                started_ns = time.perf_counter_ns()
                job = work(job)
                job.stage_ns[name] = time.perf_counter_ns() - started_ns
            self._stats.add_time(name, job.stage_ns[name])
            self._record_age(name, job)
            return job

        return timed

    # --- ending -----------------------------------------------------------------------------

    def _check_time(self) -> None:
        """Carry out a request to stop, here, where locks may be taken."""
        if self._duration_s is not None and self._stats.seconds >= self._duration_s:
            self._intake.stop()
        if not self._intake.is_stopped:
            return
        now_s = time.monotonic()
        if self._stop_by_s is None:
            self._stop_by_s = now_s + DRAIN_S
            self._end_capture()
        elif now_s > self._stop_by_s:
            self._cancel()

    def _end_capture(self) -> None:
        """Take no further frame; where every frame counts, those already read are still used."""
        self._intake.stop()
        if not self._every_frame:
            self._discard_all(self._captured)

    def _cancel(self) -> None:
        """Close every mailbox; what is inside is dropped, finished results excepted."""
        self._is_cancelled = True
        self._intake.stop()
        self._permits.close()
        for mailbox in (self._captured, self._prepared, self._detected):
            self._discard_all(mailbox)
        self._results.close()
        self._steps.cancel()

    def _discard_all(self, mailbox: Mailbox[Job]) -> None:
        for job in mailbox.cancel():
            self._drop(job)

    # --- counting ---------------------------------------------------------------------------

    def _drop(self, job: Job) -> None:
        self._stats.tally.add("dropped")

    def _fail(self, job: Job) -> None:
        """A call that we broke off ourselves is no fault of the frame."""
        self._stats.tally.add("dropped" if self._is_cancelled else "failed")

    def _return_permit(self) -> None:
        try:
            self._permits.put(None)
        except Closed:
            logger.debug("the pipeline has ended; its permit is not needed any more")

    def _record_age(self, name: str, job: Job) -> None:
        frame = job.frame
        self._stats.add_age(name, frame.camera, frame.stamp_ns)


def _camera(job: Job) -> str:
    return job.frame.camera


def _unchanged(job: Job) -> Job:
    return job
