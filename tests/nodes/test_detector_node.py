"""The detector node, seen from other nodes. All tests share one process."""

from __future__ import annotations

import array
import itertools
import re
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray, LabelInfo

from nodes.images.image_messages import image_from, image_message
from nodes.messages.detection_messages import boxes_from
from nodes.messages.headers import stamp_ns
from pipeline.inference.detector import Detector
from pipeline.paths import share_dirs

SETTLE_S = 0.5  # how long to wait if no message is expected


@pytest.fixture(scope="module")
def sample():
    """A sample with objects, 1280x720."""
    found = [p for folder in share_dirs() for p in sorted((folder / "samples").glob("*.jpg"))]
    assert found, "the package has sample images"
    return cv2.resize(cv2.imread(str(found[0])), (1280, 720))


@pytest.fixture(scope="module")
def process(start_module_node):
    return start_module_node("detector_node")


@pytest.fixture(scope="module")
def images(process, module_observer, wait_until):
    """A reliable publisher, after the node has adopted its reliability."""
    publisher = module_observer.publisher(Image, "image_raw")

    def is_reliable():
        infos = module_observer.node.get_subscriptions_info_by_topic(publisher.topic_name)
        return [i.qos_profile.reliability for i in infos] == [ReliabilityPolicy.RELIABLE]

    wait_until(is_reliable, "a reliable subscription")
    wait_until(lambda: publisher.get_subscription_count() == 1, "its connection")
    return publisher


@pytest.fixture(scope="module")
def results(module_observer, images, stamps, wait_until):
    """The detections, after both connections are known to work."""
    inbox = module_observer.subscribe(Detection2DArray, "detections", heard_from=1)

    def is_answered():
        sent.append(next(stamps))
        images.publish(image_message(np.zeros((48, 64, 3), np.uint8), sent[-1]))
        time.sleep(0.2)
        return inbox.messages

    sent = []
    wait_until(is_answered, "the first answer")
    inbox.wait_for(lambda result: result.header == sent[-1])
    return inbox


@pytest.fixture(scope="module")
def stamps():
    """Headers with the present time, each different."""
    return (
        header(*divmod(time.time_ns() // 1000 * 1000 + i % 1000, 10**9)) for i in itertools.count()
    )


def header(seconds, nanoseconds, frame_id="front/optical frame"):
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = seconds, nanoseconds
    return made


@pytest.fixture
def ask(images, results, stamps):
    """Publish an image and wait for its detections."""

    def send(image):
        message = image_message(image, next(stamps))
        images.publish(message)
        return results.wait_for(lambda result: result.header == message.header)

    return send


@pytest.fixture
def set_parameter(module_observer):
    kinds = {
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
    }

    def send(name, value):
        kind, field = kinds[type(value)]
        given = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
        request = SetParameters.Request(parameters=[given])
        answer = module_observer.call(SetParameters, "detector_node/set_parameters", request)
        return answer.results[0]

    return send


def status_of(message, namespace):
    name = f"{namespace.lstrip('/')}/detector_node: image_raw"
    return next((status for status in message.status if status.name == name), None)


def values_of(status):
    return {pair.key: pair.value for pair in status.values}


def test_array_and_every_detection_have_the_header_of_the_image(ask, sample):
    answer = ask(sample)
    assert answer.detections
    assert answer.header.frame_id == "front/optical frame"
    assert all(detection.header == answer.header for detection in answer.detections)


def test_boxes_are_in_pixels_of_a_1280x720_image_and_have_labels(ask, sample):
    answer, expected = ask(sample), Detector()(sample)
    assert len(expected), "the sample has objects"
    boxes = boxes_from(answer, 1280, 720)
    np.testing.assert_allclose(boxes, expected.boxes, atol=0.5)
    assert boxes.max() > 416, "pixels of the network input would be smaller"
    found = [d.results[0].hypothesis for d in answer.detections]
    assert [h.class_id for h in found] == [expected.labels[i] for i in expected.class_ids]
    np.testing.assert_allclose([h.score for h in found], expected.scores, atol=1e-6)
    assert all(len(detection.results) == 1 for detection in answer.detections)


def test_image_without_objects_gives_an_empty_array(ask):
    answer = ask(np.zeros((480, 640, 3), np.uint8))
    assert answer.detections == []


def test_each_frame_gives_one_result_in_order(images, results, stamps, sample):
    results.clear()
    small = cv2.resize(sample, (320, 240))
    sent = [next(stamps) for _ in range(20)]
    for stamp in sent:
        images.publish(image_message(small, stamp))
        time.sleep(0.03)
    results.wait_for(lambda result: result.header == sent[-1])
    time.sleep(SETTLE_S)
    answered = [stamp_ns(result.header) for result in results.messages]
    assert answered == sorted(set(answered))
    assert set(answered) <= {stamp_ns(stamp) for stamp in sent}


def test_late_subscriber_gets_the_labels(process, module_observer):
    labels = module_observer.subscribe(LabelInfo, "label_info", latched=True)
    (message,) = labels.wait()
    assert [c.class_name for c in message.class_map] == list(Detector().labels)
    assert [c.class_id for c in message.class_map] == list(range(80))
    assert message.threshold == pytest.approx(0.25)


def test_changed_threshold_applies_from_the_next_frame(ask, sample, set_parameter, module_observer):
    before = ask(sample).detections
    scores = [d.results[0].hypothesis.score for d in before]
    between = (scores[0] + 1) / 2
    labels = module_observer.subscribe(LabelInfo, "label_info", latched=True)
    labels.wait()
    assert set_parameter("score_threshold", between).successful
    try:
        assert ask(sample).detections == []
        assert labels.wait(2)[-1].threshold == pytest.approx(between)
    finally:
        assert set_parameter("score_threshold", 0.25).successful
    assert len(ask(sample).detections) == len(before)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("score_threshold", 1.5, r"out of range .*1\.0.*1\.5"),
        ("nms_threshold", float("nan"), r"nan"),
        ("score_threshold", "high", r"wrong parameter type"),
        ("reliability", "reliable", r"read-only"),
        ("detector", "other.onnx", r"deactivate first"),
    ],
    ids=["too large", "not a number", "not of its type", "read-only", "while active"],
)
def test_bad_value_is_rejected_with_a_reason(set_parameter, ask, sample, name, value, reason):
    outcome = set_parameter(name, value)
    assert not outcome.successful
    assert re.search(reason, outcome.reason, re.IGNORECASE), outcome.reason
    assert ask(sample).detections


