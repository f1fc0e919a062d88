"""Finds the image that detections were made from."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from nodes.messages.headers import stamp_ns

MAX_WAITING = 64  # images, and detections, that wait for a match: two seconds at 30 per second
MIN_IMAGES, MAX_BYTES = 16, 2**26  # beyond MIN_IMAGES, waiting images take at most MAX_BYTES


class Match(NamedTuple):
    """Detections and their image, unchanged; no image for an empty array."""

    detections: Any
    image: Any


class ImageMatcher:
    """Matches detections with the image of the same `frame_id` and stamp, in either order.

    `tolerance_s` allows stamps to differ by that much; then the nearest image is the match. The
    number of waiting messages is bounded, and a match discards older messages of its `frame_id`.

    `unmatched` counts the detections discarded without an image. Not thread-safe.
    """

    def __init__(self, tolerance_s: float = 0.0) -> None:
        self.tolerance_s = tolerance_s
        self.unmatched = 0
        self._images: deque[Any] = deque(maxlen=MAX_WAITING)
        self._detections: deque[Any] = deque()

    def add_image(self, image: Any) -> Match | None:
        """Add an image; returns the match that it completes, if any."""
        self._images.append(image)
        while len(self._images) > MIN_IMAGES and _total_bytes(self._images) > MAX_BYTES:
            self._images.popleft()
        detections = self._nearest(self._detections, image.header)
        return None if detections is None else self._matched(Match(detections, image))

    def add_detections(self, detections: Any) -> Match | None:
        """Add detections; returns the match that they complete, if any."""
        if not detections.detections:
            return Match(detections, None)
        image = self._nearest(self._images, detections.header)
        self._detections.append(detections)
        if image is not None:
            return self._matched(Match(detections, image))
        if len(self._detections) > MAX_WAITING:
            self._detections.popleft()
            self.unmatched += 1
        return None

    def mismatch(self) -> str:
        """How the newest image and detections differ; empty if one of them is missing."""
        if not self._images or not self._detections:
            return ""
        image, detections = self._images[-1].header, self._detections[-1].header
        return f"newest image {_described(image)}, newest detections {_described(detections)}"

    def _nearest(self, messages: deque[Any], header: Any) -> Any:
        wanted_ns, tolerance_ns = stamp_ns(header), round(self.tolerance_s * 1e9)
        distances_ns = {
            i: abs(stamp_ns(message.header) - wanted_ns)
            for i, message in enumerate(messages)
            if message.header.frame_id == header.frame_id
        }
        nearest = min(distances_ns, key=distances_ns.__getitem__, default=None)
        if nearest is None or distances_ns[nearest] > tolerance_ns:
            return None
        return messages[nearest]

    def _matched(self, match: Match) -> Match:
        """The match, after discarding everything that is not newer."""
        others = [m for m in self._detections if m is not match.detections]
        newer = [m for m in others if _is_newer(m, match.detections)]
        self.unmatched += len(others) - len(newer)
        self._detections = deque(newer)
        images = [m for m in self._images if _is_newer(m, match.image)]
        self._images = deque(images, maxlen=MAX_WAITING)
        return match


def _total_bytes(images: deque[Any]) -> int:
    return sum(len(image.data) for image in images)


def _is_newer(message: Any, other: Any) -> bool:
    """Whether `message` may still find a match after `other`: later, or of another camera."""
    return message.header.frame_id != other.header.frame_id or stamp_ns(message.header) > stamp_ns(
        other.header
    )


def _described(header: Any) -> str:
    return f"{header.stamp.sec}.{header.stamp.nanosec:09d} of frame_id '{header.frame_id[:40]}'"
