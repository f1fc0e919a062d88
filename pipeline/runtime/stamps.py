"""How old things are, by the clock that stamped them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

UNKNOWN_NS = 10**18
"""An error as large says that nobody knows how far a clock is ahead."""


class Offset(Protocol):
    """A clock is `offset_ns` ahead of this machine's, give or take `error_ns`."""

    @property
    def offset_ns(self) -> int: ...
    @property
    def error_ns(self) -> int: ...


class StampClock:
    """The clocks that the stamps of a source's frames were read from.

    A source whose frames come from elsewhere has a method `clock_of(camera)` that gives the
    `Offset` of the camera's clock, None where that is not known; then its clock is taken for this
    machine's. For every other source it is this machine's.
    """

    def __init__(self, source: object) -> None:
        self._clock_of: Callable[[str], Offset | None] | None = getattr(source, "clock_of", None)
        self._errors_ns: dict[str, int | None] = {}

    def now_ns(self, camera: str) -> int:
        """What the clock of a camera shows now, in ns since the epoch."""
        now_ns = time.time_ns()
        if self._clock_of is None:
            return now_ns
        offset = self._clock_of(camera)
        if offset is not None and offset.error_ns >= UNKNOWN_NS:
            offset = None  # whoever passed the frames on did not know it
        self._errors_ns[camera] = None if offset is None else offset.error_ns
        return now_ns if offset is None else now_ns + offset.offset_ns

    def age_ms(self, camera: str, stamp_ns: int) -> float:
        """How long ago a frame was captured, in ms; 0 where a clock was set back since."""
        return max(self.now_ns(camera) - stamp_ns, 0) / 1e6

    def error(self) -> dict[str, float | None]:
        """`error`: how far ages may be off, in ms, None where no one knows; else nothing."""
        if self._clock_of is None:
            return {}
        errors_ns = list(self._errors_ns.values())
        known_ns = [ns for ns in errors_ns if ns is not None]
        if len(known_ns) < len(errors_ns):
            return {"error": None}
        return {"error": round(max(known_ns, default=0) / 1e6, 3)}
