"""The classifier node matches by stamp and `frame_id`, and adds classes to the detections."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from nodes.images.image_messages import image_message
from pipeline.capture.scene import sample_photos
from pipeline.inference.classifier import Classifier

RELIABLE = ReliabilityPolicy.RELIABLE
BOX = (40.0, 30.0, 300.0, 250.0)
PARAMETERS = {"top": 3, "image_timeout": 1.0}


@pytest.fixture(scope="module")
def photo():
    path = next(path for path in sample_photos() if "cat" in path.stem)
    return cv2.resize(cv2.imread(str(path)), (320, 280))


@pytest.fixture(scope="module")
def node(start_module_node, module_observer):
    node = start_module_node("classifier_node", PARAMETERS)
    node.wait_for_log("classifier provider")
    return node


@pytest.fixture(scope="module")
def topics(node, module_observer, wait_until, photo):
    """The publishers of images and detections, and the classified detections."""
    images = module_observer.publisher(Image, "image_raw")
    infos = module_observer.node.get_subscriptions_info_by_topic
    wait_until(
        lambda: [i.qos_profile.reliability for i in infos(images.topic_name)] == [RELIABLE],
        "the image subscription to follow its publisher",
    )
    detections = module_observer.publisher(Detection2DArray, "detections")
    classified = module_observer.subscribe(Detection2DArray, "classified_detections", heard_from=1)

    def send():
        sent.append(header(1 + len(sent)))
        images.publish(image_message(photo, sent[-1]))
        detections.publish(array(sent[-1]))

    sent = []
    # The first answer shows that all are connected.
    wait_until(lambda: classified.messages, "the first answer", again=send)
    return images, detections, classified


@pytest.fixture
def answer_to(topics, wait_until):
    """The answer to the messages of a header, which are sent until it comes."""
    classified = topics[2]

    def ask(of, send):
        def found():
            return next((m for m in classified.messages if m.header == of), None)

        return wait_until(found, f"an answer to {of.stamp}", again=send)

    return ask


def header(seconds: int, nanoseconds: int = 7, frame_id: str = "front/left") -> Header:
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def array(of: Header, boxes=(BOX,)) -> Detection2DArray:
    """Detections with a value in every field."""
    message = Detection2DArray(header=of)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        detection = Detection2D(header=header(of.stamp.sec, 99, "lens"), id=f"track {i}")
        detection.bbox.center.position.x = (x1 + x2) / 2
        detection.bbox.center.position.y = (y1 + y2) / 2
        detection.bbox.center.theta = 0.25
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "cat", 0.5
        hypothesis.pose.pose.position.z = 1.5
        detection.results = [hypothesis]
        message.detections.append(detection)
    return message


@pytest.mark.parametrize("image_first", [True, False], ids=["image_first", "detections_first"])
def test_detections_are_unchanged_except_for_added_classes(topics, answer_to, photo, image_first):
    images, detections, _ = topics
    of = header(1000 + image_first, 123456789)
    boxes = (BOX, (0.0, 0.0, 60.0, 60.0))
    sent, image = array(of, boxes), image_message(photo, of)

    def send():
        pair = [(images, image), (detections, sent)]
        for publisher, message in pair[:: 1 if image_first else -1]:
            publisher.publish(message)

    got = answer_to(of, send)
    classes = [[r.hypothesis for r in d.results[1:]] for d in got.detections]
    bare = copy.deepcopy(got)
    for detection in bare.detections:
        detection.results = detection.results[:1]
    assert bare == sent
    expected = Classifier(top=3)(photo, np.array(boxes, np.float32))
    for row, hypotheses in enumerate(classes):
        names = [f"imagenet/{expected.labels[i]}" for i in expected.ids[row]]
        assert [h.class_id for h in hypotheses] == names
        assert [h.score for h in hypotheses] == pytest.approx(expected.scores[row], abs=1e-5)


def test_empty_array_needs_no_image(topics, answer_to):
    sent = array(header(2000), boxes=())
    assert answer_to(sent.header, lambda: topics[1].publish(sent)) == sent


def test_different_stamp_or_frame_id_gives_no_match_and_a_warning(topics, photo, node, wait_until):
    images, detections, classified = topics

    def send():
        detections.publish(array(header(3000, 0)))
        detections.publish(array(header(3000, 0, "rear")))
        images.publish(image_message(photo, header(3000, 1)))

    image, rear = (
        rf"3000\.00000000{nanosecond} of frame_id '{name}'"
        for nanosecond, name in ((1, "front/left"), (0, "rear"))
    )
    said = f"no image of the same stamp and frame_id: newest image {image}, .* detections {rear}"
    wait_until(lambda: node.count(said), "a warning of both", again=send)
    assert all(message.header.stamp.sec != 3000 for message in classified.messages)


def test_node_survives_bad_messages(topics, answer_to, photo, node, wait_until):
    images, detections, _ = topics
    broken = image_message(photo, header(4000))
    broken.step = 3

    def send_broken():
        images.publish(broken)
        detections.publish(array(header(4000)))

    def send_wild():
        images.publish(image_message(photo, header(4001)))
        detections.publish(array(header(4001), boxes=(nowhere, BOX)))

    nowhere = (float("nan"), float("inf"), -1e30, 1e30)
    said = "unreadable image: step"
    wait_until(lambda: node.count(said), "a warning of the broken image", again=send_broken)
    got = answer_to(header(4001), send_wild)
    assert len(got.detections[1].results) == 4
