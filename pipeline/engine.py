"""Runs a source through steps: `Pipeline`, the consumer's side of a `Graph` of threads.

Two policies use the same cores in two ways. Newest frame: one frame is in flight, and each call
uses all cores, so that a result is as young as it can be. Every frame: several frames are in
flight, each on one core, which has the highest rate because no layer is split between cores.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import cv2

from pipeline.errors import ConfigError, RunError
from pipeline.inference.processor import available_threads
from pipeline.process.memory import trim
from pipeline.runtime.graph import Graph
from pipeline.runtime.mailbox import Closed
from pipeline.runtime.statistics import RunStatistics
from pipeline.settings import checked
from pipeline.settings.setting import Count, Seconds, Threads
from pipeline.source import Source
from pipeline.step import Step
from pipeline.types import Result, described
from pipeline.unclosed import close_when_dropped

POLL_S = 0.1  # how often a waiting consumer checks for a request to stop
DRAIN_S = 1.0  # how long frames in flight may take to finish after a request to stop


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
    source, and so does dropping it. A stage that fails raises its `StageError` from the iteration,
    after the results that were finished before. At the end captured = processed + dropped + failed.
    It runs once.

    Raises `ConfigError` if an argument is of another type or out of range.
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
        self._source = _checked_source(source)
        self._steps = _checked_steps(detector, classifier, steps)
        self._every_frame = not source.live if every_frame is None else every_frame
        self._threads = _checked_limit(threads, Threads, "threads") or available_threads()
        self._max_frames = _checked_limit(max_frames, Count, "max_frames")
        self._duration_s = _checked_limit(duration_s, Seconds, "duration_s")
        self._stats = RunStatistics(source)
        self._graph = Graph(
            source,
            self._steps,
            self._stats,
            every_frame=self._every_frame,
            threads=self._threads,
            capacity=checked(capacity, Count, "capacity"),
            limit=self._max_frames,
        )
        self._unclosed: weakref.finalize[..., object] | None = None
        self._stop_by_s: float | None = None

    def __enter__(self) -> Pipeline:
        if self._stats.has_started:
            raise RuntimeError("a Pipeline runs once; make another one")
        trim()  # what was freed while models and sources were opened, before more is needed
        try:
            self._warm_up()
        except BaseException as error:
            is_cancelled = self._graph.reader.is_stopped and isinstance(error, RunError)
            if not is_cancelled:
                self._source.close()
                raise
        trim()
        self._unclosed = close_when_dropped(
            self, f"pipeline of {self._source.camera}", self._graph.close
        )
        self._graph.start()
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
        self._graph.reader.acknowledge()
        while self._stats.counts["processed"] != self._max_frames:
            self._check_time()
            try:
                result = self._graph.results.get(POLL_S).result
            except TimeoutError:
                continue
            except Closed:
                break
            self._stats.counts.add("processed")
            self._stats.add_age("output", result.header)
            if self._stats.counts["processed"] != self._max_frames:
                self._graph.admission.leave()
            self._graph.reader.hand_out()
            return result
        raise StopIteration

    def stop(self) -> None:
        """Request the end: no more frames are captured; those in flight are finished.

        Takes no lock, so a signal handler or any thread may call it.
        """
        self._graph.reader.stop()
        if not self._stats.has_started:  # a call of the warm-up has no result to wait for
            for step in self._steps:
                step.cancel()

    def close(self) -> None:
        """End at once; frames in flight are dropped. Idempotent."""
        if self._unclosed is not None:
            self._unclosed.detach()
        self._graph.close()

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

    def _check_time(self) -> None:
        """Carry out a request to stop, here, where locks may be taken."""
        if self._duration_s is not None and self._stats.seconds >= self._duration_s:
            self.stop()
        if not self._graph.reader.is_stopped:
            return
        now_s = time.monotonic()
        if self._stop_by_s is None:
            self._stop_by_s = now_s + DRAIN_S
            if not self._every_frame:  # else those already read are still used
                self._graph.drop_waiting()
        elif now_s > self._stop_by_s:
            self._graph.cancel()


def _checked_source(source: Source[Any]) -> Source[Any]:
    if not isinstance(source, Source):
        raise ConfigError(
            f"source: expected a Source, as open_source gives, but got {described(source)}"
        )
    return source


def _checked_steps(
    detector: Step | None, classifier: Step | None, steps: Iterable[Step]
) -> list[Step]:
    if not isinstance(steps, Iterable):
        raise ConfigError(f"steps: expected a list of steps, but got {described(steps)}")
    chosen = [step for step in (detector, classifier, *steps) if step is not None]
    for step in chosen:
        if not isinstance(step, Step):
            raise ConfigError(
                f"steps: expected a Step such as Detector(), but got {described(step)}"
            )
    return chosen


def _checked_limit(value: Any, kind: Any, name: str) -> Any:
    return None if value is None else checked(value, kind, name)
