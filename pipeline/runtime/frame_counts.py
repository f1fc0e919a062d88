"""Counts captured, processed, dropped and failed frames."""

from __future__ import annotations

import threading
from typing import Literal

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