def test_parameters_have_a_description_and_a_range(process, module_observer):
    request = DescribeParameters.Request(names=["score_threshold", "reliability"])
    service = "detector_node/describe_parameters"
    score, reliability = module_observer.call(DescribeParameters, service, request).descriptors
    assert score.description
    (limits,) = score.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.0, 1.0)
    assert not score.read_only
    assert reliability.read_only
    assert reliability.additional_constraints == "one of auto, reliable, best_effort"


def bad_messages():
    """Messages that no camera sends."""
    good = image_message(np.zeros((48, 64, 3), np.uint8), header(1, 0))

    def with_(**changes):
        fields = {name: getattr(good, name) for name in good.get_fields_and_field_types()}
        return Image(**{**fields, **changes})

    return {
        "wrong step": with_(step=191),
        "short data": with_(data=array.array("B", bytes(100))),
        "no data": with_(data=array.array("B")),
        "huge size": with_(width=2**31, height=2**31),
        "huge step": with_(step=2**32 - 1),
        "unknown encoding": with_(encoding="32FC3"),
    }


@pytest.mark.parametrize("kind", list(bad_messages()))
def test_bad_message_gives_one_warning_and_no_result(
    kind, process, images, ask, results, sample, wait_until
):
    time.sleep(1.0)  # another warning comes after a second at the earliest
    lines = process.count("unreadable image")

    def said():
        return process.count("unreadable image") - lines

    def send():
        for _ in range(3):
            images.publish(bad_messages()[kind])
            time.sleep(0.1)

    results.clear()
    wait_until(said, "a warning", again=send)  # newer messages may replace it
    answer = ask(sample)
    assert answer.detections
    assert [result.header for result in results.messages] == [answer.header]
    assert said() == 1


def test_enable_pauses_and_resumes(ask, images, results, stamps, sample, module_observer):
    def enable(wanted):
        request = SetBool.Request(data=wanted)
        assert module_observer.call(SetBool, "detector_node/enable", request).success

    ask(sample)
    enable(False)
    try:
        results.clear()
        images.publish(image_message(sample, next(stamps)))
        time.sleep(SETTLE_S)
        assert results.messages == []
    finally:
        enable(True)
    assert ask(sample).detections


def test_images_with_boxes_are_drawn_for_subscribers(ask, sample, module_observer):
    raw = module_observer.subscribe(Image, "detections/image", heard_from=1)
    jpeg = module_observer.subscribe(CompressedImage, "detections/image/compressed", heard_from=1)
    # The node may discover its new subscribers only after the first image.
    deadline = time.monotonic() + 60
    while not (raw.messages and jpeg.messages):
        assert time.monotonic() < deadline
        answer = ask(sample)
    shown = raw.wait_for(lambda message: message.header == answer.header)
    image = image_from(shown)
    assert image.shape == sample.shape
    different = (image != sample).any(axis=2)
    assert 0 < different.mean() < 0.5
    packed = jpeg.wait_for(lambda message: message.header == answer.header)
    assert np.abs(image_from(packed).astype(int) - image).mean() < 5


def test_diagnostics_have_rates_ages_and_models(
    ask, sample, set_parameter, module_observer, module_namespace, wait_until
):
    inbox = module_observer.subscribe(DiagnosticArray, "/diagnostics", heard_from=1)

    def status_at(level, words=""):
        known = (status_of(message, module_namespace) for message in inbox.messages)
        fits = (status for status in known if status and status.level == level)
        return next((status for status in fits if words in status.message), None)

    def is_ok():
        ask(sample)  # repeatedly, as a camera does
        return status_at(DiagnosticStatus.OK)

    known = values_of(wait_until(is_ok, "the status OK"))
    received, published, dropped, refused = (
        int(known[name]) for name in ("received", "published", "dropped", "refused")
    )
    assert received >= published + dropped + refused
    assert published > 0
    assert float(known["rate in (Hz)"]) >= 0
    assert float(known["detect p50 (ms)"]) > 0
    assert known["detector provider"] == "CPUExecutionProvider"
    assert re.fullmatch(r"[0-9a-f]{64}", known["detector sha256"])
    assert {"age p50 (ms)", "age p95 (ms)", "age p99 (ms)"} <= set(known)
    assert set_parameter("diagnostics.stale_after", 0.2).successful
    try:
        wait_until(lambda: status_at(DiagnosticStatus.WARN, "stale"), "a warning")
        assert set_parameter("diagnostics.stopped_after", 0.3).successful
        wait_until(lambda: status_at(DiagnosticStatus.ERROR, "stopped"), "an error")
    finally:
        set_parameter("diagnostics.stale_after", 2.0)
        set_parameter("diagnostics.stopped_after", 10.0)
