"""Measures two ways to do the same job in turns, so that a drift of the machine cancels out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Median seconds of both ways, and the median of the ratios first / second, pair by pair."""

    first_s: float
    second_s: float
    ratio: float
    lowest: float
    highest: float


def timed(job: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def measure_pair(
    first: Callable[[], object], second: Callable[[], object], rounds: int, warm_up: bool = True
) -> Pair:
    """Run both in turn, `rounds` times, after one uncounted turn each; they take turns to start."""
    if warm_up:
        first()
        second()
    firsts, seconds = [], []
    for i in range(rounds):
        if i % 2:
            seconds.append(timed(second))
            firsts.append(timed(first))
        else:
            firsts.append(timed(first))
            seconds.append(timed(second))
    ratios = [a / b for a, b in zip(firsts, seconds, strict=True)]
    return Pair(
        statistics.median(firsts),
        statistics.median(seconds),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )
