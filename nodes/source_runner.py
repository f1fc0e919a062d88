"""A thread that opens a source, runs an engine on it, and gives its results away."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pipeline.errors import VisionError
from pipeline.sources import open_with_retries
from pipeline.types import Result

JOIN_S = 1.0  # how long the thread may take to end; one stuck in a driver is left behind


class PausableSource(Protocol):
    """What is read; `nodes.sources` has them."""

    paused: bool

    def close(self) -> None: ...


class Engine(AbstractContextManager["Engine"], Protocol):
    """What reads it: a `Pipeline`."""

    def __iter__(self) -> Iterator[Result]: ...
    def close(self) -> None: ...


class Playback(threading.Thread):
    """Opens a source, and again where that is wanted, and gives every result to `give`.

    - `open_source`: gives the source, waiting for it
    - `engine`: what to run on it
    - `over`: called with the reason where it ends by itself
    - `retry`: a source that cannot be opened is tried again, with pauses
    - `loop`: a source that has ended is opened again

    All are called on this thread. `log` is a node's logger.
    """

    def __init__(
        self,
        open_source: Callable[[], PausableSource],
        engine: Callable[[Any], Any],
        give: Callable[[Result], None],
        over: Callable[[Playback, str], None],
        log: Any,
        *,
        paused: bool = False,
        retry: bool = False,
        loop: bool = False,
    ) -> None:
        super().__init__(name="playback", daemon=True)
        self._open_source = open_source
        self._make_engine = engine
        self._give = give
        self._over = over
        self._log = log
        self._paused = paused
        self._retry = retry
        self._loop = loop
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._source: PausableSource | None = None
        self._engine: Any = None

    def run(self) -> None:
        """Until the source has ended, has broken, or is closed."""
        problem = "the source has ended"
        try:
            while not self._closing.is_set():
                self._play(self._opened())
                if not self._loop:
                    break
        except VisionError as error:
            problem = str(error)
        except Exception as error:  # nobody else could tell why nothing comes any more
            problem = f"{type(error).__name__}: {error}"
            if not self._closing.is_set():
                self._log.error(traceback.format_exc())
        if not self._closing.is_set():
            self._over(self, problem)

    def pause(self, paused: bool) -> None:
        """Hold back the images of the source that plays, and of those to come, or go on."""
        with self._lock:
            self._paused = paused
            if self._source is not None:
                self._source.paused = paused

    def close(self) -> bool:
        """End, from another thread; False where the thread is stuck and left behind."""
        with self._lock:
            self._closing.set()
            source, engine = self._source, self._engine
        if engine is not None:
            engine.close()
        elif source is not None:
            source.close()
        self.join(JOIN_S)
        return not self.is_alive()

    def _opened(self) -> PausableSource:
        if not self._retry:
            return self._open_source()
        return open_with_retries(self._open_source, self._closing, self._log.warning)

    def _play(self, source: PausableSource) -> None:
        engine = self._make_engine(source)
        with self._lock:
            source.paused = self._paused
            self._source, self._engine = source, engine
            is_closing = self._closing.is_set()
        if is_closing:
            source.close()
            return
        with engine:
            for result in engine:
                self._give(result)
