"""Ages by the clock that stamped the frames."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from pipeline.runtime.stamps import UNKNOWN_NS, StampClock

SECOND = 1_000_000_000


@dataclass
class Ahead:
    offset_ns: int
    error_ns: int


class Elsewhere:
    """A source whose cameras have clocks of their own."""

    def clock_of(self, camera):
        known = {
            "ahead": Ahead(5 * SECOND, 2_000_000),
            "near": Ahead(0, 500_000),
            "passed on": Ahead(-SECOND, UNKNOWN_NS + 500_000),
        }
        return known.get(camera)


def test_a_frame_is_as_old_as_the_clock_says_that_stamped_it():
    clock = StampClock(Elsewhere())
    stamp_ns = time.time_ns() + 5 * SECOND - 100_000_000
    assert 100 <= clock.age_ms("ahead", stamp_ns) < 4000
    assert clock.error() == {"error": 2.0}


def test_the_error_is_the_largest_of_all_cameras():
    clock = StampClock(Elsewhere())
    for camera in ("near", "ahead"):
        clock.age_ms(camera, 0)
    assert clock.error() == {"error": 2.0}


@pytest.mark.parametrize("camera", ["unknown", "passed on"])
def test_a_clock_that_is_not_known_is_said_to_be_so(camera):
    clock = StampClock(Elsewhere())
    assert 0 <= clock.age_ms(camera, time.time_ns()) < 1000
    assert clock.error() == {"error": None}


def test_of_a_source_in_this_process_nothing_is_uncertain():
    assert StampClock(object()).error() == {}
