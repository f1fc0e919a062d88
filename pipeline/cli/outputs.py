"""The outputs that the settings choose: opened together, fed together, closed together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.cli.publishing import Publishing
from pipeline.output.files import check_target
from pipeline.output.json_lines import STDOUT, JsonLines
from pipeline.output.output import Output
from pipeline.output.progress import open_progress
from pipeline.output.stats_file import write_stats
from pipeline.output.video_file import VideoFile, check_recording
from pipeline.output.window import Window
from pipeline.runtime.frame_age import CameraClocks
from pipeline.settings import Settings
from pipeline.source import Source
from pipeline.types import Result

logger = logging.getLogger(__name__)


Origin = Source[Any]


class Outputs:
    """Everything that results go to, as one output; a context manager that closes all of it.

    `extras` are outputs beside those of the settings. `with_results` is False where there are
    frames alone. What shows or records pictures is passed over by a result without one. Raises
    `InputError` where one of them cannot be written, before the source is asked for anything.
    Nothing that is there is touched until `start`, so that what fails before it destroys no older
    results.
    """

    def __init__(
        self, settings: Settings, extras: Iterable[Output] = (), *, with_results: bool = True
    ) -> None:
        self._settings = settings
        self._with_results = with_results
        self._outputs: list[Output] = []
        self._of_pictures: list[Output] = []
        self._publishing: Publishing | None = None
        self._open = ExitStack()
        self._objects = 0
        self._without_picture = 0
        self._is_started = False
        with ExitStack() as undo:
            undo.callback(self._open.close)
            for output in extras:
                self._add(output)
            if settings.stats:
                stats = Path(settings.stats)
                check_target(stats, "--stats", is_replaced=stats.is_file())
            if settings.record:
                check_recording(settings.record)
            if settings.jsonl and settings.jsonl != STDOUT:
                check_target(Path(settings.jsonl), "--jsonl")
            if settings.show:
                self._add(Window(), self._of_pictures)
            if settings.publish:
                self._publishing = Publishing(settings, with_results=with_results)
                self._add(self._publishing)
            undo.pop_all()

    def await_subscriber(self, source: Origin) -> None:
        """Where the settings say so, wait until somebody wants what is published."""
        if self._publishing is not None:
            self._publishing.start(source)
            if self._settings.await_subscriber:
                self._publishing.await_subscriber()

    def start(self, source: Origin, stats: Callable[[], Mapping[str, Any]]) -> None:
        """Open the files, and what shows the figures so far (`stats`); the source is running.

        Raises `InputError`.
        """
        settings = self._settings
        if settings.jsonl:
            self._add(JsonLines(settings.jsonl, CameraClocks(source).now_ns))
        if settings.record:
            recording = VideoFile(settings.record, fps=source.fps, live=source.live)
            self._add(recording, self._of_pictures)
        lines_fill_the_screen = settings.jsonl == STDOUT and sys.stdout.isatty()
        lengths = [length for length in (source.frames, settings.max_frames) if length]
        progress = open_progress(
            min(lengths, default=None), stats, quiet=settings.quiet or lines_fill_the_screen
        )
        if progress:
            self._add(progress)
        self._is_started = True

    def write(self, result: Result) -> None:
        """Give every output one result. Raises `OutputError`, and `Stop` to end."""
        self._objects += len(result.detections)
        for output in self._outputs:
            output.write(result)
        if result.image is None:
            self._without_picture += bool(self._of_pictures)
            return
        for output in self._of_pictures:
            output.write(result)

    @property
    def counts(self) -> dict[str, Any]:
        """What the outputs themselves count, in the form of `--stats`."""
        counts: dict[str, Any] = {}
        if self._of_pictures and self._with_results:
            counts["without_picture"] = self._without_picture
        if self._publishing is not None:
            sent = self._publishing.counts
            counts["sent"] = {topic: dict(count) for topic, count in sent.items()}
        return counts

    def finish(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        """Close everything, and say what the run came to, where it began. Raises `OutputError`."""
        try:
            self._open.close()
        finally:
            if self._is_started:
                self._sum_up(stats())

    def _sum_up(self, stats: Mapping[str, Any]) -> None:
        try:
            if self._settings.stats:
                write_stats(Path(self._settings.stats), stats)
        finally:
            logger.info("%s", summary(stats, self._objects if self._with_results else None))

    def _add(self, output: Output, among: list[Output] | None = None) -> None:
        self._open.callback(output.close)
        (self._outputs if among is None else among).append(output)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()


def summary(stats: Mapping[str, Any], objects: int | None) -> str:
    """One line for people: how many frames and objects, how fast, how old, how many lost."""
    age = stats["age_ms"]
    parts = [
        f"{stats['processed']} frames in {stats['seconds']:.1f} s ({stats['fps']:.1f} a second)",
    ]
    if objects is not None:
        parts.append(f"{objects} objects")
    if stats["processed"]:
        parts.append(f"age p50 {age['p50']:.0f} ms, p99 {age['p99']:.0f} ms{_give_or_take(age)}")
    parts += [f"{stats[what]} {what}" for what in ("dropped", "failed") if stats[what]]
    return "; ".join(parts)


def _give_or_take(age: Mapping[str, float | None]) -> str:
    """How far ages may be off, where another machine's clock stamped the frames."""
    error = age.get("error", 0)
    if error is None:
        return " (the other clock is not known)"
    return f" (give or take {error:.0f} ms)" if error >= 1 else ""
