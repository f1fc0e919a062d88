"""Ages, counts and percentiles of a run."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.runtime import statistics
from pipeline.runtime.statistics import CAPACITY, CameraClocks, Durations, FrameCounts
from pipeline.source import Source
from pipeline.types import UNKNOWN_NS, ClockOffset, Frame, Header


def test_durations_keep_a_bounded_window_and_the_largest_of_all():
    durations = Durations()
    durations.add(1e6)
    for value in range(CAPACITY):
        durations.add(float(value))
    assert len(durations) == CAPACITY + 1
    assert durations.max_ms == 1e6
    p50, p95, p99 = durations.percentiles()
    assert p50 == pytest.approx((CAPACITY - 1) / 2)
    assert p50 < p95 < p99 < CAPACITY


def test_durations_without_records_have_no_percentiles_and_are_shown_as_zeros():
    assert Durations().percentiles() is None
    assert Durations().as_dict("_ms") == {"p50_ms": 0.0, "p95_ms": 0.0, "p99_ms": 0.0}


def test_durations_older_than_the_window_do_not_count(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(statistics.time, "monotonic", lambda: now_s)
    durations = Durations(window_s=10.0)
    durations.add(5.0)
    now_s = 109.0
    durations.add(7.0)
    assert durations.percentiles() == pytest.approx((6.0, 6.9, 6.98))
    now_s = 111.0
    assert durations.percentiles() == pytest.approx((7.0, 7.0, 7.0))
    now_s = 120.0
    assert durations.percentiles() is None


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


def in_flight(frame_counts):
    counts = frame_counts.as_dict()
    return counts["captured"] - counts["processed"] - counts["dropped"] - counts["failed"]


def test_frames_in_flight_at_the_end_count_as_dropped_and_later_ones_not_at_all():
    counts = FrameCounts()
    for outcome in ("captured", "captured", "captured", "processed", "failed"):
        counts.add(outcome)
    assert in_flight(counts) == 1
    counts.settle()
    assert in_flight(counts) == 0
    assert counts["dropped"] == 1
    counts.add("dropped")  # a thread that was left behind returns
    assert in_flight(counts) == 0


def test_counts_of_several_threads_add_up():
    counts, start = FrameCounts(), threading.Barrier(4)

    def count():
        start.wait()
        for _ in range(2000):
            counts.add("captured")
            counts.add("processed")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.as_dict() == {"captured": 8000, "processed": 8000, "dropped": 0, "failed": 0}
