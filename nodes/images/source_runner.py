"""A thread that opens a source, runs a pipeline on it and passes on its results."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

from nodes.images.frame_sources import NodeSource
from pipeline.engine import Pipeline
from pipeline.errors import VisionError, one_line
from pipeline.sources import open_with_retries
from pipeline.text.display import printable_lines
from pipeline.types import Result

JOIN_S = 1.0  # timeout for the thread to end; one blocked in a driver is left behind


class SourceRunner(threading.Thread):
    """Runs a pipeline on a source until the source ends, breaks or is closed.

    - `open_source`: opens the source, waiting for it
    - `make_pipeline`: makes the pipeline that reads the source
    - `on_result`: called with each result
    - `on_end`: called with the reason if the run ends by itself
    - `retry`: retry with back-off if the source cannot be opened
    - `loop`: open the source again after its end

    All are called on this thread. `log` is a node's logger.
    """

    def __init__(
        self,
        open_source: Callable[[], NodeSource],
        make_pipeline: Callable[[NodeSource], Pipeline],
        on_result: Callable[[Result], None],
        on_end: Callable[[SourceRunner, str], None],
        log: Any,
        *,
        paused: bool = False,
        retry: bool = False,
        loop: bool = False,
    ) -> None:
        super().__init__(name="source", daemon=True)
        self._open_source = open_source
        self._make_pipeline = make_pipeline
        self._on_result = on_result
        self._on_end = on_end
        self._log = log
        self._paused = paused
        self._retry = retry
        self._loop = loop
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._source: NodeSource | None = None
        self._pipeline: Pipeline | None = None

    def run(self) -> None:
        """Called by `start`."""
        problem = "the source has ended"
        try:
            while not self._closing.is_set():
                self._run_once(self._open())
                if not self._loop:
                    break
        except VisionError as error:
            problem = one_line(error)
        except Exception as error:  # reported to the node, whatever it is
            problem = one_line(f"{type(error).__name__}: {error}")
            if not self._closing.is_set():
                self._log.error(printable_lines(traceback.format_exc()))
        if not self._closing.is_set():
            self._on_end(self, problem)

    def pause(self, paused: bool) -> None:
        """Pause or resume the current source and those opened later."""
        with self._lock:
            self._paused = paused
            if self._source is not None:
                self._source.paused = paused

    def close(self) -> bool:
        """End the thread from another one; False if it is stuck and left behind."""
        with self._lock:
            self._closing.set()
            pipeline = self._pipeline
        if pipeline is not None:
            pipeline.close()
        self.join(JOIN_S)
        return not self.is_alive()

    def _open(self) -> NodeSource:
        if not self._retry:
            return self._open_source()
        return open_with_retries(self._open_source, self._closing, self._log.warning)

    def _run_once(self, source: NodeSource) -> None:
        pipeline = self._make_pipeline(source)
        with self._lock:
            source.paused = self._paused
            self._source, self._pipeline = source, pipeline
            is_closing = self._closing.is_set()
        if is_closing:
            source.close()
            return
        with pipeline:
            for result in pipeline:
                self._on_result(result)
