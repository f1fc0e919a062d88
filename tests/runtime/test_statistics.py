"""Durations and their percentiles."""

from __future__ import annotations

import pytest

from pipeline.runtime import statistics
from pipeline.runtime.statistics import CAPACITY, Durations


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
