"""Counts of frames by outcome."""

from __future__ import annotations

import threading

from pipeline.runtime.frame_counts import FrameCounts


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
