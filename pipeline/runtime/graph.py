"""The stages of one run, and the mailboxes between them.

    source -> [reader] -> newest frame or back-pressure -> [steps] -> in order -> [steps] ...

A stage, in brackets, has threads of its own. Steps in a row that may run in any order share one
stage: each of its workers does all of them for a frame. Steps that need the frames in order have a
stage with one thread. Behind workers that may overtake each other, results are put back in order.

A frame is admitted to the first step when fewer than a fixed number are in flight, and counts as
in flight until its result is taken. So frames are dropped in one place only, in front of the steps.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from pipeline.process.memory import trim
from pipeline.runtime.mailbox import Admission, InOrder, Mailbox, NewestOfEach
from pipeline.runtime.stage import Inbox, SourceReader, Stage
from pipeline.runtime.statistics import RunStatistics
from pipeline.source import Source
from pipeline.step import Step
from pipeline.types import Detections, Frame, Result, described

JOIN_S = 0.6  # how long all threads may take to end; a reader stuck in a driver is left behind

_NOTHING = Detections.empty(())

logger = logging.getLogger(__name__)


class Numbered(NamedTuple):
    """What travels: a result that grows from step to step, and its place in the order."""

    number: int
    result: Result


class Graph:
    """The threads of one run. They refer to this object, and it does not refer to its `Pipeline`.

    - `every_frame`: several frames are in flight, each on one of `threads` cores; if False, one
      frame is in flight
    - `capacity`: how many frames of a camera may wait
    - `limit`: how many frames are read at most

    `reader`, `admission` and `results` are the parts that the consumer of the results uses.
    """

    def __init__(
        self,
        source: Source[Any],
        steps: Sequence[Step],
        stats: RunStatistics,
        *,
        every_frame: bool,
        threads: int,
        capacity: int,
        limit: int | None,
    ) -> None:
        self._source = source
        self._steps = steps
        self._stats = stats
        self._numbers = itertools.count()
        self._is_cancelled = False
        self._workers = threads if every_frame else 1
        self._cores = threading.BoundedSemaphore(self._workers)  # shared by all stages
        groups = [list(group) for _, group in itertools.groupby(steps, _needs_order)]
        self._in_flight = self._workers + len(groups) if every_frame else 1

        self.reader = SourceReader(source, stats, limit if every_frame else None)
        captured: Mailbox[Numbered] = (
            Mailbox(capacity) if every_frame else NewestOfEach(_camera, depth=capacity)
        )
        self._stages: list[Stage[Any, Numbered]] = [
            Stage("capture", self.reader, self._enter, captured, self._lose)
        ]
        self.admission = Admission(captured, self._in_flight)
        self._mailboxes = [captured]
        self._orders: list[InOrder[Numbered]] = []
        inbox: Inbox[Numbered] = self.admission
        for group in groups:
            inbox = self._add_stage(group, inbox)
        self.results = self._mailboxes[-1]

    def start(self) -> None:
        """Start the threads."""
        self._stats.start()
        for stage in self._stages:
            stage.start()

    def drop_waiting(self) -> None:
        """Drop the frames that wait in front of the first step."""
        self._drop(self._mailboxes[0].cancel())

    def cancel(self) -> None:
        """Close every mailbox; what is inside is dropped, finished results excepted."""
        self._is_cancelled = True
        self.reader.stop()
        self._drop(self.admission.cancel())
        for mailbox in self._mailboxes[:-1]:
            self._drop(mailbox.cancel())
        self.results.close()
        for step in self._steps:
            step.cancel()

    def close(self) -> None:
        """End all threads and close the source; frames in flight are dropped. Idempotent."""
        self.cancel()
        self._source.close()
        deadline_s = time.monotonic() + JOIN_S
        stages = self._stages if self._stats.has_started else []
        self._stages = []  # they refer to this object, which is then freed without a collection
        left_behind = [name for stage in stages for name in stage.join(deadline_s)]
        for name in dict.fromkeys(left_behind):
            logger.warning("stage %s did not end in time and is left behind", name)
        self._drop(self.results.cancel())
        for order in self._orders:
            self._drop(order.cancel())
        self._stats.end()
        if left_behind:
            self._stats.counts.settle()
        trim()

    # --- what the threads do ----------------------------------------------------------------

    def _add_stage(self, steps: Sequence[Step], inbox: Inbox[Numbered]) -> Mailbox[Numbered]:
        """Add a stage that does `steps`; returns the mailbox that it fills, in order."""
        name, work = steps[0].name, partial(self._run, steps)
        outbox = Mailbox[Numbered](self._in_flight)
        self._mailboxes.append(outbox)
        if steps[0].in_order or self._workers == 1:
            self._stages.append(Stage(name, inbox, work, outbox, self._lose))
        else:
            order = InOrder(outbox, _number)
            self._orders.append(order)
            self._stages.append(Stage(name, inbox, work, order, self._lose, self._workers))
        return outbox

    def _enter(self, item: Frame | Result) -> Numbered:
        """Make a frame a result without objects, and number what was read."""
        if isinstance(item, Frame):
            item = Result(item.header, _NOTHING, frame=item)
        self._stats.add_age("capture", item.header)
        return Numbered(next(self._numbers), item)

    def _run(self, steps: Sequence[Step], item: Numbered) -> Numbered:
        """Do steps in a row for one result."""
        result = item.result
        with contextlib.nullcontext() if steps[0].in_order else self._cores:
            for step in steps:
                result = self._timed(step, result)
        return Numbered(item.number, result)

    def _timed(self, step: Step, result: Result) -> Result:
        threading.current_thread().name = step.name  # for messages and debuggers
        known = result.stage_ns
        started_ns = time.perf_counter_ns()
        result = step.process(result.frame, result)
        rest_ns = time.perf_counter_ns() - started_ns
        if not isinstance(result, Result):
            raise ValueError(
                f"{type(step).__name__}.process must return a Result, "
                f"but returned {described(result)}"
            )
        for part, part_ns in result.stage_ns.items():
            if part not in known:
                rest_ns -= part_ns
                self._stats.add_time(part, part_ns)
                self._stats.add_age(part, result.header, rest_ns)
        self._stats.add_time(step.name, rest_ns)
        self._stats.add_age(step.name, result.header)
        return replace(result, stage_ns={**result.stage_ns, step.name: rest_ns})

    def _drop(self, items: Iterable[Numbered]) -> None:
        for item in items:
            self._lose(item, failed=False)

    def _lose(self, item: object, failed: bool) -> None:
        """Count a frame that goes no further; a call that was cancelled is no failure."""
        self._stats.counts.add("failed" if failed and not self._is_cancelled else "dropped")


def _camera(item: Numbered) -> str:
    return item.result.header.camera


def _number(item: Numbered) -> int:
    return item.number


def _needs_order(step: Step) -> bool:
    return step.in_order
