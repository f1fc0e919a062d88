"""Puts the results of several detectors that share frames back in order."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field

from pipeline.types import Result

HOLD_S = 0.5
"""How long a result waits for those before it; a slower detector is regarded as gone."""

RESTART_S = 2.0
"""After a silence of this length, results with lower numbers are those of a restarted camera."""

MAX_CAMERAS = 64
MAX_WAITING = 256
MAX_SENDERS = 256


@dataclass(slots=True)
class _Camera:
    """The results of one camera that wait.

    `newest` has for each sender its latest number and when it came. `former_ns` is the stamp up to
    which results are from before the camera's restart, which was at `begun_s`. A sender's own
    results come in order, so a number that every sender has passed cannot come any more.
    """

    waiting: list[tuple[int, int, float, Result]] = field(default_factory=list)
    newest: dict[int, tuple[int, float]] = field(default_factory=dict)
    given_seq: int = -1
    given_stamp_ns: int = -1
    given_s: float = 0.0
    former_ns: int = -1
    begun_s: float = 0.0


class ResultOrder:
    """Returns the results of each camera by `seq`.

    A result that comes after a later one was returned is dropped, as is a second one on the same
    frame. `late` counts them.
    """

    def __init__(self, hold_s: float = HOLD_S) -> None:
        self._hold_s = hold_s
        self._cameras: dict[str, _Camera] = {}
        self._arrivals = itertools.count()
        self.late = 0

    def put(self, sender: int, result: Result) -> None:
        """Add a result of a sender."""
        header = result.header
        if header.camera not in self._cameras and len(self._cameras) >= MAX_CAMERAS:
            self._forget(next(iter(self._cameras)))
        camera = self._cameras.setdefault(header.camera, _Camera())
        now_s = time.monotonic()
        if header.stamp_ns <= camera.former_ns and now_s - camera.begun_s < RESTART_S:
            self.late += 1
            return
        if header.seq <= camera.given_seq:
            # A restarted camera counts from 0, and its clock may have been set back meanwhile.
            is_newer = header.stamp_ns > camera.given_stamp_ns
            if not is_newer and now_s - camera.given_s < RESTART_S:
                self.late += 1
                return
            former_ns = max(camera.given_stamp_ns, camera.former_ns) if is_newer else -1
            self._forget(header.camera)
            camera = _Camera(former_ns=former_ns, begun_s=now_s)
            self._cameras[header.camera] = camera
        if sender not in camera.newest and len(camera.newest) >= MAX_SENDERS:
            del camera.newest[next(iter(camera.newest))]
        camera.newest[sender] = header.seq, now_s
        heapq.heappush(camera.waiting, (header.seq, next(self._arrivals), now_s, result))

    def get(self) -> Result | None:
        """The next result that is due, None if all have to wait."""
        now_s = time.monotonic()
        for camera in self._cameras.values():
            while camera.waiting and self._is_due(camera, now_s):
                seq, _, _, result = heapq.heappop(camera.waiting)
                if seq == camera.given_seq:
                    self.late += 1  # two detectors processed the same frame
                    continue
                camera.given_seq, camera.given_stamp_ns = seq, result.header.stamp_ns
                camera.given_s = now_s
                return result
        return None

    @property
    def waiting(self) -> int:
        """How many results wait."""
        return sum(len(camera.waiting) for camera in tuple(self._cameras.values()))

    def _forget(self, camera: str) -> None:
        self.late += len(self._cameras.pop(camera).waiting)

    def _is_due(self, camera: _Camera, now_s: float) -> bool:
        seq, _, came_s, _ = camera.waiting[0]
        if seq == camera.given_seq + 1 or now_s - came_s > self._hold_s:
            return True
        if len(camera.waiting) > MAX_WAITING:
            return True
        for sender, (_, heard_s) in list(camera.newest.items()):
            if now_s - heard_s > 2 * self._hold_s:
                del camera.newest[sender]
        return all(newest >= seq for newest, _ in camera.newest.values())
