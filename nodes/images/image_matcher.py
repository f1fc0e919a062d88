"""Finds the image that detections were made from."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from nodes.messages.detection_messages import stamp_ns

KEPT = 64  # images, and detections, that wait for one another: two seconds at 30 a second
FEWEST, MOST_BYTES = 16, 2**26  # of large images fewer wait, as long as they take that much memory


class Pair(NamedTuple):
    """Detections and their image, both as they came; no image where there is nothing to look at."""

    detections: Any
    image: Any


class Join:
    """Pairs detections with the image of the same `frame_id` and stamp, whichever comes first.

    `tolerance_s` allows stamps to differ by that much; then the nearest image counts. What waits is
    bounded, and once a pair is found nothing older of its `frame_id` is waited for any more.

    `unmatched` counts the detections that were given up. Used by one thread.
    """

    def __init__(self, tolerance_s: float = 0.0) -> None:
        self.tolerance_s = tolerance_s
        self.unmatched = 0
        self._images: deque[Any] = deque(maxlen=KEPT)
        self._waiting: deque[Any] = deque()

    def add_image(self, image: Any) -> Pair | None:
        """Take an image in; the pair that it completes, if any."""
        self._images.append(image)
        while len(self._images) > FEWEST and sum(len(i.data) for i in self._images) > MOST_BYTES:
            self._images.popleft()
        detections = self._nearest(self._waiting, image.header)
        return None if detections is None else self._joined(Pair(detections, image))

    def add_detections(self, detections: Any) -> Pair | None:
        """Take detections in; the pair that they complete, if any."""
        if not detections.detections:
            return Pair(detections, None)
        image = self._nearest(self._images, detections.header)
        self._waiting.append(detections)
        if image is not None:
            return self._joined(Pair(detections, image))
        if len(self._waiting) > KEPT:
            self._waiting.popleft()
            self.unmatched += 1
        return None

    def mismatch(self) -> str:
        """How the newest of both differ; empty where one of them is missing."""
        if not self._images or not self._waiting:
            return ""
        image, detections = self._images[-1].header, self._waiting[-1].header
        return f"newest image {_shown(image)}, newest detections {_shown(detections)}"

    def _nearest(self, messages: deque[Any], header: Any) -> Any:
        wanted_ns, tolerance_ns = stamp_ns(header), round(self.tolerance_s * 1e9)
        apart_ns = {
            i: abs(stamp_ns(message.header) - wanted_ns)
            for i, message in enumerate(messages)
            if message.header.frame_id == header.frame_id
        }
        nearest = min(apart_ns, key=apart_ns.__getitem__, default=None)
        if nearest is None or apart_ns[nearest] > tolerance_ns:
            return None
        return messages[nearest]

    def _joined(self, pair: Pair) -> Pair:
        """The pair, after all that is not newer has been let go of."""
        waiting = [m for m in self._waiting if m is not pair.detections]
        newer = [m for m in waiting if _is_newer(m, pair.detections)]
        self.unmatched += len(waiting) - len(newer)
        self._waiting = deque(newer)
        images = [m for m in self._images if _is_newer(m, pair.image)]
        self._images = deque(images, maxlen=KEPT)
        return pair


def _is_newer(message: Any, other: Any) -> bool:
    """Whether it may still be needed after `other`: later, or of another camera."""
    return message.header.frame_id != other.header.frame_id or stamp_ns(message.header) > stamp_ns(
        other.header
    )


def _shown(header: Any) -> str:
    return f"{header.stamp.sec}.{header.stamp.nanosec:09d} of frame_id '{header.frame_id[:40]}'"
