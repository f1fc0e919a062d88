"""Ages of frames, by the clocks that stamped them."""

from __future__ import annotations

import time
from typing import Any

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
