"""Ages by the clock that stamped the frames."""

from __future__ import annotations

import time

import pytest

from pipeline.runtime.frame_age import CameraClocks
from pipeline.source import Source
from pipeline.types import UNKNOWN_NS, ClockOffset, Frame, Header

SECOND = 1_000_000_000


class Local(Source[Frame]):
    """A source in this process."""

    camera, live = "local", True

    def read(self):
        return None

    def close(self):
        pass


class Remote(Local):
    """A source whose cameras have clocks of their own."""

    def clock_of(self, camera):
        known = {
            "ahead": ClockOffset(5 * SECOND, 2_000_000),
            "near": ClockOffset(0, 500_000),
            "same": ClockOffset(0, 0),
            "passed on": ClockOffset(-SECOND, UNKNOWN_NS + 500_000),
        }
        return known.get(camera)


def header(camera, stamp_ns=0, **kwargs):
    return Header(camera, 0, stamp_ns, 4, 4, **kwargs)


def test_age_is_measured_by_the_clock_that_stamped_the_frame():
    clocks = CameraClocks(Remote())
    stamp_ns = time.time_ns() + 5 * SECOND - 100_000_000
    assert 100 <= clocks.age_ms(header("ahead", stamp_ns)) < 4000
    assert clocks.error() == {"error": 2.0}


def test_error_is_the_largest_of_all_cameras():
    clocks = CameraClocks(Remote())
    for camera in ("near", "ahead"):
        clocks.now_ns(camera)
    assert clocks.error() == {"error": 2.0}


@pytest.mark.parametrize("camera", ["unknown", "passed on"])
def test_error_is_none_if_a_clock_is_not_known(camera):
    clocks = CameraClocks(Remote())
    assert 0 <= clocks.age_ms(header(camera, time.time_ns())) < 1000
    assert clocks.error() == {"error": None}


def test_a_clock_that_was_compared_and_agrees_has_an_error_of_zero():
    clocks = CameraClocks(Remote())
    clocks.now_ns("same")
    assert clocks.error() == {"error": 0.0}


def test_a_source_in_this_process_has_no_error():
    clocks = CameraClocks(Local())
    clocks.now_ns("local")
    assert clocks.error() == {}


def test_age_of_a_recorded_frame_counts_from_its_reading():
    clocks = CameraClocks(Local())
    read_ns = time.time_ns() - 100_000_000
    recorded = header("local", stamp_ns=5, read_ns=read_ns, recorded=True)
    assert 100 <= clocks.age_ms(recorded) < 4000
