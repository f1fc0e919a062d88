"""Connects a source, steps and their threads into one `Pipeline`.

    source -> [reader] -> newest frame or back-pressure -> [steps] -> in order -> [steps] ...

A stage, in brackets, has threads of its own. Steps in a row that may run in any order share one
stage: each of its workers does all of them for a frame. Steps that need the frames in order have a
stage with one thread. Behind workers that may overtake each other, results are put back in order.

A frame is admitted to the first step when fewer than a fixed number are in flight, and counts as
in flight until its result is taken. So frames are dropped in one place only, in front of the steps.

Two policies use the same cores in two ways. Newest frame: one frame is in flight, and each call
uses all cores, so that a result is as young as it can be. Every frame: several frames are in
flight, each on one core, which has the highest rate because no layer is split between cores.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import cv2

from pipeline.errors import ConfigError
from pipeline.inference.session import available_threads
from pipeline.runtime.mailbox import Admission, Closed, InOrder, Mailbox, NewestOfEach
from pipeline.runtime.stage import Inbox, SourceReader, Stage
from pipeline.runtime.statistics import RunStatistics
from pipeline.source import Source
from pipeline.step import Step
from pipeline.types import Detections, Frame, Result

POLL_S = 0.1  # how often a waiting consumer checks for a request to stop
DRAIN_S = 1.0  # how long frames in flight may take to finish after a request to stop
JOIN_S = 0.6  # how long all threads may take to end; a reader stuck in a driver is left behind

_NOTHING = Detections.empty(())

logger = logging.getLogger(__name__)


class _Numbered(NamedTuple):
    """What travels: a result that grows from step to step, and its place in the order."""

    number: int
    result: Result


class Pipeline:
    """Runs the frames or results of a source through steps; iterating gives `Result`s in order.

    - `detector`, `classifier`: the first two steps, each optional
    - `steps`: further steps, run in this order; a step that has to run between detector and
      classifier is given as `steps=[detector, step, classifier]`
    - `every_frame`: True for every frame, False for the newest of each camera; by default as the
      source is (files: every frame, live sources: the newest)
    - `threads`: the cores that ONNX Runtime and OpenCV may use together, all by default
    - `capacity`: how many frames of a camera may wait, for sources that give several at once
    - `max_frames`, `duration_s`: end after this many frames or seconds

    Without steps, frames become results without objects, and results pass through unchanged.

    Use it as a context manager: entering starts the threads, leaving ends them and closes the
    source. A stage that fails raises its `StageError` from the iteration, after the results that
    were finished before. At the end captured = processed + dropped + failed. It runs once.

    Raises `ConfigError` if a limit is out of range.
    """

    def __init__(
        self,
        source: Source[Any],
        detector: Step | None = None,
        classifier: Step | None = None,
        steps: Iterable[Step] = (),
        *,
        every_frame: bool | None = None,
        threads: int | None = None,
        capacity: int = 1,
        max_frames: int | None = None,
        duration_s: float | None = None,
    ) -> None:
        for name, value in (("threads", threads), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, but got {value}")
        if duration_s is not None and not duration_s > 0:
            raise ConfigError(f"duration_s must be more than 0 seconds, but got {duration_s}")
        self._source = source
        self._steps = [step for step in (detector, classifier, *steps) if step is not None]
        self._every_frame = not source.live if every_frame is None else every_frame
        self._threads = threads or available_threads()
        self._max_frames = max_frames
        self._duration_s = duration_s
        self._stats = RunStatistics(source)
        self._numbers = itertools.count()
        self._stop_by_s: float | None = None
        self._is_cancelled = False
        self._connect(capacity)

    # --- the graph --------------------------------------------------------------------------

    def _connect(self, capacity: int) -> None:
        self._workers = self._threads if self._every_frame else 1
        self._cores = threading.BoundedSemaphore(self._workers)  # shared by all stages
        groups = [list(steps) for _, steps in itertools.groupby(self._steps, _needs_order)]
        self._in_flight = self._workers + len(groups) if self._every_frame else 1

        limit = self._max_frames if self._every_frame else None
        self._reader = SourceReader(self._source, self._stats, limit)
        captured: Mailbox[_Numbered] = (
            Mailbox(capacity) if self._every_frame else NewestOfEach(_camera, depth=capacity)
        )
        self._stages: list[Stage[Any, _Numbered]] = [
            Stage("capture", self._reader, self._enter, captured, self._lose)
        ]
        self._admission = Admission(captured, self._in_flight)
        self._mailboxes = [captured]
        self._orders: list[InOrder[_Numbered]] = []
        inbox: Inbox[_Numbered] = self._admission
        for steps in groups:
            inbox = self._add_stage(steps, inbox)
        self._results = self._mailboxes[-1]

    def _add_stage(self, steps: Sequence[Step], inbox: Inbox[_Numbered]) -> Mailbox[_Numbered]:
        """Add a stage that does `steps`; returns the mailbox that it fills, in order."""
        name, work = steps[0].name, partial(self._run, steps)
        outbox = Mailbox[_Numbered](self._in_flight)
        self._mailboxes.append(outbox)
        if steps[0].in_order or self._workers == 1:
            self._stages.append(Stage(name, inbox, work, outbox, self._lose))
        else:
            order = InOrder(outbox, _number)
            self._orders.append(order)
            self._stages.append(Stage(name, inbox, work, order, self._lose, self._workers))
        return outbox

    def _enter(self, item: Frame | Result) -> _Numbered:
        """Make a frame a result without objects, and number what was read."""
        if isinstance(item, Frame):
            item = Result(item.header, _NOTHING, frame=item)
        self._stats.add_age("capture", item.header)
        return _Numbered(next(self._numbers), item)

    def _run(self, steps: Sequence[Step], item: _Numbered) -> _Numbered:
        """Do steps in a row for one result."""
        result = item.result
        with contextlib.nullcontext() if steps[0].in_order else self._cores:
            for step in steps:
                result = self._timed(step, result)
        return _Numbered(item.number, result)

    def _timed(self, step: Step, result: Result) -> Result:
        threading.current_thread().name = step.name  # for messages and debuggers
        known = result.stage_ns
        started_ns = time.perf_counter_ns()
        result = step.process(result.frame, result)
        rest_ns = time.perf_counter_ns() - started_ns
        for part, part_ns in result.stage_ns.items():
            if part not in known:
                rest_ns -= part_ns
                self._stats.add_time(part, part_ns)
                self._stats.add_age(part, result.header, rest_ns)
        self._stats.add_time(step.name, rest_ns)
        self._stats.add_age(step.name, result.header)
        return replace(result, stage_ns={**result.stage_ns, step.name: rest_ns})

    # --- running ----------------------------------------------------------------------------

    def __enter__(self) -> Pipeline:
        if self._stats.has_started:
            raise RuntimeError("a Pipeline runs once; make another one")
        try:
            self._warm_up()
        except BaseException:
            self._source.close()
            raise
        self._stats.start()
        for stage in self._stages:
            stage.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """Return the next result.

        Raises `StopIteration` at the end, and the `StageError` of a stage that failed.
        """
        if not self._stats.has_started:
            raise RuntimeError("a Pipeline is entered first: with Pipeline(...) as results: ...")
        self._reader.acknowledge()
        while self._stats.counts["processed"] != self._max_frames:
            self._check_time()
            try:
                result = self._results.get(POLL_S).result
            except TimeoutError:
                continue
            except Closed:
                break
            self._stats.counts.add("processed")
            self._stats.add_age("output", result.header)
            if self._stats.counts["processed"] != self._max_frames:
                self._admission.leave()
            self._reader.hand_out()
            return result
        raise StopIteration

    def stop(self) -> None:
        """Request the end: no more frames are captured; those in flight are finished.

        Takes no lock, so a signal handler or any thread may call it.
        """
        self._reader.stop()

    def close(self) -> None:
        """End at once; frames in flight are dropped. Idempotent."""
        self._cancel()
        self._source.close()
        deadline_s = time.monotonic() + JOIN_S
        stages = self._stages if self._stats.has_started else []
        left_behind = [name for stage in stages for name in stage.join(deadline_s)]
        for name in dict.fromkeys(left_behind):
            logger.warning("stage %s did not end in time and is left behind", name)
        self._drop(self._results.cancel())
        for order in self._orders:
            self._drop(order.cancel())
        self._stats.end()
        if left_behind:
            self._stats.counts.settle()

    @property
    def source(self) -> Source[Any]:
        """The source of the frames or results."""
        return self._source

    def record_output(self, duration_ns: int) -> None:
        """Record how long the consumer took for one result, for the statistics."""
        self._stats.add_time("output", duration_ns)

    def stats(self) -> dict[str, Any]:
        """Counts, rate, ages and times so far, in the form of `--stats`."""
        return self._stats.as_dict()

    def _warm_up(self) -> None:
        threads_per_call = 1 if self._every_frame else self._threads
        if self._steps:
            cv2.setNumThreads(threads_per_call)
        for step in self._steps:
            step.warm_up(threads_per_call)

    # --- ending -----------------------------------------------------------------------------

    def _check_time(self) -> None:
        """Carry out a request to stop, here, where locks may be taken."""
        if self._duration_s is not None and self._stats.seconds >= self._duration_s:
            self._reader.stop()
        if not self._reader.is_stopped:
            return
        now_s = time.monotonic()
        if self._stop_by_s is None:
            self._stop_by_s = now_s + DRAIN_S
            if not self._every_frame:  # else those already read are still used
                self._drop(self._mailboxes[0].cancel())
        elif now_s > self._stop_by_s:
            self._cancel()

    def _cancel(self) -> None:
        """Close every mailbox; what is inside is dropped, finished results excepted."""
        self._is_cancelled = True
        self._reader.stop()
        self._drop(self._admission.cancel())
        for mailbox in self._mailboxes[:-1]:
            self._drop(mailbox.cancel())
        self._results.close()
        for step in self._steps:
            step.cancel()

    def _drop(self, items: Iterable[_Numbered]) -> None:
        for item in items:
            self._lose(item, failed=False)

    def _lose(self, item: object, failed: bool) -> None:
        """Count a frame that goes no further; a call that was cancelled is no failure."""
        self._stats.counts.add("failed" if failed and not self._is_cancelled else "dropped")


def _camera(item: _Numbered) -> str:
    return item.result.header.camera


def _number(item: _Numbered) -> int:
    return item.number


def _needs_order(step: Step) -> bool:
    return step.in_order
