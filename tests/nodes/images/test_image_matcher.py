"""Matches detections and images by stamp and `frame_id`, with bounded memory."""

from __future__ import annotations

from array import array

from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray

from nodes.images.image_matcher import MAX_BYTES, MAX_WAITING, MIN_IMAGES, ImageMatcher
from nodes.messages.headers import header_message

DATA = array("B", bytes(MAX_BYTES // 8))


def image(ns, size=100):
    message = Image(header=header_message(ns, "front"))
    message.data = DATA[:size]
    return message


def detections(ns):
    return Detection2DArray(header=header_message(ns, "front"), detections=[Detection2D()])


def test_nearest_image_within_the_tolerance_matches():
    matcher = ImageMatcher(tolerance_s=0.01)
    for milliseconds in (0, 30, 36, 60):
        assert matcher.add_image(image(milliseconds * 10**6)) is None
    match = matcher.add_detections(detections(35 * 10**6))
    assert match.image.header == header_message(36 * 10**6, "front")
    assert matcher.add_detections(detections(45 * 10**6)) is None


def test_more_small_images_wait_than_large_ones():
    small, large = ImageMatcher(), ImageMatcher()
    for ns in range(MAX_WAITING):
        small.add_image(image(ns, 640 * 480 * 3))
        large.add_image(image(ns, len(DATA)))
    assert small.add_detections(detections(0)) is not None
    assert large.add_detections(detections(MAX_WAITING - MIN_IMAGES - 1)) is None
    assert large.add_detections(detections(MAX_WAITING - MIN_IMAGES)) is not None


def test_number_of_waiting_messages_is_bounded_and_discarded_detections_are_counted():
    matcher = ImageMatcher()
    for ns in range(0, 6 * MAX_WAITING, 2):
        assert matcher.add_image(image(ns)) is None
        assert matcher.add_detections(detections(ns + 1)) is None
    assert matcher.unmatched == 2 * MAX_WAITING
    last = detections(6 * MAX_WAITING - 2)
    assert matcher.add_detections(last).detections is last
    assert matcher.add_detections(detections(0)) is None, "its image was discarded"
