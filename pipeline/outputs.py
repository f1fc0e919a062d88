"""The table of outputs, and how the results of a pipeline get to them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from pipeline import publishing
from pipeline.engine import Pipeline
from pipeline.errors import OutputError
from pipeline.output import json_lines, video_file, window
from pipeline.output.output import Output, OutputKind, Stop
from pipeline.runtime.mailbox import Closed, Mailbox
from pipeline.settings import Settings
from pipeline.source import Source
from pipeline.types import Result

OUTPUTS: tuple[OutputKind, ...] = (
    window.KIND,
    publishing.KIND,
    json_lines.KIND,
    video_file.KIND,
)
"""All outputs that settings can turn on, in the order in which they get a result."""


WAITING = 2  # results that may wait for an output that is slower than the pipeline
CLOSE_S = 10.0  # how long a write, or the end of an output, may take once the results have ended
HURRY_S = 1.0  # the same after a signal
POLL_S = 0.05

logger = logging.getLogger(__name__)


def turned_on(settings: Settings) -> list[OutputKind]:
    """The outputs of the table that `settings` turn on."""
    return [kind for kind in OUTPUTS if getattr(settings, kind.setting)]


def deliver(
    pipeline: Pipeline,
    output: Output,
    *,
    interruptible: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> None:
    """Write every result of an entered pipeline to `output`, until either of them ends.

        with (
            Pipeline(open_source("drive.mp4"), Detector()) as pipeline,
            Outputs([VideoFile("out.mp4"), JsonLines("out.jsonl")]) as outputs,
        ):
            deliver(pipeline, outputs)

    `interruptible` encloses each write, for a caller that has to interrupt one. Raises what the
    pipeline and the output raise.
    """
    output.start(pipeline.source)
    for result in pipeline:
        started_ns = time.perf_counter_ns()
        try:
            with interruptible():
                output.write(result)
        except Stop as wish:
            logger.debug("%s", wish)
            return
        pipeline.record_output(time.perf_counter_ns() - started_ns)


class Outputs(Output):
    """Several outputs as one: started, fed and closed together."""

    def __init__(self, outputs: Iterable[Output]) -> None:
        self._open = ExitStack()
        self._outputs: list[Output] = []
        self._without_image = 0
        with ExitStack() as undo:
            undo.callback(self._open.close)
            for output in outputs:
                self._outputs.append(self._threaded(output) if output.may_block else output)
                self._open.callback(self._outputs[-1].close)
            undo.pop_all()

    @classmethod
    def of(cls, settings: Settings, more: Iterable[Output] = ()) -> Outputs:
        """Make the outputs that settings turn on, and add `more`.

        Raises `InputError` if one of them cannot be used.
        """

        def make() -> Iterable[Output]:
            yield from more
            for kind in turned_on(settings):
                yield kind.make(settings)

        return cls(make())

    def _threaded(self, output: Output) -> Threaded:
        name = output.name or type(output).__name__
        namesakes = sum(other.name.partition(" ")[0] == name for other in self._outputs)
        return Threaded(output, f"{name} {namesakes + 1}" if namesakes else name)

    def wait_ready(self) -> None:
        for output in self._outputs:
            output.wait_ready()

    def start(self, source: Source[Any]) -> None:
        for output in self._outputs:
            output.start(source)

    def write(self, result: Result) -> None:
        camera, is_without_image = result.header.camera, result.frame is None
        is_counted = False
        for output in self._outputs:
            if not output.wants(camera):
                continue
            if is_without_image and output.wants_images:
                is_counted = True
                continue
            output.write(result)
        self._without_image += is_counted

    def hurry(self) -> None:
        for output in self._outputs:
            output.hurry()

    def rescue(self) -> None:
        """Close all at once, so that one that hangs does not keep the others from finishing."""
        closers = [
            threading.Thread(target=_rescue, args=(output,), daemon=True)
            for output in self._outputs
        ]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()

    def close(self) -> None:
        self._open.close()

    def counts(self) -> Mapping[str, Any]:
        counts: dict[str, Any] = {}
        if any(output.wants_images for output in self._outputs):
            counts["without_picture"] = self._without_image
        for output in self._outputs:
            counts.update(output.counts())
        return counts


def _rescue(output: Output) -> None:
    try:
        output.rescue()
    except Exception as error:  # the process is about to end
        logger.warning("%s: not finished: %s", output.name or type(output).__name__, error)


class Threaded(Output):
    """Feeds an output from a thread of its own, so that a slow one does not delay the pipeline.

    The newest results of a live source are written, and those that are dropped are counted. Of
    other sources every result is written: the caller waits while `WAITING` results wait.
    """

    def __init__(self, output: Output, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self._output = output
        self._close_s = CLOSE_S
        self._mailbox: Mailbox[Result] = Mailbox(WAITING)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._failure: BaseException | None = None
        self._written = self._dropped = 0

    @property
    def wants_images(self) -> bool:  # type: ignore[override]
        return self._output.wants_images

    def wants(self, camera: str) -> bool:
        return self._output.wants(camera)

    def wait_ready(self) -> None:
        self._output.wait_ready()

    def start(self, source: Source[Any]) -> None:
        self._output.start(source)
        self._mailbox = Mailbox(WAITING, newest_wins=source.live)
        self._thread.start()

    def write(self, result: Result) -> None:
        if not self._thread.ident:  # used without `start`
            self._thread.start()
        try:
            displaced = self._mailbox.put(result)
        except Closed:
            self._raise_failure()
            raise OutputError(f"{self.name}: is closed") from None
        self._dropped += displaced is not None

    def close(self) -> None:
        self._mailbox.close()
        if not self._thread.ident:  # never started
            self._output.close()
            return
        written, idle_s = self._written, 0.0
        while self._thread.is_alive() and idle_s < self._close_s:  # which `hurry` may shorten
            self._thread.join(POLL_S)
            idle_s = idle_s + POLL_S if written == self._written else 0.0
            written = self._written
        if self._thread.is_alive():
            problem = f"{self.name}: did not finish within {self._close_s:g} s"
            if self._close_s == CLOSE_S:
                raise OutputError(problem)
            logger.warning("%s and is left behind", problem)
            return
        with contextlib.suppress(Stop):  # the run has ended already
            self._raise_failure()

    def counts(self) -> Mapping[str, Any]:
        own = {"written": self._written, "dropped": self._dropped}
        return {self.name: own, **self._output.counts()}

    def hurry(self) -> None:
        self._close_s = HURRY_S

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        try:
            try:
                while True:
                    self._output.write(self._mailbox.get())
                    self._written += 1
            except Closed:
                self._output.close()
            except BaseException:
                with contextlib.suppress(OutputError):  # the first failure is the one to report
                    self._output.close()
                raise
        except BaseException as failure:  # raised by the next write or by close
            self._failure = failure
        finally:
            self._dropped += len(self._mailbox.cancel())
