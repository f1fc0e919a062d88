"""Diagnostics report every state in which results are missing or their age is wrong."""

from __future__ import annotations

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image

from nodes.images.image_messages import image_message
from nodes.messages.diagnostics import Activity, Diagnostics
from nodes.messages.headers import header_message

LIMITS = {
    "diagnostics.stale_after": 2.0,
    "diagnostics.stopped_after": 10.0,
    "diagnostics.slow_age": 0.5,
    "diagnostics.slow_rate": 0.0,
}
HOUR_NS = 3600 * 10**9


@pytest.fixture
def judge(observer):
    """The level and the text that an activity gives."""
    inbox = observer.subscribe(DiagnosticArray, "/diagnostics")
    diagnostics = Diagnostics(observer.node, LIMITS)

    def judge(activity: Activity) -> tuple[bytes, str]:
        inbox.clear()
        while not inbox.messages:
            diagnostics.publish([activity], {}, state="active")
            time.sleep(0.05)
        status = inbox.messages[0].status[0]
        return status.level, status.message

    return judge


def busy(age_ns: int = 10**7, stamp_ns: int | None = None) -> Activity:
    """An activity that has published results of one age."""
    activity, now_ns = Activity("camera"), time.time_ns()
    activity.rate_out.per_second(0)
    for _ in range(20):
        activity.received += 1
        activity.record(now_ns, now_ns - age_ns if stamp_ns is None else stamp_ns, {})
    return activity


def test_fresh_results_are_ok(judge):
    assert judge(busy())[0] == DiagnosticStatus.OK


def test_stamps_ahead_of_the_clock_are_a_warning(judge):
    level, text = judge(busy(-HOUR_NS))
    assert level == DiagnosticStatus.WARN
    assert "3600.0 s ahead of this node's clock" in text


def test_missing_stamps_are_a_warning_and_no_age(judge):
    activity = busy(stamp_ns=0)
    level, text = judge(activity)
    assert level == DiagnosticStatus.WARN
    assert "no time stamp" in text
    assert len(activity.ages_ms) == 0


def test_refused_images_without_results_are_an_error(judge):
    activity = Activity("camera", received=5)
    activity.refuse("step must be at least 192 bytes")
    level, text = judge(activity)
    assert level == DiagnosticStatus.ERROR
    assert text == "every image is refused: step must be at least 192 bytes"


def test_awaited_messages_are_named(judge):
    activity = Activity("camera", last_s=time.monotonic() - 20, awaited="detections")
    level, text = judge(activity)
    assert level == DiagnosticStatus.ERROR
    assert text.startswith("stopped: no detections for 2")


def test_simulated_time_without_a_clock_is_a_warning(start_node, observer, namespace, wait_until):
    inbox = observer.subscribe(DiagnosticArray, "/diagnostics")
    node = {"source": "scene:", "classifier": "none", "use_sim_time": True}
    start_node("vision_node", node)
    inbox.wait_for(
        lambda m: (
            m.status[0].name.startswith(namespace.lstrip("/"))
            and "no time has come on /clock" in m.status[0].message
        )
    )


def test_node_that_refuses_every_image_reports_an_error(start_node, observer, namespace):
    inbox = observer.subscribe(DiagnosticArray, "/diagnostics")
    start_node("detector_node")
    images = observer.publisher(Image, "image_raw")
    message = image_message(
        np.zeros((48, 64, 3), np.uint8), header_message(time.time_ns(), "camera")
    )
    message.encoding = "32FC3"
    deadline_s = time.monotonic() + 60
    while not any(
        status.level == DiagnosticStatus.ERROR and "every image is refused" in status.message
        for m in inbox.messages
        for status in m.status
        if status.name.startswith(namespace.lstrip("/"))
    ):
        assert time.monotonic() < deadline_s
        images.publish(message)
        time.sleep(0.2)
