"""Limits how often a warning of the same kind is logged."""

from __future__ import annotations

import time

WARN_AGAIN_S = 30.0
"""After this time the same warning is logged again."""
OTHER_S = 1.0


class Throttle:
    """Admits a text at once if it is new, at most once a second, and again after 30 s."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}

    def admits(self, subject: str, text: str) -> bool:
        """Whether to log `text` about `subject`, such as a topic, now."""
        now_s = time.monotonic()
        before, before_s = self._last.get(subject, ("", float("-inf")))
        if now_s - before_s < (WARN_AGAIN_S if text == before else OTHER_S):
            return False
        self._last[subject] = text, now_s
        return True
