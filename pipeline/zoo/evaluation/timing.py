"""Latency of several calls measured in turns, so that other load affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.inference.processor import available_threads
from pipeline.inference.session import Runtime, open_model
from pipeline.zoo import Report, no_report

_ROUNDS = 40
_WARM_UP = 5


class PairedTiming(NamedTuple):
    """Milliseconds per call of two models; `speedup` is the median ratio."""

    threads: int
    float32_ms: float
    int8_ms: float
    speedup: float


def interleaved_ms(
    calls: Sequence[Callable[[], object]], rounds: int, report: Report = no_report
) -> npt.NDArray[np.float64]:
    """Return the milliseconds (rounds, n) of n calls that are made in turns."""
    times = np.empty((rounds, len(calls)))
    for number, row in enumerate(times, start=1):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            row[index] = 1e3 * (time.perf_counter() - start)
        report("timing", number, rounds)
    return times


def measure_speed(float32: Path, int8: Path) -> list[PairedTiming]:
    """Time the bare calls of both models, on one core and on all cores."""
    return [_pair(float32, int8, threads) for threads in sorted({1, available_threads()})]


def _pair(float32: Path, int8: Path, threads: int) -> PairedTiming:
    first, second = (open_model(path, runtime=Runtime(threads=threads)) for path in (float32, int8))
    entry = first.spec.input
    pixels = np.random.default_rng(0).integers(
        0, 256, (1, entry.height, entry.width, 3), dtype=np.uint8
    )
    calls = [lambda: first.run(pixels), lambda: second.run(pixels)]
    times = interleaved_ms(calls, _ROUNDS)[_WARM_UP:]
    float_ms, int8_ms = (float(value) for value in np.median(times, axis=0))
    return PairedTiming(threads, float_ms, int8_ms, float(np.median(times[:, 0] / times[:, 1])))
