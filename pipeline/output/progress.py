"""How far a run has come, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.types import Result

_REFRESH_S = 0.2

Stats = Callable[[], Mapping[str, Any]]


class ProgressBar:
    """Frames done of a known number, with the rate and the time left.

    `stats` gives the figures so far in the form of `--stats`: a frame that was lost is done too.
    """

    def __init__(self, frames: int, stats: Stats, console: Console | None = None) -> None:
        self._stats = stats
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} fps"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            auto_refresh=False,  # drawn from write: no thread of its own
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("frames", total=frames, rate=0.0)
        self._throttle = _Throttle()
        self._bar.start()

    def write(self, result: Result) -> None:
        if self._throttle.due():
            self._update()

    def close(self) -> None:
        self._update()
        self._bar.stop()

    def _update(self) -> None:
        stats = self._stats()
        done = sum(stats.get(name, 0) for name in ("processed", "dropped", "failed"))
        lost = f"frames ({stats['failed']} lost)" if stats.get("failed") else "frames"
        self._bar.update(self._task, completed=done, rate=stats.get("fps", 0.0), description=lost)
        self._bar.refresh()


class StatusLine:
    """One line about a source without an end: rate, age, drops, objects.

    `stats` gives the figures so far in the form of `--stats`.
    """

    def __init__(self, stats: Stats, console: Console | None = None) -> None:
        self._stats = stats
        self._live = Live(
            console=console or Console(stderr=True),
            auto_refresh=False,
            redirect_stdout=False,
        )
        self._throttle = _Throttle()
        self._last: Result | None = None
        self._live.start()

    def write(self, result: Result) -> None:
        self._last = result
        if self._throttle.due():
            self._update(result)

    def close(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            self._update(last)
        self._live.stop()

    def _update(self, result: Result) -> None:
        self._live.update(Text(status_text(result, self._stats()), overflow="ellipsis"))
        self._live.refresh()


class _Throttle:
    """True at most so often as eyes can follow."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _REFRESH_S
        return True


def open_progress(
    frames: int | None, stats: Stats, *, quiet: bool = False, console: Console | None = None
) -> ProgressBar | StatusLine | None:
    """A bar where the number of frames is known, else a status line.

    None where nobody would see it: `quiet`, or standard error is no terminal.
    """
    console = console or Console(stderr=True)
    if quiet or not console.is_terminal:
        return None
    return ProgressBar(frames, stats, console) if frames else StatusLine(stats, console)


def status_text(result: Result, stats: Mapping[str, Any]) -> str:
    """The line for a result and the figures so far."""
    counts: dict[str, int] = {}
    found = result.detections
    for class_id in found.class_ids.tolist():
        label = found.labels[class_id]
        counts[label] = counts.get(label, 0) + 1
    objects = ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing"
    seen = f"  {objects}" if found.labels else ""  # nothing has looked at plain frames
    age = stats.get("age_ms", {}).get("p50", 0.0)
    return (
        f"{result.header.camera}  {stats.get('fps', 0.0):.1f} fps  age {age:.0f} ms  "
        f"dropped {stats.get('dropped', 0)}{seen}"
    )
