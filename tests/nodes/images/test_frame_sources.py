"""Captures that pause, limit the rate and keep the header of each frame."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Header as HeaderMessage

from nodes.images.frame_sources import CaptureSource, RateLimit, TopicSource, open_capture
from nodes.images.image_messages import image_message
from nodes.messages.diagnostics import Activity
from nodes.messages.headers import header_message, stamp_ns
from nodes.parameters import parameters_of_settings
from pipeline.source import Source
from pipeline.sources import open_source
from pipeline.types import ClockOffset, Frame


@pytest.fixture
def activity():
    return Activity("images")


@pytest.fixture
def folder(tmp_path):
    """A folder with four images."""
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    return tmp_path


class Recording(Source[Frame]):
    """Two frames of a recording that started at 10 ns; counts calls of `done`."""

    camera, live, frames, fps = "drive", False, 2, 25.0

    def __init__(self):
        self._frames = iter(
            Frame(np.zeros((8, 8, 3), np.uint8), stamp, 0, "drive", read_ns=read, recorded=True)
            for stamp, read in ((10, 5_000_000_000), (20, 6_000_000_000))
        )
        self.calls_of_done = 0

    def read(self):
        return next(self._frames, None)

    def close(self):
        self._frames = iter(())

    def clock_of(self, camera):
        return ClockOffset(7, 1) if camera == "drive" else None

    def done(self):
        self.calls_of_done += 1

    def counts(self):
        return {"reconnects": 3}


def capture(source, activity, limit=None):
    return CaptureSource(
        source,
        lambda _: activity,
        limit or RateLimit(0.0),
        lambda frame: header_message(frame.stamp_ns, "lens"),
    )


def test_capture_keeps_what_the_source_says_about_itself(activity):
    recording = Recording()
    source = capture(recording, activity)
    assert (source.camera, source.live, source.frames, source.fps) == ("drive", False, 2, 25.0)
    assert source.clock_of("drive") == ClockOffset(7, 1)
    assert source.clock_of("rear") is None
    assert source.counts() == {"reconnects": 3}
    source.done()
    assert recording.calls_of_done == 1


def test_frames_of_a_capture_carry_their_header_and_number(activity):
    source = capture(Recording(), activity)
    origins = [frame.origin for frame in iter(source.read, None)]
    assert [origin.number for origin in origins] == [1, 2]
    assert [stamp_ns(origin.header) for origin in origins] == [10, 20]
    assert {origin.header.frame_id for origin in origins} == {"lens"}


def test_recordings_are_published_with_the_time_of_reading(monkeypatch, activity):
    monkeypatch.setattr("nodes.images.frame_sources.open_source", lambda *_, **__: Recording())
    parameters = {p.name: p.default for p in parameters_of_settings("camera_node")}
    parameters["source"] = "drive.mp4"
    clock = Clock(clock_type=ClockType.ROS_TIME)
    source = open_capture(parameters, clock, lambda _: activity, RateLimit(0.0))
    stamps = [stamp_ns(frame.origin.header) for frame in iter(source.read, None)]
    assert stamps == [5_000_000_000, 6_000_000_000]


def test_no_frame_of_a_file_is_lost_if_a_wait_ends_too_early(folder, activity):
    class Hasty(RateLimit):
        def wait_s(self, camera):
            return super().wait_s(camera) / 2

    source = capture(open_source(str(folder)), activity, Hasty(100.0))
    assert [frame.seq for frame in iter(source.read, None)] == [0, 1, 2, 3]
    source.close()


def test_message_stamped_before_1970_is_refused_and_ends_nothing(activity):
    reasons = []
    source = TopicSource({"": activity}, RateLimit(0.0), lambda _, reason: reasons.append(reason))
    image = np.zeros((8, 8, 3), np.uint8)
    early = image_message(image, HeaderMessage(stamp=Time(sec=-1)))
    source.put("", early)
    reader = threading.Thread(target=source.read)
    reader.start()
    while not reasons:
        time.sleep(0.01)
    source.put("", image_message(image, HeaderMessage(stamp=Time(sec=1))))
    reader.join(10.0)
    assert not reader.is_alive()
    assert activity.refused == 1
    assert "stamp_ns" in reasons[0]
