"""Shows the progress of a run on standard error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.output.output import Output
from pipeline.source import Source
from pipeline.text.display import printable
from pipeline.types import Result

_REFRESH_S = 0.2

Stats = Callable[[], Mapping[str, Any]]


class Progress(Output):
    """Shows a bar if the number of frames is known, else a status line.

    Shows nothing if `quiet`, or if standard error is not a terminal. `stats` gives the figures so
    far in the form of `--stats`; a run ends after `max_frames`.
    """

    def __init__(
        self,
        stats: Stats,
        *,
        max_frames: int | None = None,
        quiet: bool = False,
        console: Console | None = None,
    ) -> None:
        self._stats = stats
        self._max_frames = max_frames
        self._console = console or Console(stderr=True)
        self._is_shown = self._console.is_terminal and not quiet
        self._display: _Bar | _StatusLine | None = None
        self._last: Result | None = None
        self._next_s = 0.0

    def start(self, source: Source[Any]) -> None:
        if not self._is_shown:
            return
        lengths = [length for length in (source.frames, self._max_frames) if length]
        if lengths:
            self._display = _Bar(min(lengths), self._console)
        else:
            self._display = _StatusLine(self._console)

    def write(self, result: Result) -> None:
        if self._display is None:
            return
        self._last = result
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _REFRESH_S
            try:
                self._display.show(result, self._stats())
            except OSError:  # the terminal was closed, which does not end the run
                self._display = None

    def close(self) -> None:
        display, self._display = self._display, None
        if display is not None:
            with contextlib.suppress(OSError):
                display.show(self._last, self._stats())
            with contextlib.suppress(OSError):
                display.stop()


class _Bar:
    """Frames done of a known number, with the rate and the time left."""

    def __init__(self, frames: int, console: Console) -> None:
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]:.1f} fps"),
            bars.TimeRemainingColumn(),
            console=console,
            auto_refresh=False,  # drawn from write: no thread of its own
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("frames", total=frames, rate=0.0)
        self._bar.start()

    def show(self, result: Result | None, stats: Mapping[str, Any]) -> None:
        done = sum(stats.get(name, 0) for name in ("processed", "dropped", "failed"))
        lost = f"frames ({stats['failed']} lost)" if stats.get("failed") else "frames"
        self._bar.update(self._task, completed=done, rate=stats.get("fps", 0.0), description=lost)
        self._bar.refresh()

    def stop(self) -> None:
        self._bar.stop()


class _StatusLine:
    """One line for a source without an end: rate, age, drops, objects."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._live.start()

    def show(self, result: Result | None, stats: Mapping[str, Any]) -> None:
        if result is not None:
            self._live.update(Text(printable(status_text(result, stats)), overflow="ellipsis"))
            self._live.refresh()

    def stop(self) -> None:
        self._live.stop()


def status_text(result: Result, stats: Mapping[str, Any]) -> str:
    """The status line for a result and the figures so far."""
    counts: dict[str, int] = {}
    found = result.detections
    for class_id in found.class_ids.tolist():
        label = found.labels[class_id]
        counts[label] = counts.get(label, 0) + 1
    objects = ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing"
    seen = f"  {objects}" if found.labels else ""  # plain frames have no labels
    age = stats.get("age_ms", {}).get("p50", 0.0)
    return (
        f"{result.header.camera}  {stats.get('fps', 0.0):.1f} fps  age {age:.0f} ms  "
        f"dropped {stats.get('dropped', 0)}{seen}"
    )
