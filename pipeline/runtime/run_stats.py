"""What one run counts and times."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import psutil

from pipeline.runtime.metrics import Durations
from pipeline.runtime.stamps import StampClock
from pipeline.runtime.tally import Tally


class RunStats:
    """Counts, rate, ages and stage times of a run of `stages`; thread-safe.

    `source` is where the frames come from; it is asked for the clocks that stamp them.
    """

    def __init__(self, source: object, stages: Iterable[str]) -> None:
        self.tally = Tally()
        self._clock = StampClock(source)
        self._times = {stage: Durations() for stage in stages}
        self._ages = {stage: Durations() for stage in stages}
        self._started_s = self._ended_s = 0.0

    def start(self) -> None:
        """The run begins now."""
        self._started_s = time.monotonic()

    def end(self) -> None:
        """The run ends now, unless it has ended before."""
        self._ended_s = self._ended_s or time.monotonic()

    @property
    def has_started(self) -> bool:
        """Whether `start` was called."""
        return self._started_s > 0

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return (self._ended_s or time.monotonic()) - self._started_s if self.has_started else 0.0

    def add_time(self, stage: str, duration_ns: int) -> None:
        """Note how long a stage took over one frame."""
        self._times[stage].add(duration_ns / 1e6)

    def add_age(self, stage: str, camera: str, stamp_ns: int) -> None:
        """Note that a stage has now ended its work on a frame of `camera` captured at a time."""
        self._ages[stage].add(self._clock.age_ms(camera, stamp_ns))

    def as_dict(self) -> dict[str, Any]:
        """All so far, in the form of `--stats`."""
        seconds = self.seconds
        counts = self.tally.as_dict()
        return {
            **counts,
            "seconds": round(seconds, 3),
            "fps": round(counts["processed"] / seconds, 2) if seconds > 0 else 0.0,
            "age_ms": {
                **self._ages["output"].as_dict(),
                "max": round(self._ages["output"].max_ms, 3),
                **self._clock.error(),
            },
            "stages": {
                stage: {**times.as_dict("_ms"), "age_ms": self._ages[stage].as_dict()}
                for stage, times in self._times.items()
                if len(times)
            },
            "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }
