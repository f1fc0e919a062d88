"""Bounded records of durations, and their percentiles."""

from __future__ import annotations

import threading

import numpy as np

WINDOW = 4096


class Durations:
    """The newest `WINDOW` durations, in milliseconds, and the largest of all; thread-safe."""

    def __init__(self) -> None:
        self._values = np.empty(WINDOW, np.float64)
        self._count = 0
        self._max_ms = 0.0
        self._lock = threading.Lock()

    def add(self, value_ms: float) -> None:
        """Record one duration."""
        with self._lock:
            self._values[self._count % WINDOW] = value_ms
            self._count += 1
            self._max_ms = max(self._max_ms, value_ms)

    def percentiles(self) -> tuple[float, float, float]:
        """p50, p95 and p99 of the newest ones; zeros before the first."""
        with self._lock:
            newest = self._values[: min(self._count, WINDOW)].copy()
        if not len(newest):
            return 0.0, 0.0, 0.0
        p50, p95, p99 = np.percentile(newest, (50, 95, 99)).tolist()
        return p50, p95, p99

    def as_dict(self, suffix: str = "") -> dict[str, float]:
        """The percentiles by name, with `suffix` behind the name, in the form of `--stats`."""
        names = (f"p50{suffix}", f"p95{suffix}", f"p99{suffix}")
        return dict(zip(names, (round(p, 3) for p in self.percentiles()), strict=True))

    @property
    def max_ms(self) -> float:
        """The largest duration ever recorded."""
        return self._max_ms

    def __len__(self) -> int:
        return self._count
