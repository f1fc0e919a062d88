"""Counts, rate, ages and times of one run."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Literal

import numpy as np
import psutil

from pipeline.source import Source
from pipeline.types import SAME_CLOCK, Header


class CameraClocks:
    """The clocks that stamp the frames of a source, one for each camera.

    A clock whose offset is not known is taken for this machine's.
    """

    def __init__(self, source: Source[Any]) -> None:
        self._source = source
        self._errors_ns: dict[str, int | None] = {}

    def now_ns(self, camera: str) -> int:
        """The time that a camera's clock shows now, in ns since the Unix epoch."""
        now_ns = time.time_ns()
        clock = self._source.clock_of(camera)
        if clock is SAME_CLOCK:  # a clock that was compared with this one is never this object
            return now_ns
        if clock is None or not clock.is_known:  # the sender itself did not know it
            self._errors_ns[camera] = None
            return now_ns
        self._errors_ns[camera] = clock.error_ns
        return now_ns + clock.offset_ns

    def age_ms(self, header: Header) -> float:
        """The age of a frame in ms; 0 if its clock was set back since."""
        return max(self.now_ns(header.camera) - header.age_start_ns, 0) / 1e6

    def error(self) -> dict[str, float | None]:
        """`error`: how far ages may be off in ms, None if not known; empty on one machine."""
        errors_ns = list(self._errors_ns.values())
        if not errors_ns:
            return {}
        known_ns = [ns for ns in errors_ns if ns is not None]
        if len(known_ns) < len(errors_ns):
            return {"error": None}
        return {"error": round(max(known_ns) / 1e6, 3)}


Outcome = Literal["captured", "processed", "dropped", "failed"]


class FrameCounts:
    """Counts frames by outcome; thread-safe.

    Once no frame is in flight, captured = processed + dropped + failed.
    """

    def __init__(self) -> None:
        self._counts: dict[Outcome, int] = {
            "captured": 0,
            "processed": 0,
            "dropped": 0,
            "failed": 0,
        }
        self._is_settled = False
        self._lock = threading.Lock()

    def add(self, outcome: Outcome) -> None:
        """Count one frame; does nothing after `settle`."""
        with self._lock:
            if not self._is_settled:
                self._counts[outcome] += 1

    def settle(self) -> None:
        """Count the frames still in flight as dropped, and nothing from now on."""
        with self._lock:
            ended = sum(count for outcome, count in self._counts.items() if outcome != "captured")
            self._counts["dropped"] += self._counts["captured"] - ended
            self._is_settled = True

    def __getitem__(self, outcome: Outcome) -> int:
        return self._counts[outcome]

    def as_dict(self) -> dict[str, int]:
        """All counts at one moment."""
        with self._lock:
            return {str(outcome): count for outcome, count in self._counts.items()}


CAPACITY = 4096
Percentiles = tuple[float, float, float]


class Durations:
    """The newest `CAPACITY` durations in ms, and the largest of all; thread-safe.

    With `window_s` only those of the last seconds count.
    """

    def __init__(self, window_s: float = math.inf) -> None:
        self._window_s = window_s
        self._values_ms = np.empty(CAPACITY, np.float64)
        self._added_s = np.empty(CAPACITY, np.float64)
        self._count = 0
        self._max_ms = 0.0
        self._lock = threading.Lock()

    def add(self, value_ms: float) -> None:
        """Record one duration."""
        with self._lock:
            place = self._count % CAPACITY
            self._values_ms[place] = value_ms
            self._added_s[place] = time.monotonic()
            self._count += 1
            self._max_ms = max(self._max_ms, value_ms)

    def percentiles(self) -> Percentiles | None:
        """p50, p95 and p99; None if there is no duration."""
        with self._lock:
            filled = slice(0, min(self._count, CAPACITY))
            is_recent = self._added_s[filled] >= time.monotonic() - self._window_s
            values_ms = self._values_ms[filled][is_recent]
        if not len(values_ms):
            return None
        p50, p95, p99 = np.percentile(values_ms, (50, 95, 99)).tolist()
        return p50, p95, p99

    def as_dict(self, suffix: str = "") -> dict[str, float]:
        """The percentiles by name and `suffix`, zeros if there is no duration."""
        names = (f"p50{suffix}", f"p95{suffix}", f"p99{suffix}")
        values = self.percentiles() or (0.0, 0.0, 0.0)
        return dict(zip(names, (round(value, 3) for value in values), strict=True))

    @property
    def max_ms(self) -> float:
        """The largest duration ever recorded."""
        return self._max_ms

    def __len__(self) -> int:
        return self._count


class RunStatistics:
    """Counts, rate, ages and times of a run, in the form of `--stats`; thread-safe.

    Times and ages are kept by stage: `capture`, the name of each step, and `output`.
    """

    def __init__(self, source: Source[Any]) -> None:
        self.counts = FrameCounts()
        self._clocks = CameraClocks(source)
        self._times: dict[str, Durations] = {}
        self._ages = {"output": Durations()}
        self._started_s = self._ended_s = 0.0

    def start(self) -> None:
        """Start the run's time."""
        self._started_s = time.monotonic()

    def end(self) -> None:
        """End the run's time, unless it has ended before."""
        self._ended_s = self._ended_s or time.monotonic()

    @property
    def has_started(self) -> bool:
        """Whether `start` was called."""
        return self._started_s > 0

    @property
    def seconds(self) -> float:
        """The duration of the run so far."""
        return (self._ended_s or time.monotonic()) - self._started_s if self.has_started else 0.0

    def add_time(self, stage: str, duration_ns: int) -> None:
        """Record how long a stage took for one frame."""
        _of(self._times, stage).add(duration_ns / 1e6)

    def add_age(self, stage: str, header: Header, ended_ns_ago: int = 0) -> None:
        """Record the age that a frame had when a stage ended its work on it."""
        age_ms = self._clocks.age_ms(header) - ended_ns_ago / 1e6
        _of(self._ages, stage).add(max(age_ms, 0.0))

    def as_dict(self) -> dict[str, Any]:
        """All so far, in the form of `--stats`."""
        seconds = self.seconds
        counts = self.counts.as_dict()
        output = self._ages["output"]
        return {
            **counts,
            "seconds": round(seconds, 3),
            "fps": round(counts["processed"] / seconds, 2) if seconds > 0 else 0.0,
            "age_ms": {
                **output.as_dict(),
                "max": round(output.max_ms, 3),
                **self._clocks.error(),
            },
            "stages": {
                stage: {**times.as_dict("_ms"), "age_ms": _of(self._ages, stage).as_dict()}
                for stage, times in list(self._times.items())
            },
            "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }


def _of(durations: dict[str, Durations], stage: str) -> Durations:
    """The durations of a stage, made for its first one."""
    if stage not in durations:
        durations.setdefault(stage, Durations())
    return durations[stage]
