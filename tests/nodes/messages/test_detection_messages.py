"""Results to vision_msgs, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from std_msgs.msg import Header

from nodes.messages.detection_messages import (
    add_classifications,
    boxes_from,
    detection_array,
    label_info,
)
from nodes.messages.headers import header_message, stamp_ns
from pipeline.types import Classifications, Detections

LABELS = ("person", "cat")


@pytest.fixture
def header():
    header = Header(frame_id="camera/optical frame")
    header.stamp.sec, header.stamp.nanosec = 1_700_000_000, 999_999_999
    return header


@pytest.fixture
def detections():
    return Detections(
        boxes=np.array([[10.25, 20.5, 110.25, 220.5], [0, 0, 1280, 720]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        class_ids=np.array([1, 0], np.int32),
        labels=LABELS,
        track_ids=np.array([7, -1], np.int64),
    )


@pytest.fixture
def classes():
    ids = np.array([[2, 0], [1, 2]], np.int32)
    scores = np.array([[0.5, 0.25], [0.125, 0.0625]], np.float32)
    return Classifications(ids, scores, ("tabby", "suit", "tiger cat"))


def test_array_and_every_detection_have_the_header_verbatim(header, detections):
    message = detection_array(header, detections)
    assert message.header == header
    assert [d.header for d in message.detections] == [header, header]


def test_boxes_are_centre_and_size_in_image_pixels(header, detections):
    first, second = detection_array(header, detections).detections
    centre = first.bbox.center.position
    assert (centre.x, centre.y, first.bbox.center.theta) == (60.25, 120.5, 0.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (100.0, 200.0)
    assert (second.bbox.center.position.x, second.bbox.size_y) == (640.0, 720.0)


def test_hypotheses_are_the_label_and_then_the_classes(header, detections, classes):
    first, second = detection_array(header, detections, classes).detections
    found = [(r.hypothesis.class_id, r.hypothesis.score) for r in first.results]
    assert found == [("cat", 0.75), ("imagenet/tiger cat", 0.5), ("imagenet/tabby", 0.25)]
    assert [r.hypothesis.class_id for r in second.results] == [
        "person",
        "imagenet/suit",
        "imagenet/tiger cat",
    ]
    assert [first.id, second.id] == ["7", ""]


def test_classes_can_be_added_to_a_received_message(header, detections, classes):
    message = detection_array(header, detections)
    add_classifications(message.detections, classes)
    assert message == detection_array(header, detections, classes)


def test_no_detections_give_an_empty_array(header):
    message = detection_array(header, Detections.empty(LABELS))
    assert message.header == header
    assert message.detections == []


def test_boxes_survive_a_round_trip(header, detections):
    message = detection_array(header, detections)
    np.testing.assert_array_equal(boxes_from(message, 1280, 720), detections.boxes)
    assert boxes_from(detection_array(header, Detections.empty(LABELS)), 9, 9).shape == (0, 4)


@pytest.mark.filterwarnings("error")
def test_received_boxes_are_clipped_and_have_no_nan(header, detections):
    message = detection_array(header, detections)
    message.detections[0].bbox.center.position.x = float("nan")
    message.detections[1].bbox.center.position.x = float("inf")
    message.detections[1].bbox.size_x = float("inf")
    boxes = boxes_from(message, 640, 480)
    assert np.isfinite(boxes).all()
    assert boxes.min() >= 0
    assert (boxes <= [640, 480, 640, 480]).all()


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, 1_700_000_000_123_456_789])
def test_stamps_keep_every_nanosecond(stamp):
    header = header_message(stamp, "camera")
    assert stamp_ns(header) == stamp
    assert header.frame_id == "camera"


def test_label_info_names_every_class_by_its_id(header):
    message = label_info(header, LABELS, 0.25)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [(0, "person"), (1, "cat")]
    assert message.threshold == 0.25
    assert message.header == header
