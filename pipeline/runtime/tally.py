"""What became of everything that came in."""

from __future__ import annotations

import threading
from typing import Literal

Fate = Literal["captured", "processed", "dropped", "failed"]


class Tally:
    """Counts what was captured and what became of it; thread-safe.

    Once nothing is under way any more, captured = processed + dropped + failed.
    """

    def __init__(self) -> None:
        self._counts: dict[Fate, int] = {"captured": 0, "processed": 0, "dropped": 0, "failed": 0}
        self._is_settled = False
        self._lock = threading.Lock()

    def add(self, fate: Fate) -> None:
        """Count one; does nothing once `settle` was called."""
        with self._lock:
            if not self._is_settled:
                self._counts[fate] += 1

    def settle(self) -> None:
        """Count as dropped whatever is still under way, and nothing from now on."""
        with self._lock:
            ended = sum(count for fate, count in self._counts.items() if fate != "captured")
            self._counts["dropped"] += self._counts["captured"] - ended
            self._is_settled = True

    def __getitem__(self, fate: Fate) -> int:
        return self._counts[fate]

    def as_dict(self) -> dict[str, int]:
        """All counts at one moment."""
        with self._lock:
            return {str(fate): count for fate, count in self._counts.items()}
