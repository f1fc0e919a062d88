"""The vision node: several cameras, captured images, a slow detector, a rate limit."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import pytest
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from nodes.images.image_messages import image_message
from nodes.messages.headers import header_message, stamp_ns
from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector
from pipeline.paths import share_dirs

SLOW = str(Path(__file__).with_name("slow_detector.py"))
CAMERAS = ("front", "left", "right")


@pytest.fixture(scope="module")
def image():
    found = [p for folder in share_dirs() for p in sorted((folder / "samples").glob("*.jpg"))]
    return cv2.resize(cv2.imread(str(found[0])), (320, 240))


class Sender:
    """Publishes an image at a rate from a thread, each time with another stamp."""

    def __init__(self, publisher, image, frame_id, rate):
        self.sent = []
        self._publisher, self._image = publisher, image
        self._frame_id, self._period_s = frame_id, 1 / rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._ended.wait(self._period_s):
            header = header_message(time.time_ns(), self._frame_id)
            self.sent.append(stamp_ns(header))
            self._publisher.publish(image_message(self._image, header))

    def end(self):
        self._ended.set()
        self._thread.join()


def test_three_cameras_share_the_detector_fairly_and_keep_their_headers(
    start_node, observer, image
):
    """One camera sends five times as often as the others, and gets no more than its share."""
    start_node(
        SLOW,
        {"cameras": list(CAMERAS), "classifier": "none"},
        variables={"NODE": "vision", "DETECTION_S": 0.05},
    )
    inboxes = {
        camera: observer.subscribe(Detection2DArray, f"{camera}/detections", heard_from=1)
        for camera in CAMERAS
    }
    senders = [
        Sender(observer.publisher(Image, f"{camera}/image_raw"), image, f"{camera}_optical", rate)
        for camera, rate in zip(CAMERAS, (50, 10, 10), strict=True)
    ]
    inboxes["right"].wait(5)  # all cameras are running
    for inbox in inboxes.values():
        inbox.clear()
    for camera in CAMERAS:
        inboxes[camera].wait(8)
    counts = Counter({camera: len(inbox.messages) for camera, inbox in inboxes.items()})
    for sender in senders:
        sender.end()
    assert counts["front"] <= 2 * min(counts.values()) + 2, counts
    for camera, sender in zip(CAMERAS, senders, strict=True):
        messages = inboxes[camera].messages
        assert {message.header.frame_id for message in messages} == {f"{camera}_optical"}
        stamps = [stamp_ns(message.header) for message in messages]
        assert stamps == sorted(set(stamps))
        assert set(stamps) <= set(sender.sent)
        labels = observer.subscribe(LabelInfo, f"{camera}/label_info", latched=True)
        assert len(labels.wait()[0].class_map) == 80


def test_slow_detector_processes_the_newest_image(start_node, observer, image):
    start_node(SLOW, variables={"NODE": "detector", "DETECTION_S": 0.25})
    results = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    sender = Sender(observer.publisher(Image, "image_raw"), image, "camera", 40)
    answered = [stamp_ns(message.header) for message in results.wait(22)[2:]]
    sender.end()
    # Count by stamps, so that a busy machine changes nothing: the number of images from one result
    # to the next. A queue would give one result per image.
    passed = sorted(
        sum(before < stamp <= after for stamp in sender.sent)
        for before, after in itertools.pairwise(answered)
    )
    assert passed[len(passed) // 2] >= 4, passed  # 0.25 s at 40 Hz are 10 images
    assert len(answered) == len(set(answered))


def test_scene_is_captured_detected_and_classified(start_node, observer):
    scene = {"source": "scene:?size=640x480&fps=10", "frame_id": "head"}
    since_ns = time.time_ns()
    process = start_node("vision_node", scene)
    results = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    labels, classes = set(Detector().labels), {f"imagenet/{name}" for name in Classifier().labels}
    results.wait_for(lambda message: message.detections)  # between two photographs there are none
    for message in results.messages:
        assert message.header.frame_id == "head"
        assert since_ns <= stamp_ns(message.header) <= time.time_ns()
        for detection in message.detections:
            names = [result.hypothesis.class_id for result in detection.results]
            assert names[0] in labels
            assert len(names) == 6
            assert set(names[1:]) <= classes
            scores = [result.hypothesis.score for result in detection.results[1:]]
            assert scores == sorted(scores, reverse=True)
    stamps = [stamp_ns(message.header) for message in results.messages]
    assert stamps == sorted(set(stamps))
    assert process.stop(signal.SIGTERM) == 0


def test_source_without_detector_publishes_images(start_node, observer):
    images = observer.subscribe(Image, "image_raw")
    given = {"source": "scene:?size=320x240&fps=10", "detector": "none"}
    process = start_node("vision_node", given)
    assert images.wait(3)[0].width == 320
    assert observer.node.count_publishers(f"{observer.node.get_namespace()}/detections") == 0
    assert process.stop() == 0


def test_rate_limit_is_kept(start_node, observer, image):
    start_node("vision_node", {"max_rate": 5.0, "classifier": "none"})
    results = observer.subscribe(Detection2DArray, "detections", heard_from=1)
    sender = Sender(observer.publisher(Image, "image_raw"), image, "camera", 30)
    periods = []
    while len(periods) < 3 and max(periods, default=0) < 0.175:
        dozen = results.wait(12 * (len(periods) + 1))[-12:]
        periods.append((stamp_ns(dozen[-1].header) - stamp_ns(dozen[1].header)) / 1e10)
    sender.end()
    # Less than 0.2, because the first image of a dozen may have waited longer than the last.
    # A busy machine may delay one dozen, but not all three.
    assert max(periods) >= 0.175, periods


def test_frames_of_an_unknown_camera_give_a_warning(start_node, observer):
    given = {"source": "scene:?size=320x240&fps=10", "cameras": ["front", "rear"]}
    process = start_node("vision_node", {**given, "classifier": "none"})
    results = observer.subscribe(Detection2DArray, "front/detections", heard_from=1)
    assert results.wait()[0].header.frame_id == "scene"
    assert "images go to front/" in process.wait_for_log("camera 'scene' is not one of cameras")
